"""Figures from any pair of Pyro programs, drawn without pyplot's global state."""

import lazy_loader

from pyro_vae.plots import without_matplotlibrc  # noqa: F401

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
