"""Functions of batches, run by their recordings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from pyro_vae.recording import Mode, NotRecordable, Outputs, Recording, expanded_along

logger = logging.getLogger(__name__)


class Recorder:
    """Runs functions of tensors by graphs, recorded once for each function and for each shape and type of inputs.

    What cannot be recorded runs eagerly, it and all that comes after it, and one line in the log says why.

    Args:
        who: what runs eagerly if it cannot be recorded, for the log: "log_likelihood", "chunks".
        module: owns all parameters that the functions use.
        mode: off: eagerly; graph: recorded; full: the first recording of each name is compiled as well.
    """

    def __init__(self, who: tuple[str, str], module: nn.Module, mode: Mode = "off") -> None:
        self.who, self.module, self.mode = who, module, mode
        self._recordings: dict[tuple, Recording | None] = {}

    def __call__(self, name: str, function: Callable[..., Outputs], inputs: Mapping[str, Tensor]) -> Outputs:
        """The function's outputs.

        Args:
            name: of the function. Besides the inputs it may depend on what is the same for all calls of one name with
                inputs of the same shapes.
            function: of tensors by name.
            inputs: the tensors.
        """
        if self.mode == "off":
            return function(**inputs)
        key = (name, *((key, value.shape, value.dtype, expanded_along(value)) for key, value in inputs.items()))
        if key not in self._recordings:
            self._recordings[key] = self._record(name, function, inputs)
        recording = self._recordings[key]
        return function(**inputs) if recording is None else recording(inputs)[0]

    def _record(self, name: str, function: Callable[..., Outputs], inputs: Mapping[str, Tensor]) -> Recording | None:
        try:
            recording = Recording(self.module, function, inputs, differentiate=False)
            recording.check(inputs, 1e-4)
            if self.mode == "full" and not any(key[0] == name for key in self._recordings):
                recording.compile(inputs, 1e-4)
            return recording
        except NotRecordable as error:
            self.mode = "off"
            logger.warning("%s runs eagerly, its %s cannot be recorded: %s", *self.who, error)
            return None
