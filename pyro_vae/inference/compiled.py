"""Steps that run as recorded graphs, and eagerly where they cannot."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import torch
from lightning_fabric import Fabric
from torch import Tensor

from pyro_vae.inference.step import Step
from pyro_vae.recording import Mode, NotRecordable, Recording

logger = logging.getLogger(__name__)

GRAPH_FROM, FULL_FROM = 200, 20_000  # steps: a recording saves about a millisecond each, the compiler up to one more


class CompiledStep:
    """A step's value, or its value and gradient, by recorded graphs; one recording for each shape of batch.

    A recording is checked once against the eager step before it is used. What cannot be recorded runs eagerly, and one
    line in the log says why. In mode ``full`` the first shape of batch is compiled; others (the last batch of an
    epoch) run as graphs.

    Args:
        fabric: precision and distribution.
        step: the step, not wrapped by Fabric.
        mode: off, graph or full.
        differentiate: compute gradients.
        eager: what computes loss and terms where there is no recording; the step itself if not given.
        prepare: makes the step's batch from what calls are given (binarization); it is recorded with the step.
    """

    def __init__(
        self,
        fabric: Fabric,
        step: Step,
        mode: Mode,
        *,
        differentiate: bool,
        eager: Callable[..., tuple[Tensor, Tensor]] | None = None,
        prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    ) -> None:
        self.fabric, self.step, self.mode, self.differentiate = fabric, step, mode, differentiate
        self._eager = eager if eager is not None else self.forward
        self._prepare = prepare
        self._recordings: dict[tuple, Recording | None] = {}
        self._refused = False
        self._trained = [p for p in step.parameters() if p.requires_grad]
        if mode != "off" and fabric.strategy.precision.precision == "16-mixed":
            self._refuse("precision 16-mixed scales its gradients by what it sees in them")

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The row of terms, on the device; afterwards the parameters hold their gradients, if it differentiates."""
        recording = self.recording(batch)
        if recording is None:
            return self._eagerly(batch)
        (_, row), gradients = recording(batch)
        if self.differentiate:
            for parameter, gradient in zip(self._trained, gradients, strict=True):
                parameter.grad = gradient
            if self.fabric.world_size > 1:
                self._average_gradients()
        return row

    def recording(self, batch: Mapping[str, Tensor]) -> Recording | None:
        """The recording for batches of this shape, made if it is the first of them; None if it runs eagerly."""
        if self.mode == "off" or self._refused:
            return None
        key = (self.step.training, *((k, v.shape, v.dtype) for k, v in batch.items()))
        if key not in self._recordings:
            self._recordings[key] = self._record(batch)
        return self._recordings[key]

    def _eagerly(self, rows: Mapping[str, Tensor]) -> Tensor:
        batch = self._prepare(dict(rows))
        if not self.differentiate:
            with torch.no_grad():
                return self._eager(**batch)[1]
        for parameter in self._trained:
            parameter.grad = None
        loss, row = self._eager(**batch)
        self.fabric.backward(loss)
        return row

    def _recorded(self, **rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(**self._prepare(rows))

    def forward(self, **batch: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and row of terms, eagerly, under the precision that training has."""
        precision = self.fabric.strategy.precision
        with precision.forward_context():
            return precision.convert_output(self.step(**precision.convert_input(batch)))

    def _record(self, batch: Mapping[str, Tensor]) -> Recording | None:
        started, reason, recording = time.monotonic(), "", None
        compiled = self.mode == "full" and not self._recordings
        try:
            recording = Recording(self.step, self._recorded, batch, self.differentiate)
            recording.check(batch, self._tolerance)
            recorded = time.monotonic() - started
        except NotRecordable as error:
            reason = self.step.objective.fallback or str(error)
        if self.fabric.world_size > 1 and not self._all(not reason):
            reason = reason or "another process cannot record it"
        if reason:
            self._refuse(reason)
            return None
        assert recording is not None
        what = "training" if self.differentiate else "validation"
        shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in batch.items())
        note = f"{what} step recorded for {shapes}: {len(recording.graph.graph.nodes)} operations, {recorded:.1f} s"
        if compiled:
            note += recording.compile(batch, self._tolerance)
        logger.info(note)
        return recording

    def _refuse(self, reason: str) -> None:
        self._refused = True
        what = "training" if self.differentiate else "validation"
        logger.warning("%s steps run eagerly, they cannot be recorded: %s", what, reason)

    @property
    def _tolerance(self) -> float:
        precision = self.fabric.strategy.precision.precision
        return {"32-true": 1e-4, "64-true": 1e-10}.get(precision, 5e-2)

    def _all(self, ours: bool) -> bool:
        count = self.fabric.all_reduce(torch.tensor(float(ours), device=self.fabric.device), reduce_op="sum")
        return bool(count == self.fabric.world_size)

    @torch.no_grad()
    def _average_gradients(self) -> None:
        """The mean over processes, in one message; as under DDP, buffers are those of the first process."""
        gradients = [p.grad for p in self._trained if p.grad is not None]
        joint = torch.cat([g.flatten() for g in gradients])
        joint = self.fabric.all_reduce(joint, reduce_op="mean")
        parts = joint.split([g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])
        for buffer in self.step.buffers():
            torch.distributed.broadcast(buffer, 0)
