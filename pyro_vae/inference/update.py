"""One whole training step: gradient, clipping, optimizer, moving average."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from pyro_vae.inference.compiled import CompiledStep
from pyro_vae.inference.ema import WeightEMA
from pyro_vae.recording.reasons import first_line

logger = logging.getLogger(__name__)

WARM_UP = 3  # steps of a shape before it is captured: libraries allocate their workspaces, the optimizer its state


class Update:
    """A training step that updates the weights.

    On one GPU, where the gradient is recorded, the whole step is captured as a CUDA graph and replayed: the batch is
    copied into a fixed place, the learning rate is a tensor, random numbers are fresh at every replay. The first steps
    of each batch shape run uncaptured. If capture fails, one line in the log says why and the steps stay uncaptured.

    Args:
        fabric: device and distribution.
        gradient: computes loss terms and gradients.
        optimizer: as Fabric has set it up.
        module: whose gradient is clipped, as Fabric has set it up.
        clip_norm: largest gradient norm, or None.
        ema: moving average of the weights, or None.
    """

    def __init__(
        self,
        fabric: Fabric,
        gradient: CompiledStep,
        optimizer: Any,
        module: Any,
        clip_norm: float | None = None,
        ema: WeightEMA | None = None,
    ) -> None:
        self.fabric, self.gradient, self.optimizer, self.module = fabric, gradient, optimizer, module
        self.clip_norm, self.ema = clip_norm, ema
        self._captures: dict[tuple, _Capture] = {}
        rates = [group["lr"] for group in optimizer.param_groups]
        self._capturing = fabric.device.type == "cuda" and fabric.world_size == 1
        self._capturing &= all(isinstance(rate, Tensor) for rate in rates)

    def __call__(self, batch: Mapping[str, Tensor], rate: float) -> Tensor:
        """One step at a learning rate; returns the row of terms, on the device."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if not self._capturing or self.gradient.recording(batch) is None:
            return self._update(batch)
        key = tuple((k, v.shape, v.dtype) for k, v in batch.items())
        if key not in self._captures:
            self._captures[key] = _Capture(batch)
        capture = self._captures[key]
        if capture.graph is None and capture.calls < WARM_UP:
            capture.calls += 1
            return capture.beside(lambda: self._update(batch))
        if capture.graph is None:
            try:
                capture.record(self._update)
                logger.info("whole training step captured as a CUDA graph")
            except RuntimeError as error:
                self._capturing = False
                logger.warning("training steps are not captured as a CUDA graph: %s", first_line(error))
                return self._update(batch)
        return capture.replay(batch)

    def _update(self, batch: Mapping[str, Tensor]) -> Tensor:
        row = self.gradient(batch)
        if self.clip_norm is not None:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=self.clip_norm, error_if_nonfinite=False)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update()
        return row


class _Capture:
    """A step of one batch shape as a CUDA graph, with the fixed places of its batch and its row of terms."""

    def __init__(self, batch: Mapping[str, Tensor]) -> None:
        self.batch = {k: v.clone() for k, v in batch.items()}
        self.graph: torch.cuda.CUDAGraph | None = None
        self.row: Tensor | None = None
        self.calls = 0

    def beside(self, run: Any) -> Tensor:
        """Run on a side stream, as must be before a capture."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            row = run()
        torch.cuda.current_stream().wait_stream(stream)
        row.record_stream(torch.cuda.current_stream())
        return row

    def record(self, update: Any) -> None:
        """Capture the operations of a step; nothing is computed."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.row = update(self.batch)
        self.graph = graph

    def replay(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The step for a batch."""
        assert self.graph is not None and self.row is not None
        for name, value in batch.items():
            self.batch[name].copy_(value)
        self.graph.replay()
        return self.row.clone()
