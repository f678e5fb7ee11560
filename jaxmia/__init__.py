"""jaxmia: could someone tell from the released model whether a given person was in the training data?

The public names and their modules stand in __init__.pyi, for editors, type checkers and Python alike. Each loads when
first used, so that importing jaxmia costs no more than what is used of it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
