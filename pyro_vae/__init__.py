"""Variational autoencoders as pairs of Pyro programs: a model p(x, z) and a guide q(z | x)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
