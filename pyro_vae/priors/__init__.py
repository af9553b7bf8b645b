"""Learned priors, over codes and over real latents: modules that give a distribution."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
