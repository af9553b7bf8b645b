"""Training steps: loss and terms, gradient, optimizer; run as recorded graphs, or eagerly where they cannot be."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pyro_vae.errors import first_line
from pyro_vae.objectives.base import Objective
from pyro_vae.programs.handlers import KLWeighted, RankNoise
from pyro_vae.programs.program import Program
from pyro_vae.recording import Mode, NotRecordable, Recording
from pyro_vae.training.averages import WeightEMA

logger = logging.getLogger(__name__)


class Step(nn.Module):
    """An objective applied to a pair of programs: ``step(**batch)`` gives the loss and a row of terms.

    Args:
        model, guide: the programs.
        objective: what is minimized.
        kl_weight: live weight of the latent sites (None: not weighted).
        rank, world: this process among data-parallel ones.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        objective: Objective,
        kl_weight: Tensor | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__()
        self.objective, self.averages, self.networks = objective, objective.averages, objective.networks
        self.names: list[str] = []
        objective.of_process(rank, world)
        self.model: nn.Module = model if kl_weight is None else KLWeighted(model, kl_weight)
        if world > 1:
            guide = _WithRankNoise(guide, rank, world, objective)  # pyright: ignore[reportAssignmentType]
        self.guide: nn.Module = guide if kl_weight is None else KLWeighted(guide, kl_weight, of_guide=True)

    def forward(self, **batch: Any) -> tuple[Tensor, Tensor]:
        """What is differentiated (scalar), and the terms ``(len(self.names),)``, detached; the loss is the first.

        The losses of the objective's own networks are added to the pair's: no weight has a gradient of both.
        """
        terms = self.objective.terms(self.model, self.guide, **batch)
        named = terms.named()
        self.names = list(named)
        return sum(terms.network_loss.values(), terms.loss), torch.stack(list(named.values()))

    @property
    def programs(self) -> nn.ModuleDict:
        """Model and guide, without the objective's networks."""
        return nn.ModuleDict({"model": self.model, "guide": self.guide})


class NetworkStep(nn.Module):
    """The losses of an objective's own networks alone, for the updates that these have more than the pair.

    Args:
        step: of the pair.
    """

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step
        self.names: list[str] = []

    @property
    def trained(self) -> bool:
        """Whether a callback has left anything to train."""
        return any(parameter.requires_grad for parameter in self.step.networks.parameters())

    def forward(self, **batch: Any) -> tuple[Tensor, Tensor]:
        """The sum of the losses, and each of them."""
        losses = self.step.objective.terms(self.step.model, self.step.guide, **batch).network_loss
        self.names = list(losses)
        values = torch.stack(list(losses.values()))
        return values.sum(), values.detach()


class _WithRankNoise(nn.Module):
    def __init__(self, program: nn.Module, rank: int, world: int, objective: Objective) -> None:
        super().__init__()
        self.program = program
        self.noise = (rank, world, objective.num_particles, -(objective.nesting + 1))

    def forward(self, **batch: Any) -> Any:
        with RankNoise(*self.noise):
            return self.program(**batch)


GRAPH_FROM, FULL_FROM = 200, 20_000  # steps: a recording saves about a millisecond each, the compiler up to one more


