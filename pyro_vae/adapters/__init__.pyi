from .modules import from_modules as from_modules
from .pythae_directory import from_pythae as from_pythae
