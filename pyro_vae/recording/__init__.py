"""Functions recorded as graphs of tensor operations, so that Pyro's handlers run once."""

from pyro_vae.recording.graph import Compile, Mode, NotRecordable, Outputs, Recording, choose_mode
from pyro_vae.recording.tensors import expanded_along, forget, is_recorded, seen_by

__all__ = [
    "Compile",
    "Mode",
    "NotRecordable",
    "Outputs",
    "Recording",
    "choose_mode",
    "expanded_along",
    "forget",
    "is_recorded",
    "seen_by",
]
