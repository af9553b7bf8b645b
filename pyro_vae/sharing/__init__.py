"""Runs on a hub of models: pushed with a card that tells what was measured, pulled without trust."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
