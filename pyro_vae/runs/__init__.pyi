from .run import Run as Run
from .run import load as load
