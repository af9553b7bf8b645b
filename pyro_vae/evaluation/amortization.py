"""Guides refined for each datum, and the gap between ELBO and log p(x) in its parts."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to
from tqdm.auto import tqdm

from pyro_vae.data import DataLike, held_out
from pyro_vae.errors import InputError, positive
from pyro_vae.evaluation.annealing.ais import ais
from pyro_vae.evaluation.annealing.results import LikelihoodGap, RefinedBound
from pyro_vae.evaluation.chunks import MEMORY_BUDGET, Recorder
from pyro_vae.evaluation.importance import log_likelihood
from pyro_vae.programs.context import X
from pyro_vae.programs.densities import log_weights
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.program import Batch
from pyro_vae.programs.session import evaluating
from pyro_vae.programs.sites import innermost, rewrapped
from pyro_vae.programs.traces import TracePair
from pyro_vae.recording import Compile, Outputs, choose_mode

Offsets = Mapping[str, Tensor]  # by "site: parameter", (*inner, N, *event) unconstrained


class RefinedGuide(Messenger):
    r"""Shifts the parameters of a guide's distributions, in unconstrained coordinates.

    .. math:: \theta_i \leftarrow T\bigl(T^{-1}(\theta_i) + \delta_i\bigr)

    for each parameter of each latent site (``loc``, ``scale``, …) and datum i, with T the transform onto the
    parameter's values. A guide whose sites depend on one another keeps its dependence; what is shifted is what its
    networks give.

    Args:
        offsets: delta.
    """

    def __init__(self, offsets: Offsets) -> None:
        super().__init__()
        self.offsets = offsets

    def _pyro_sample(self, msg: Any) -> None:
        own = {k.partition(": ")[2]: v for k, v in self.offsets.items() if k.partition(": ")[0] == msg["name"]}
        if own and not msg["is_observed"]:
            msg["fn"] = _shifted(msg["fn"], own)


def zero_offsets(pair: TracePair) -> dict[str, Tensor]:
    """Offsets of zero for every parameter of every latent site of the guide.

    Args:
        pair: traces with one particle.

    Raises:
        InputError: for a site whose distribution cannot be differentiated through its draws, or has no parameters
            that are known and leave its support as it is.
    """
    offsets = {}
    for name, (q, _) in pair.latent().items():
        base = innermost(q["fn"])
        taken = _parameters(base)
        if not q["fn"].has_rsample or not taken or any(_moves(base.arg_constraints[p]) for p in taken):
            raise InputError(
                f"latent site '{name}': the guide's {type(base).__name__} cannot be refined: that takes a distribution "
                "with reparameterized draws, and with parameters that leave its support as it is, such as Normal"
            )
        for parameter, value in taken.items():
            unconstrained = transform_to(base.arg_constraints[parameter]).inv(value)
            offsets[f"{name}: {parameter}"] = torch.zeros_like(unconstrained, memory_format=torch.contiguous_format)
    return offsets


def _shifted(fn: Any, offsets: Mapping[str, Tensor]) -> Any:
    """A distribution, inside its wrappers, with other parameters."""

    def shifted(base: Any) -> Any:
        values = {}
        for name, value in _parameters(base).items():
            transform = transform_to(base.arg_constraints[name])
            unconstrained = transform.inv(value)
            values[name] = transform(unconstrained + _repeated_to(offsets[name], unconstrained.shape))
        return type(base)(**values, validate_args=False)

    return rewrapped(fn, shifted)


def _repeated_to(offset: Tensor, shape: torch.Size) -> Tensor:
    """Offsets of N data for tensors in which each datum is repeated."""
    for dim in range(-offset.dim(), 0):
        size, wanted = offset.shape[dim], shape[dim]
        if size not in (1, wanted):
            offset = offset.repeat_interleave(wanted // size, dim)
    return offset


def _moves(constraint: Any) -> bool:
    """Whether what a parameter may be depends on other parameters, as of the ends of an interval, or of a point."""
    ends = (getattr(constraint, name, None) for name in ("lower_bound", "upper_bound"))
    return constraints.is_dependent(constraint) or any(isinstance(end, Tensor) for end in ends)


def _parameters(fn: Any) -> dict[str, Tensor]:
    """The parameters that a distribution was made of."""
    taken = inspect.signature(type(fn).__init__).parameters
    names = [name for name in fn.arg_constraints if name in taken]
    given = [
        name for name in names if name in vars(fn)
    ] or names  # of alternatives (covariance, precision) the given one
    return {name: getattr(fn, name) for name in given}


GRAPH_FROM, FULL_FROM = 200, 20_000  # steps
OFFSET = "offset of "
DRAWN_AT_ONCE = 100  # particles drawn at once when the bounds are measured


def refine(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    num_steps: int = 500,
    learning_rate: float = 0.03,
    step_particles: int = 8,
    num_particles: int = 1000,
    batch_size: int = 100,
    seed: int = 0,
    device: str | torch.device | None = None,
    compile: Compile = "auto",
    progress: bool = False,
) -> RefinedBound:
    r"""Maximize the ELBO of each datum over the parameters of its own posterior, from where the guide has them.

    .. math:: \max_{\delta_i} E_{q_{\delta_i}} [\log p(x_i, z) - \log q_{\delta_i}(z)]

    with the shifts of :class:`~pyro_vae.evaluation.amortization.RefinedGuide`, by Adam with a rate that falls to zero;
    the shifts are averaged over the last half of the steps. The networks stay as they are.

    Args:
        model, guide: Pyro programs whose per-datum sites are in a plate at dim -1.
        data: as for :func:`~pyro_vae.evaluation.log_likelihood`.
        num_steps: of the optimization.
        learning_rate: at first.
        step_particles: draws per datum in a step.
        num_particles: fresh draws per datum that both bounds are measured with.
        batch_size: data refined at once.
        seed: of all draws; the global random state is left as it was.
        device: where to; the programs' device if None.
        compile: as for :func:`~pyro_vae.evaluation.log_likelihood`.
        progress: show a bar.

    Returns:
        both bounds per datum, nats.

    Raises:
        InputError: for numbers that are not positive, and latents that cannot be refined.

    Source: Cremer et al. 2018, arXiv:1801.03558.

    Example:
        >>> import torch, pyro_vae
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> bound = pyro_vae.refine(model, guide, x[:4], num_steps=5, progress=False)
        >>> bound.amortized.shape, bound.refined.shape
        (torch.Size([4]), torch.Size([4]))
    """
    numbers = {"num_steps": num_steps, "step_particles": step_particles, "batch_size": batch_size}
    for name, value in {**numbers, "num_particles": num_particles}.items():
        positive(name, value)
    if not learning_rate > 0:
        raise InputError(f"learning_rate must be positive, got {learning_rate}")
    amortized, refined = [], []
    with evaluating(model, guide, data, seed, device) as (pair, split):
        pair = pair.drawn()
        refiner, batch_size = _Refiner(pair, step_particles), pair.batch_size(batch_size)
        steps = num_steps * math.ceil(len(split) / batch_size)
        refiner.recorder.mode = choose_mode(compile, steps, graph_from=GRAPH_FROM, full_from=FULL_FROM)
        with tqdm(total=steps, unit="step", disable=not progress) as bar:
            for batch in split.batches(batch_size):
                offsets = zero_offsets(pair.traces(batch))
                amortized.append(refiner.bound(batch, offsets, num_particles))
                offsets = refiner.optimized(batch, offsets, num_steps, learning_rate, bar)
                refined.append(refiner.bound(batch, offsets, num_particles))
    bounds = torch.cat(amortized).cpu(), torch.cat(refined).cpu()
    return RefinedBound(*bounds, num_steps, num_particles, split.name, pair.doubts)


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
            count = min(DRAWN_AT_ONCE, num_particles - drawn)
            total = total.to(batch[X].device) + self._log_weights(batch, offsets, count).double().sum(0)
            drawn += count
        return total / num_particles

    def _log_weights(self, batch: Batch, offsets: Mapping[str, Tensor], count: int) -> Tensor:
        pair = replace(self.pair, guide=RefinedGuide(offsets)(self.pair.guide))
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


PARTICLES = (1, 10, 100, 1000, 5000)


def likelihood_gap(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    particles: Sequence[int] = PARTICLES,
    refine_options: Mapping[str, Any] | None = None,
    annealing_options: Mapping[str, Any] | None = None,
    memory_budget: int = MEMORY_BUDGET,
    seed: int = 0,
    device: str | torch.device | None = None,
    compile: Compile = "auto",
    progress: bool = False,
) -> LikelihoodGap:
    r"""Measure what the ELBO and importance-weighted bounds lack of log p(x), and split the ELBO's gap.

    .. math:: \log p(x) - ELBO = \underbrace{\log p(x) - ELBO^*}_{\text{approximation}}
              + \underbrace{ELBO^* - ELBO}_{\text{amortization}}

    log p(x) is that of :func:`~pyro_vae.evaluation.ais`, and ELBO* has the guide's parameters optimized for each
    datum (:func:`~pyro_vae.evaluation.refine`).

    Args:
        model, guide: as for :func:`~pyro_vae.evaluation.ais`.
        data: on which; a hundred data take minutes on a CPU. Dynamic binarization is drawn once, for all bounds.
        particles: numbers K of importance samples.
        refine_options: arguments of :func:`~pyro_vae.evaluation.refine` of its own, such as ``num_steps``.
        annealing_options: arguments of :func:`~pyro_vae.evaluation.ais` of its own, such as ``num_temperatures``.
        memory_budget, seed, device, compile, progress: as for the three of them.

    Returns:
        all bounds per datum, their paired differences, the two parts of the gap.

    Raises:
        InputError: as the three of them.

    Source: Cremer et al. 2018, arXiv:1801.03558.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> few = {"refine_options": {"num_steps": 5}, "annealing_options": {"num_temperatures": 5, "num_chains": 2}}
        >>> gap = pyro_vae.likelihood_gap(model, guide, torch.ones(2, 1, 8, 8), particles=(1, 10), compile="off", **few)
        >>> gap.elbo.refined.shape, sorted(gap.importance)
        (torch.Size([2]), [1, 10])
    """
    if not particles:
        raise InputError("particles must name at least one number of importance samples, such as 5000")
    for k in particles:
        positive("particles", k)
    common: dict[str, Any] = {
        "seed": seed,
        "device": device,
        "compile": compile,
        "progress": progress,
    }
    budget = {"memory_budget": memory_budget}
    data = held_out(data).fixed()
    annealed = ais(model, guide, data, **{**common, **budget, **(annealing_options or {})})
    elbo = refine(model, guide, data, **{**common, **(refine_options or {})})
    importance = {k: log_likelihood(model, guide, data, num_particles=k, **common, **budget) for k in particles}
    return LikelihoodGap(importance, annealed, elbo)
