"""jaxmia: could someone tell from the released model whether a given person was in the training data?

__init__.pyi lists the public names and their modules, for editors, type checkers and Python. Each name loads when it is
first used, so importing jaxmia is fast.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
