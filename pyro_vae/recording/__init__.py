"""Functions recorded as graphs of tensor operations, so that Pyro's handlers run once."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
