"""Many trainings of one recipe: over seeds and settings, in processes of their own, measured and compared."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
