"""Datasets by name, as splits of tensors with batches and binarization."""

from pyro_vae.data.binarize import binarize
from pyro_vae.data.catalogue import dataset_names
from pyro_vae.data.data import Data, as_data, held_out
from pyro_vae.data.datasets import load_data
from pyro_vae.data.scenes import Scenes
from pyro_vae.data.sound import Sound
from pyro_vae.data.split import Split
from pyro_vae.data.text import with_text
from pyro_vae.data.tokenizer import Tokenizer

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
