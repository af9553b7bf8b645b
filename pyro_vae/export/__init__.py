"""Trained pairs as files that other programs run: encoder, decoder and sampler."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
