"""The densities between which annealing moves, their gradients, and which pairs have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.evaluation.annealing.unconstrained import Layout, Unconstrained, check_covered
from pyro_vae.evaluation.chunks import Recorder
from pyro_vae.evaluation.guide_cache import independent_of_particles, rebuilt_trace, site_numbers, site_tensors
from pyro_vae.programs.context import X
from pyro_vae.programs.densities import log_prob, model_densities, total
from pyro_vae.programs.enumeration import Sums, alone_with_all_values
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.program import Batch, Program
from pyro_vae.programs.sites import in_data_plate, innermost, is_delta
from pyro_vae.programs.traces import Site, TracePair, in_particle_plate, is_latent, repeat, traced
from pyro_vae.recording import Mode, Outputs

FROM_PRIOR = 'anneal from the prior, start="prior", which needs no guide'


def check_model(trace: Trace, summed: frozenset[str]) -> None:
    """Check a model's latent sites, but for those that are summed over.

    Raises:
        InputError: names a latent that is shared by all data, a point mass, or discrete.
    """
    for name, site in trace.nodes.items():
        if not is_latent(site) or name in summed:
            continue
        fn = site["fn"]
        if not in_data_plate(site):
            raise InputError(
                f"latent site '{name}' is outside the data plate: a bound per datum is not defined for a latent that "
                "all data share"
            )
        if is_delta(fn):
            raise InputError(
                f"latent site '{name}' is a point mass, which has no density to be annealed; use log_likelihood"
            )
        if is_discrete(fn):
            raise InputError(
                f"latent site '{name}' is discrete ({type(innermost(fn)).__name__}): annealing moves latents "
                "along gradients and needs continuous ones, or discrete ones that are summed over, which the guide "
                "does not have; use log_likelihood"
            )


def check_guide(pair: TracePair, model: Program, batch: Batch) -> None:
    """Check that a guide's density of the model's latents, which are continuous, is known wherever chains may go.

    Args:
        pair: traces of both programs.
        model, batch: to draw from the prior with.

    Raises:
        InputError: names a site that is the guide's alone, a point mass, or a flow without an inverse; one whose
            support does not cover the model's.
    """
    for name, (q, p) in pair.latent().items():
        if p is None:
            raise InputError(
                f"site '{name}' is the guide's alone, so that the guide's density of the model's latents is not known: "
                f"{FROM_PRIOR}"
            )
        if is_delta(q["fn"]):
            raise InputError(
                f"latent site '{name}' is a point mass in the guide, whose density at other values than the one drawn "
                f"is not known: {FROM_PRIOR}"
            )
        _check_known_everywhere(name, q)
    check_covered(pair, model, batch)


def check_left_out(left_out: Tensor, u: Tensor, *gradients: Tensor) -> None:
    """Check that nothing depends on what masks leave out of the latents.

    Args:
        left_out: which numbers of u, ``(C, N, D)``.
        u: the chains' latents.
        gradients: of log-densities, with the stand-in -|u|^2 / 2 for what is left out.

    Raises:
        InputError: if they do: p(x) is not defined by a latent that has no density.
    """
    if any(bool((((g + u).abs() / (1 + u.abs()))[left_out] > 1e-3).any()) for g in gradients):
        raise InputError(
            "the data, or other latents, depend on elements of the latents that a mask leaves out, and that so have no "
            "density: p(x) is not defined; mask what depends on them as well"
        )


def is_discrete(fn: Any) -> bool:
    """Whether a distribution draws from a set that can be counted."""
    return bool(getattr(fn, "has_enumerate_support", False) or fn.support.is_discrete)


def _check_known_everywhere(name: str, site: Site) -> None:
    """A flow may know its density at what it has drawn itself only."""
    try:
        with torch.no_grad():
            site["fn"].log_prob(site["value"].clone())
    except (KeyError, NotImplementedError) as error:
        text = str(error).strip("'\"") or type(error).__name__
        raise InputError(
            f"latent site '{name}': the guide's density at values that it has not drawn itself is not known ({text}): "
            f"{FROM_PRIOR}"
        ) from error


Start = Literal["guide", "prior"]
VECTOR, PARAMETER = "unconstrained latents", "guide parameter "


@dataclass
class Point:
    """Unconstrained latents of chains, and the densities there.

    Attributes:
        u: ``(C, N, D)``.
        log_start, log_target: log f_0 and log f_1, nats, ``(C, N)``; both with the log-Jacobian of u to z.
        grad_start, grad_target: their gradients, ``(C, N, D)``.
    """

    u: Tensor
    log_start: Tensor
    log_target: Tensor
    grad_start: Tensor
    grad_target: Tensor

    def log_density(self, beta: float) -> Tensor:
        """log f_beta = (1 - beta) log f_0 + beta log f_1, ``(C, N)``."""
        return self.log_start + beta * (self.log_target - self.log_start)

    def gradient(self, beta: float) -> Tensor:
        """Its gradient, ``(C, N, D)``."""
        return torch.lerp(self.grad_start, self.grad_target, beta)

    def where(self, taken: Tensor, other: Point) -> Point:
        """This point where ``taken`` (C, N), the other one elsewhere."""
        return Point(
            torch.where(taken[..., None], self.u, other.u),
            torch.where(taken, self.log_start, other.log_start),
            torch.where(taken, self.log_target, other.log_target),
            torch.where(taken[..., None], self.grad_start, other.grad_start),
            torch.where(taken[..., None], self.grad_target, other.grad_target),
        )


class AnnealedPath:
    """f_0, the guide's density q(z | x) or the prior p(z), and f_1 = p(x, z), for batches of data.

    A guide whose sites do not depend on one another's samples is run once for a batch; others at every evaluation.

    Args:
        pair: programs in evaluation mode, and how they are run.
        start: which density is f_0.
        num_chains: C.
        mode: how the densities are evaluated: off, graph or full.
    """

    def __init__(self, pair: Pair, start: Start, num_chains: int, mode: Mode = "off") -> None:
        self.pair, self.model, self.guide = pair, pair.model, pair.guide
        self.sums = Sums(pair.sums.names if start == "prior" else pair.sums.model)
        if start == "guide" and pair.sums.guide:
            raise InputError(
                f"latent site '{min(pair.sums.guide)}' has all its values in the guide, whose density of the other "
                f"latents is a mixture that is not known: {FROM_PRIOR}, or leave the site out of the guide"
            )
        self.start, self.num_chains = start, num_chains
        self.nesting, self.vectorize = pair.nesting, not pair.repeated
        self.recorder = Recorder(("annealing", "densities"), nn.ModuleList([pair.model, pair.guide]), mode)

    def on(self, batch: Batch) -> Densities:
        """The densities of a batch's posteriors."""
        return Densities(self, batch)