class CompiledStep:
    """A step's value, or its value and gradient, by recorded graphs; one recording for each shape of batch.

    A recording is checked once against the eager step before it is used. What cannot be recorded runs eagerly, and one
    line in the log says why. In mode ``full`` the first shape of batch is compiled, of each set of weights that move;
    others (the last batch of an epoch) run as graphs.

    Args:
        fabric: precision and distribution.
        step: the step, not wrapped by Fabric.
        mode: off, graph or full.
        differentiate: compute gradients, of the parameters ``trained``.
        eager: what computes loss and terms where there is no recording, and averages gradients over processes; the step
            itself if not given.
        prepare: makes the step's batch from what calls are given (binarization); it is recorded with the step.
    """

    def __init__(
        self,
        fabric: Fabric,
        step: Step | NetworkStep,
        mode: Mode,
        *,
        differentiate: bool,
        eager: Callable[..., tuple[Tensor, Tensor]] | None = None,
        prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    ) -> None:
        self.fabric, self.step, self.mode, self.differentiate = fabric, step, mode, differentiate
        self._eager = eager if eager is not None else self.forward
        self._alone = eager is None
        self._prepare = prepare
        self._recordings: dict[tuple, Recording | None] = {}
        self._refused = False
        self.trained = [p for p in step.parameters() if p.requires_grad]
        if mode != "off" and fabric.strategy.precision.precision == "16-mixed":
            self._refuse("precision 16-mixed scales its gradients by what it sees in them")

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The row of terms, on the device; afterwards the parameters hold their gradients, if it differentiates."""
        recording = self.recording(batch)
        if recording is None:
            return self._eagerly(batch)
        (_, row), gradients = recording(batch)
        if self.differentiate:
            for i in self.frozen:
                self.trained[i].grad = None
            for parameter, gradient in zip((p for p in self.trained if p.requires_grad), gradients, strict=True):
                parameter.grad = gradient
            if self.fabric.world_size > 1:
                self._average_gradients()
        return row

    def recording(self, batch: Mapping[str, Tensor]) -> Recording | None:
        """The recording for batches of this shape, made if it is the first of them; None if it runs eagerly."""
        if self.mode == "off" or self._refused:
            return None
        key = (self.step.training, self.frozen, *((k, v.shape, v.dtype) for k, v in batch.items()))
        if key not in self._recordings:
            self._recordings[key] = self._record(batch)
        return self._recordings[key]

    @property
    def frozen(self) -> tuple[int, ...]:
        """Which of the parameters ``trained`` a callback has frozen since: a recording is of the others."""
        return tuple(i for i, parameter in enumerate(self.trained) if not parameter.requires_grad)

    def _eagerly(self, rows: Mapping[str, Tensor]) -> Tensor:
        batch = self._prepare(dict(rows))
        if not self.differentiate:
            with torch.no_grad():
                return self._eager(**batch)[1]
        for parameter in self.trained:
            parameter.grad = None
        loss, row = self._eager(**batch)
        self.fabric.backward(loss)
        if self._alone and self.fabric.world_size > 1:
            self._average_gradients()
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
        compiled = self.mode == "full" and not any(key[1] == self.frozen for key in self._recordings)
        try:
            recording = Recording(self.step, self._recorded, batch, self.differentiate)
            recording.check(batch, self._tolerance)
            recorded = time.monotonic() - started
        except NotRecordable as error:
            reason = str(error)
        if self.fabric.world_size > 1 and not self._all(not reason):
            reason = reason or "another process cannot record it"
        if reason:
            self._refuse(reason)
            return None
        assert recording is not None
        what = self._what
        shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in batch.items())
        note = f"{what} step recorded for {shapes}: {len(recording.graph.graph.nodes)} operations, {recorded:.1f} s"  # pyright: ignore[reportPossiblyUnboundVariable]
        if compiled:
            note += recording.compile(batch, self._tolerance)
        logger.info(note)
        return recording

    def _refuse(self, reason: str) -> None:
        self._refused = True
        logger.warning("%s steps run eagerly, they cannot be recorded: %s", self._what, reason)

    @property
    def _what(self) -> str:
        if isinstance(self.step, NetworkStep):
            return "network"
        return "training" if self.differentiate else "validation"

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
        gradients = [p.grad for p in self.trained if p.grad is not None]
        joint = torch.cat([g.flatten() for g in gradients])
        joint = self.fabric.all_reduce(joint, reduce_op="mean")
        parts = joint.split([g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])
        for buffer in self.step.buffers():
            torch.distributed.broadcast(buffer, 0)


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
        accumulating: whether an update is made of several batches; such steps are not captured.
        networks: the optimizer of the objective's own networks, as Fabric has set it up, or None; the gradient of one
            of its updates is computed with the pair's.
        alone: computes the gradient of these networks alone, once for each further update in a step; updates: how many
            there are in all.
    """

    def __init__(
        self,
        fabric: Fabric,
        gradient: CompiledStep,
        optimizer: Any,
        module: Any,
        clip_norm: float | None = None,
        ema: WeightEMA | None = None,
        accumulating: bool = False,
        networks: Any = None,
        alone: CompiledStep | None = None,
        updates: int = 1,
    ) -> None:
        self.fabric, self.gradient, self.optimizer, self.module = fabric, gradient, optimizer, module
        self.networks, self.alone, self.updates = networks, alone, updates
        self.clip_norm, self.ema = clip_norm, ema
        self._captures: dict[tuple[Any, ...], _Capture] = {}
        self._sums: list[Tensor | None] = []
        self._captured_options: list[Any] = []
        self._capturing = fabric.device.type == "cuda" and fabric.world_size == 1 and gradient.mode != "off"
        if self._capturing and accumulating:
            self._stay_uncaptured("gradients are summed over several batches")
        elif self._capturing and not all(isinstance(group.get("lr"), Tensor) for group in self._groups):
            self._stay_uncaptured("the optimizer's learning rates are no tensors, or it has no form for captures")

    @property
    def _groups(self) -> list[dict[str, Any]]:
        """Those of both optimizers."""
        return [*self.optimizer.param_groups, *(self.networks.param_groups if self.networks is not None else ())]

    def _stay_uncaptured(self, reason: str) -> None:
        self._capturing = False
        logger.warning("training steps are not captured as a CUDA graph: %s", reason)

    def __call__(
        self,
        batch: Mapping[str, Tensor],
        rates: Sequence[float] | None,
        of_networks: Sequence[float] | None = None,
        part: float = 1.0,
        complete: bool = True,
    ) -> Tensor:
        """One batch; returns the row of terms, on the device.

        Args:
            batch: its data.
            rates: learning rate of each of the optimizer's groups; None: as they are.
            of_networks: of each group of the networks' optimizer.
            part: of the update's gradient that is this batch's, by its number of data.
            complete: whether it is the last batch of its update.
        """
        for optimizer, wanted in ((self.optimizer, rates), (self.networks, of_networks)):
            for group, rate in zip(optimizer.param_groups, wanted, strict=True) if wanted is not None else ():
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
        if not (part == 1.0 and complete):
            return self._accumulate(batch, part, complete)
        if not self._capturing or self.gradient.recording(batch) is None or self._options_have_changed():
            return self._update(batch)
        key = (self.gradient.frozen, *((k, v.shape, v.dtype) for k, v in batch.items()))
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
                self._stay_uncaptured(first_line(error))
                return self._update(batch)
        return capture.replay(batch)

    def _options_have_changed(self) -> bool:
        """A capture repeats the optimizer's numbers: it is of no use once a scheduler has set one (a momentum)."""
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self._groups]
        options = [(k, id(v) if isinstance(v, Tensor) else v) for group in groups for k, v in group.items()]
        changed = bool(self._captures) and options != self._captured_options
        self._captured_options = options
        if changed:
            self._stay_uncaptured("a scheduler sets other numbers of the optimizer than its learning rates")
        return changed

    def _update(self, batch: Mapping[str, Tensor]) -> Tensor:
        for _ in range(self.updates - 1 if self.alone is not None and self.alone.step.trained else 0):
            self.alone(batch)
            self.networks.step()
        row = self.gradient(batch)
        self._move()
        return row

    def _accumulate(self, batch: Mapping[str, Tensor], part: float, complete: bool) -> Tensor:
        """Add a batch's part to the gradient of its update, and make the update if that is whole."""
        row, parameters = self.gradient(batch), self.gradient.trained
        gradients = [None if p.grad is None else p.grad.detach() * part for p in parameters]
        sums = self._sums or [None] * len(gradients)
        self._sums = [b if a is None else a if b is None else a + b for a, b in zip(sums, gradients, strict=True)]
        if complete:
            for parameter, total in zip(parameters, self._sums, strict=True):
                parameter.grad = total
            self._sums = []
            self._move()
        return row

    def _move(self) -> None:
        if self.clip_norm is not None:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=self.clip_norm, error_if_nonfinite=False)
        self.optimizer.step()
        if self.networks is not None:
            self.networks.step()
        if self.ema is not None:
            self.ema.update()


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
