"""Text to image: candidates drawn for a text, scorers that rank them, and whether images show what the text says."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