class Densities:
    """The densities of one batch of N data.

    Args:
        path: programs and options.
        batch: the data.

    Raises:
        InputError: for pairs that cannot be annealed (:mod:`pyro_vae.evaluation.annealing.path`).
    """

    def __init__(self, path: AnnealedPath, batch: Batch) -> None:
        self.path = path
        self.size = len(batch[X])
        inner = 1 if path.vectorize else path.num_chains  # data in the place of chains
        self.chains = path.num_chains // inner
        self.batch = repeat(batch, inner) if inner > 1 else dict(batch)
        self.particle_dim = -(path.nesting + 1)
        self.model = in_particle_plate(path.model, self.chains, self.particle_dim)
        self.guide = in_particle_plate(path.guide, self.chains, self.particle_dim)
        self._template: Trace | None = None
        self._parameters: list[Tensor] = []
        self._name = f"densities of {self.chains} chains"
        if path.start == "prior":
            first = traced(self.model, **self.batch)
            check_model(first, path.sums.model)
        else:
            pair = replace(path.pair, repeated=False).traces(self.batch, self.chains)
            first = pair.model
            if path.pair.sums:  # the pair has all values of what is summed over, and of these a draw is wanted
                first = traced(poutine.replay(self.model, trace=pair.guide), **self.batch)
            check_model(first, path.sums.model)
            check_guide(pair, path.model, batch)
            if independent_of_particles(pair):
                self._template = pair.counted_guide()
                sites = [q for q, _ in pair.latent().values()]
                self._parameters = [t for site in sites for t in site_tensors(site)]
                self._name += f" by {[site_numbers(site) for site in sites]}"
        self.layout = Layout(first, self.chains, self.size * inner, path.nesting, path.sums.model)
        self._sites = {name: first.nodes[name] for name in self.layout.parts}
        self._drawn: Tensor | None = self._by_chain(self.layout.vector(first))
        left_out = self.layout.left_out(first)
        self._left_out = None if left_out is None else self._by_chain(left_out)

    def draw(self) -> Point:
        """Exact samples of f_0, anew at every call."""
        if self._drawn is None:
            program = self.model
            if self.path.start == "guide":
                program = poutine.replay(self.model, trace=poutine.trace(self.guide).get_trace(**self.batch))
            self._drawn = self._vectors(program)
        u, self._drawn = self._drawn, None
        return self._start(u)

    def at_values(self, values: dict[str, Tensor]) -> Point:
        """All chains at given latents ``(N, *inner, *event)`` each."""
        held = Trace()
        for name, site in self._sites.items():
            inner = values[name].dim() - 1 - site["fn"].event_dim
            value = values[name].movedim(0, inner)  # (*inner, N, *event)
            if self.chains > 1:
                rank = len(self.layout.parts[name].inner)  # with those that the site is in no plate of
                value = value.reshape(*(1,) * (rank - inner), *value.shape)
                value = value.expand(self.chains, *value.shape)  # (C, *inner, N, *event)
            elif self.path.num_chains > 1:
                value = value.repeat_interleave(self.path.num_chains, inner)
            held.add_node(name, **{**site, "value": value})
        return self._start(self._vectors(poutine.replay(self.model, trace=held)))

    def _start(self, u: Tensor) -> Point:
        """Chains at u, and where a mask leaves something out at draws of what stands there in its stead, N(0, 1).

        Anywhere else these numbers would be out of equilibrium, and through the acceptance all others as well.
        """
        if self._left_out is None:
            return self.at(u)
        point = self.at(torch.where(self._left_out, torch.randn_like(u), u))
        check_left_out(self._left_out, point.u, point.grad_start, point.grad_target)
        return point

    def at(self, u: Tensor) -> Point:
        """The densities at ``u`` (C, N, D)."""
        given = {VECTOR: self._by_datum(u), **{f"{PARAMETER}{i}": t for i, t in enumerate(self._parameters)}}
        log_start, log_target, *gradients = self.path.recorder(self._name, self._evaluate, {**given, **self.batch})
        return Point(u, *(self._by_chain(t) for t in (log_start, log_target, *gradients)))

    def _evaluate(self, **given: Tensor) -> Outputs:
        batch = {name: value for name, value in given.items() if name in self.batch}
        with torch.enable_grad():
            u = given[VECTOR].detach().requires_grad_()
            unconstrained = Unconstrained(self.layout, u)
            with unconstrained:
                model = traced(alone_with_all_values(self.model, self.path.sums, self.path.nesting), **batch)
            guide = Trace() if self.path.start == "prior" else self._trace_guide(model, given, batch)
            size = self.layout.size
            known = {"data_plates": self.path.pair.data_plates, "left_out": self.path.pair.left_out}
            pair = TracePair(model, guide, self.chains, self.particle_dim, size, size, sums=self.path.sums, **known)

            def summed(sites: list[Site]) -> Tensor:
                return total([pair.per_datum(log_prob(site), site) for site in sites])

            prior, observed = model_densities(pair, list(self.layout.parts))
            if self.path.start == "prior":
                log_start = prior
            else:
                latents = pair.latent()
                guides = [latents[name][0] for name in self.layout.parts]
                log_start = summed([*guides, *pair.guide_factors().values()])
            log_target = prior + observed
            for name, value in unconstrained.log_det.items():
                log_det = pair.per_datum(value, model.nodes[name])
                log_start, log_target = log_start + log_det, log_target + log_det
            gradients = [
                torch.autograd.grad(f.sum(), u, retain_graph=True, allow_unused=True)[0] if f.requires_grad else None
                for f in (log_start, log_target)
            ]
        zero = torch.zeros_like(u.detach())
        return log_start.detach(), log_target.detach(), *(zero if g is None else g for g in gradients)

    def _vectors(self, program: Callable[..., Any]) -> Tensor:
        """Unconstrained latents ``(C, N, D)`` of a run of the model: supports may depend on other latents' values."""
        return self._by_chain(self.layout.vector(traced(program, **self.batch)))

    def _trace_guide(self, model: Trace, given: Batch, batch: Batch) -> Trace:
        """The guide's sites at the model's values."""
        if self._template is None:
            return traced(poutine.replay(self.guide, trace=model), **batch)
        parameters = iter([value for name, value in given.items() if name.startswith(PARAMETER)])
        return rebuilt_trace(self._template, parameters, lambda name, _: model.nodes[name]["value"])

    def _by_chain(self, t: Tensor) -> Tensor:
        """``(chains, data, ...)`` of the programs as ``(C, N, ...)``."""
        if self.path.vectorize:
            return t
        return t.reshape(self.size, self.path.num_chains, *t.shape[2:]).transpose(0, 1)

    def _by_datum(self, t: Tensor) -> Tensor:
        """The inverse of :meth:`_by_chain`."""
        return t if self.path.vectorize else t.transpose(0, 1).reshape(1, -1, *t.shape[2:])
