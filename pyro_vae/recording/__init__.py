"""Functions recorded as graphs of tensor operations, so that Pyro's handlers run once."""

from pyro_vae.recording.graph import NotRecordable, Outputs, Recording
from pyro_vae.recording.mode import Compile, Mode, choose_mode

__all__ = ["Compile", "Mode", "NotRecordable", "Outputs", "Recording", "choose_mode"]
