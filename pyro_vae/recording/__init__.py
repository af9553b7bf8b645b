"""Functions recorded as graphs of tensor operations, so that Pyro's handlers run once."""

from pyro_vae.recording.caches import forget, seen_by
from pyro_vae.recording.graph import NotRecordable, Outputs, Recording
from pyro_vae.recording.mode import Compile, Mode, choose_mode
from pyro_vae.recording.tensors import expanded_along, is_recorded

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
