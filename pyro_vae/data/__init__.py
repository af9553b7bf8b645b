"""Datasets by name, as splits of tensors with batches and binarization."""

from pyro_vae.data.binarize import binarize
from pyro_vae.data.dataset import Data, as_data, held_out
from pyro_vae.data.registry import dataset_names, load_data
from pyro_vae.data.scenes import Scenes
from pyro_vae.data.sound import Sound
from pyro_vae.data.split import Split
from pyro_vae.data.tokenizer import Tokenizer, with_text

__all__ = [
    "Data",
    "Scenes",
    "Sound",
    "Split",
    "Tokenizer",
    "as_data",
    "binarize",
    "dataset_names",
    "held_out",
    "load_data",
    "with_text",
]
