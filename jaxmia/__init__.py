"""jaxmia: could someone tell from the released model whether a given person was in the training data?"""
