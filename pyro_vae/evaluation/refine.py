"""The best bound that the guide's family can give: its parameters optimized for each datum by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation.recorder import Recorder
from pyro_vae.evaluation.refined import Refined, zero_offsets
from pyro_vae.evaluation.results import mean_and_error
from pyro_vae.evaluation.session import evaluating, positive
from pyro_vae.pair import Pair
from pyro_vae.program import Batch
from pyro_vae.recording import Compile, Outputs, choose_mode
from pyro_vae.traces import log_weights

GRAPH_FROM, FULL_FROM = 200, 20_000  # steps
OFFSET = "offset of "
TOLD = 100  # particles drawn at once when the bounds are measured


@dataclass
class RefinedBound:
    """The ELBO with the guide's parameters as its networks give them, and refined for each datum.

    Attributes:
        amortized, refined: ELBOs, nats, ``(num_data,)``, float64 on the CPU.
        num_steps: of the optimization.
        num_particles: draws that both were measured with.
        split: the name of the data.
    """

    amortized: Tensor
    refined: Tensor
    num_steps: int
    num_particles: int
    split: str = "data"

    @property
    def gain(self) -> tuple[float, float]:
        """Mean of refined - amortized (the amortization gap) and its standard error over data, nats."""
        return mean_and_error(self.refined - self.amortized)

    def to_dict(self) -> dict[str, object]:
        """The summary as plain values, nats."""
        return {
            "amortized": mean_and_error(self.amortized)[0],
            "refined": mean_and_error(self.refined)[0],
            "gain": self.gain[0],
            "gain_standard_error": self.gain[1],
            "num_steps": self.num_steps,
            "num_particles": self.num_particles,
            "num_data": len(self.refined),
            "split": self.split,
        }


def refine(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data | Split | Mapping[str, Tensor] | Tensor,
    *,
    num_steps: int = 500,
    learning_rate: float = 0.03,
    step_particles: int = 8,
    num_particles: int = 1000,
    batch_size: int = 100,
    max_plate_nesting: int = 1,
    seed: int = 0,
    device: str | torch.device | None = None,
    compile: Compile = "auto",
    progress: bool = False,
) -> RefinedBound:
    r"""Maximize the ELBO of each datum over the parameters of its own posterior, from where the guide has them.

    .. math:: \max_{\delta_i} E_{q_{\delta_i}} [\log p(x_i, z) - \log q_{\delta_i}(z)]

    with the shifts of :class:`~pyro_vae.evaluation.refined.Refined`, by Adam with a rate that falls to zero; the
    shifts are averaged over the last half of the steps. The networks stay as they are.

    Args:
        model, guide: Pyro programs whose per-datum sites are in a plate at dim -1.
        data: as for :func:`~pyro_vae.evaluation.log_likelihood`.
        num_steps: of the optimization.
        learning_rate: at first.
        step_particles: draws per datum in a step.
        num_particles: fresh draws per datum that both bounds are measured with.
        batch_size: data refined at once.
        max_plate_nesting: batch dimensions of the programs' own plates.
        seed: of all draws; the global random state is left as it was.
        device: where to; the programs' device if None.
        compile: as for :func:`~pyro_vae.evaluation.log_likelihood`.
        progress: show a bar.

    Returns:
        both bounds per datum, nats.

    Raises:
        InputError: for numbers that are not positive, and latents that cannot be refined.

    Source: Cremer et al. 2018, arXiv:1801.03558.
    """
    numbers = {"num_steps": num_steps, "step_particles": step_particles, "batch_size": batch_size}
    for name, value in {**numbers, "num_particles": num_particles}.items():
        positive(name, value)
    if not learning_rate > 0:
        raise InputError(f"learning_rate must be positive, got {learning_rate}")
    amortized, refined = [], []
    with evaluating(model, guide, data, seed, device, max_plate_nesting=max_plate_nesting) as (pair, split):
        refiner, batch_size = _Refiner(pair, step_particles), pair.batch_size(batch_size)
        steps = num_steps * math.ceil(len(split) / batch_size)
        refiner.recorder.mode = choose_mode(compile, steps, graph_from=GRAPH_FROM, full_from=FULL_FROM)
        with tqdm(total=steps, unit="step", disable=not progress) as bar:
            for batch in split.batches(batch_size):
                offsets = zero_offsets(pair.traces(batch))
                amortized.append(refiner.bound(batch, offsets, num_particles))
                offsets = refiner.optimized(batch, offsets, num_steps, learning_rate, bar)
                refined.append(refiner.bound(batch, offsets, num_particles))
    return RefinedBound(torch.cat(amortized).cpu(), torch.cat(refined).cpu(), num_steps, num_particles, split.name)


class _Refiner:
    def __init__(self, pair: Pair, step_particles: int) -> None:
        self.pair, self.step_particles = pair, step_particles
        self.recorder = Recorder(("refine", "steps"), nn.ModuleList([pair.model, pair.guide]))

    def optimized(
        self, batch: Batch, offsets: dict[str, Tensor], num_steps: int, learning_rate: float, bar: tqdm
    ) -> dict[str, Tensor]:
        """The offsets after optimization, averaged over the last half of the steps."""
        values = {name: nn.Parameter(value) for name, value in offsets.items()}
        mean = {name: torch.zeros_like(value) for name, value in offsets.items()}
        optimizer = torch.optim.Adam(values.values(), lr=learning_rate)
        half = num_steps // 2
        for step in range(num_steps):
            optimizer.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / num_steps))
            given = {f"{OFFSET}{name}": value.detach() for name, value in values.items()}
            gradients = self.recorder("gradients", self._gradients, {**given, **batch})
            for value, gradient in zip(values.values(), gradients, strict=True):
                value.grad = gradient
            optimizer.step()
            if step >= half:
                for name, value in values.items():
                    mean[name] += value.detach() / (num_steps - half)
            bar.update()
        return mean

    def bound(self, batch: Batch, offsets: dict[str, Tensor], num_particles: int) -> Tensor:
        """The ELBO with these offsets, ``(N,)`` float64."""
        total, drawn = torch.zeros((), dtype=torch.float64), 0
        while drawn < num_particles:
            count = min(TOLD, num_particles - drawn)
            total = total.to(batch["x"].device) + self._log_weights(batch, offsets, count).double().sum(0)
            drawn += count
        return total / num_particles

    def _log_weights(self, batch: Batch, offsets: Mapping[str, Tensor], count: int) -> Tensor:
        pair = replace(self.pair, guide=Refined(offsets)(self.pair.guide))
        return log_weights(pair.traces(batch, count), scaled=False)

    def _gradients(self, **given: Tensor) -> Outputs:
        """Gradients of the negative bound with respect to the offsets."""
        batch = {name: value for name, value in given.items() if not name.startswith(OFFSET)}
        with torch.enable_grad():
            offsets = {
                name.removeprefix(OFFSET): value.detach().requires_grad_()
                for name, value in given.items()
                if name.startswith(OFFSET)
            }
            loss = -self._log_weights(batch, offsets, self.step_particles).mean(0).sum()
            return torch.autograd.grad(loss, list(offsets.values()))
