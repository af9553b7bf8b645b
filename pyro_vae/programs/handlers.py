"""Effect handlers: loss terms that are no density, KL weights, shared noise; replaced, scaled and tempered priors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.errors import InputError, positive
from pyro_vae.programs.sites import innermost, is_discrete, mean_or_none, rewrapped

PENALTY = "penalty"  # marks a site in its ``infer``


def penalty(name: str, value: Tensor) -> None:
    r"""Add a term to what is minimized, from within a guide and its data plate.

    Objectives add it to the negative bound, and so does plain ``pyro.infer.SVI``: a guide's factor counts as log q.
    Evaluation leaves it out: log-likelihoods and bounds are of the model and the guide alone. A ``pyro.factor`` in a
    guide, without this mark, is a part of log q for both.

    Args:
        name: of the site.
        value: ``(..., batch)``, nats; a commitment term, say.

    Example:
        >>> import pyro, pyro_vae, torch
        >>> def guide(x):
        ...     with pyro.plate("data", len(x), dim=-1):
        ...         z = pyro.sample("z", pyro.distributions.Normal(x, 1.0).to_event(1))  # (..., batch, dim)
        ...         pyro_vae.penalty("size", 0.1 * z.square().sum(-1))
        >>> sorted(pyro.poutine.trace(guide).get_trace(torch.zeros(5, 2)).stochastic_nodes)
        ['data', 'z']
    """
    pyro.sample(name, dist.Unit(value, has_rsample=True), obs=value.new_empty((*value.shape, 0)), infer=_marked())


def _marked() -> dict[str, Any]:
    return {"is_auxiliary": True, PENALTY: True}


def is_penalty(site: dict[str, Any]) -> bool:
    """Whether a trace's site is a penalty."""
    return bool(site["infer"].get(PENALTY))


class KLWeightMessenger(Messenger):
    r"""Scale the latent sites of a program by a live tensor.

    Put around the model *and* the guide it turns the ELBO into

    .. math:: E_q[\log p(x|z)] - \beta\, KL(q(z|x) \,\|\, p(z))

    A guide's factors are a part of log q, and weighted too; penalties are not.

    Args:
        weight: beta, a 0-dimensional tensor; changing its value in place changes the weight, with nothing to
            build or record again.
        of_guide: whether the program is the guide.

    Source: Bowman et al. 2016, arXiv:1511.06349 (annealing); Higgins et al. 2017 (beta-VAE).
    """

    def __init__(self, weight: Tensor, of_guide: bool = False) -> None:
        super().__init__()
        self.weight, self.of_guide = weight, of_guide

    def _pyro_sample(self, msg: Message) -> None:
        weighted = not is_penalty(msg) if self.of_guide else not msg["is_observed"]
        if weighted and type(msg["fn"]).__name__ != "_Subsample":
            msg["scale"] = msg["scale"] * self.weight


class KLWeighted(nn.Module):
    """A program under :class:`KLWeightMessenger`, as a module; the weight is a buffer that is not saved.

    Args:
        program: any Pyro program.
        weight: beta, a 0-dimensional tensor, shared by the model's and the guide's wrapper.
        of_guide: whether the program is the guide.
    """

    weight: Tensor

    def __init__(self, program: Callable[..., Any], weight: Tensor, of_guide: bool = False) -> None:
        super().__init__()
        self.program, self.of_guide = program, of_guide
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program with its latent sites scaled."""
        with KLWeightMessenger(self.weight, self.of_guide):
            return self.program(*args, **kwargs)


class RankNoise(Messenger):
    """Draw a site's sample for the joint batch and keep this process's rows.

    With equal random states on all processes, plain sampling would give every process the *same* noise for
    different data. Here a site is sampled as if the batch were ``world`` times as long (its distribution
    repeated), and the rows of this rank are kept: with one particle, and with several at sites whose parameters
    do not depend on the particle, these are the very numbers that a single process draws for the joint batch.
    At deeper sites with several particles they are independent draws from the same distribution.

    It goes around the guide, inside the plate of particles.

    Args:
        rank: this process.
        world: number of processes.
        num_particles: size of the plate of particles that will be put around the guide.
        particle_dim: its dimension.
    """

    def __init__(self, rank: int, world: int, num_particles: int = 1, particle_dim: int = -2) -> None:
        super().__init__()
        self.rank, self.world = rank, world
        self.num_particles, self.particle_dim = num_particles, particle_dim

    def _pyro_sample(self, msg: Message) -> None:
        fn = msg["fn"]
        in_data = any(f.dim == -1 for f in msg["cond_indep_stack"])
        if msg["is_observed"] or msg["value"] is not None or not in_data:
            return
        missing = -self.particle_dim - len(fn.batch_shape) if self.num_particles > 1 else 0
        outer = (self.num_particles, *(1,) * (missing - 1)) if missing > 0 else ()
        joint = fn.expand((*outer, self.world, *fn.batch_shape))  # (K, world, N): the joint batch is (K, world * N)
        value = joint.rsample() if fn.has_rsample else joint.sample()
        msg["value"] = value.select(len(outer), self.rank)
        msg["done"] = True


class Replaced(Messenger):
    """A handler under which sites have other distributions, in the plates that they are in.

    Args:
        distributions: by site name; of the site's event shape, and of a batch shape that broadcasts to the site's.

    Raises:
        InputError: in the run, for a distribution of another event shape; at its end, if there was no such site.
    """

    def __init__(self, distributions: Mapping[str, Any]) -> None:
        super().__init__()
        self.distributions = distributions
        self._seen: dict[str, None] = {}  # names of sites, in their order

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        missing = [name for name in self.distributions if name not in self._seen]
        if missing and error[0] is None:  # the run went to its end: its numbers would be those of the own distributions
            raise InputError(
                f"there is a prior of site '{missing[0]}', and the model has no such site (it has "
                f"{', '.join(self._seen) or 'none'}): a prior stands under its site's name, as the directory of a "
                "run's does"
            )

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            self._seen[msg["name"]] = None
        fn = self.distributions.get(msg["name"])
        if fn is None:
            return
        old = msg["fn"]
        if fn.event_shape != old.event_shape:
            raise InputError(
                f"site '{msg['name']}' has event shape {tuple(old.event_shape)}, and the prior that is to replace its "
                f"distribution {tuple(fn.event_shape)}: build the prior with shape={list(old.event_shape)}"
            )
        shape = torch.broadcast_shapes(old.batch_shape, fn.batch_shape)
        msg["fn"] = fn if fn.batch_shape == shape else fn.expand(shape)


_FAMILIES = (dist.Normal, dist.Laplace, dist.Cauchy, dist.StudentT, dist.Gumbel, dist.Logistic)


class Scaled(Messenger):
    r"""A handler under which sites with a location and a scale are drawn closer to, or farther from, their location.

    .. math:: z = \mu + s \sigma \epsilon \quad \text{in place of} \quad z = \mu + \sigma \epsilon

    The noise is the same whatever s is, so that draws with one seed can be compared. The variance is multiplied by s².

    Args:
        factors: s by site name.

    Raises:
        InputError: for a factor that is not a positive number; in the run, for a site without a scale.

    Source: Maaløe et al. 2019, arXiv:1902.02102 (samples at several scales of the latents).
    """

    def __init__(self, factors: Mapping[str, float]) -> None:
        super().__init__()
        for name, factor in factors.items():
            if not (factor > 0 and math.isfinite(factor)):
                raise InputError(f"scales: the factor of '{name}' must be a positive number, got {factor}")
        self.factors = dict(factors)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.factors and not msg["is_observed"]:
            fn = scaled(msg["fn"], self.factors[msg["name"]])
            if fn is None:
                name = type(innermost(msg["fn"])).__name__
                raise InputError(
                    f"scales: the distribution of site '{msg['name']}' ({name}) has no location and scale; "
                    f"those that have are {', '.join(f.__name__ for f in _FAMILIES)} and MultivariateNormal"
                )
            msg["fn"] = fn


def scaled(fn: Any, factor: float) -> Any | None:
    """A distribution with its scale multiplied by a factor; None if it has no location and scale."""

    def change(base: Any) -> Any | None:
        if isinstance(base, dist.MultivariateNormal):
            return dist.MultivariateNormal(base.loc, scale_tril=factor * base.scale_tril)
        family = next((family for family in _FAMILIES if isinstance(base, family)), None)
        if family is None:
            return None
        parameters = {name: getattr(base, name) for name in family.arg_constraints}  # pyright: ignore[reportGeneralTypeIssues]
        return family(**parameters | {"scale": factor * base.scale})

    return rewrapped(fn, change)


class Tempered(Messenger):
    r"""A handler under which sites that can be tempered are drawn from a sharpened distribution.

    .. math:: p_T(c_i \mid c_{<i}) \propto p(c_i \mid c_{<i})^{1/T} \quad \text{for the } k \text{ most probable } c_i

    at every position i, else 0; with ``top_p``, for the fewest most probable ones that have at least p together. A site
    can be tempered if its distribution has a method ``tempered(temperature, top_k)`` (and ``top_p``) that gives another
    distribution, as autoregressive priors have, and guided if it has a condition and a method ``guided(scale)``; other
    sites are drawn as they are.

    Args:
        temperature: T; below 1 tamer, above 1 bolder.
        top_k: k, codes that each position may have; None: all.
        top_p: p, in (0, 1]; None: 1.
        guidance: s, logits (1 + s) conditional - s unconditional; 0: none.

    Raises:
        InputError: for a temperature that is not a positive number, a top_k that is not a positive integer, a top_p
            that is no probability above 0, or a negative guidance.

    Source: Ackley et al. 1985, doi:10.1207/s15516709cog0901_7 (temperature); Fan et al. 2018, arXiv:1805.04833 (top-k);
    Holtzman et al. 2020, arXiv:1904.09751 (top-p); Ho & Salimans 2022, arXiv:2207.12598 (guidance).
    """

    def __init__(
        self, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, guidance: float = 0.0
    ) -> None:
        super().__init__()
        if not (temperature > 0 and math.isfinite(temperature)):
            raise InputError(f"temperature must be a positive number, got {temperature}")
        if top_k is not None:
            positive("top_k", top_k)
        if top_p is not None and not 0 < top_p <= 1:
            raise InputError(f"top_p must be a probability above 0, got {top_p}")
        if not (guidance >= 0 and math.isfinite(guidance)):
            raise InputError(f"guidance must not be negative, got {guidance}")
        self.temperature, self.top_k, self.top_p, self.guidance = temperature, top_k, top_p, guidance
        self._seen: dict[str, bool] = {}  # sites that were drawn: whether they could be tempered
        self._guided = False

    @property
    def changes_anything(self) -> bool:
        """Whether it makes a difference at all."""
        return self._tempers or self.guidance > 0

    @property
    def _tempers(self) -> bool:
        return self.temperature != 1 or self.top_k is not None or self.top_p is not None

    def check(self) -> None:
        """Check, after a run, that there was anything to temper.

        Raises:
            InputError: if no site could be tempered, or guided; names those that there were.
        """
        if self.guidance and not self._guided:
            raise InputError(
                f"guidance: no site of the model can be guided (it draws {', '.join(self._seen) or 'nothing'}); codes "
                "can whose learned prior is given a text or a label and was trained with condition_dropout"
            )
        if self._tempers and not any(self._seen.values()):
            raise InputError(
                "temperature, top_k, top_p: no site of the model can be tempered (it draws "
                f"{', '.join(self._seen) or 'nothing'}); codes with a learned autoregressive prior can, and tokens "
                "with an autoregressive likelihood"
            )

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        if self.guidance:
            guided = rewrapped(msg["fn"], partial(_guided, scale=self.guidance))
            self._guided |= guided is not None
            msg["fn"] = guided if guided is not None else msg["fn"]
        fn = tempered(msg["fn"], self.temperature, self.top_k, self.top_p)
        self._seen[msg["name"]] = fn is not None
        if fn is not None:
            msg["fn"] = fn


def tempered(fn: Any, temperature: float, top_k: int | None = None, top_p: float | None = None) -> Any | None:
    """A distribution with a temperature, inside its wrappers (independent, expanded, masked); None if it has none."""
    options = {} if top_p is None else {"top_p": top_p}
    return rewrapped(
        fn, lambda base: base.tempered(temperature, top_k, **options) if hasattr(base, "tempered") else None
    )


def _guided(base: Any, scale: float) -> Any | None:
    return base.guided(scale) if hasattr(base, "guided") and base.condition else None


class AtMean(Messenger):
    """Gives latent sites their distributions' means."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"]:
            return
        mean = mean_or_none(msg["fn"])
        if mean is not None and not is_discrete(msg["fn"]):  # a mean of integers is none of them
            msg["value"], msg["done"] = mean, True


class Searched(Messenger):
    """A handler under which sequences are not drawn: each is the most probable one that a beam search finds.

    It is for sites whose distribution has a method ``beam_search(width)``, the best first; others are drawn.

    Args:
        width: beginnings that the search keeps.

    Raises:
        InputError: for a width that is not a positive integer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self._seen = positive("beams", width), dict[str, bool]()

    def check(self) -> None:
        """Check, after a run, that there was anything to search.

        Raises:
            InputError: otherwise; names the sites that there were.
        """
        if not any(self._seen.values()):
            raise InputError(
                f"beams: no site of the model is a sequence of tokens (it draws {', '.join(self._seen) or 'nothing'})"
            )

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        base = innermost(msg["fn"])
        self._seen[msg["name"]] = found = hasattr(base, "beam_search")
        if found:
            each = msg["fn"].event_shape[: msg["fn"].event_dim - base.event_dim]  # sequences of one datum
            fn = base.expand(msg["fn"].batch_shape + each)
            msg["value"], msg["done"] = fn.beam_search(self.width).tokens[..., 0, :], True


class LastSite(Messenger):
    """Remembers the name of the sample site that came last."""

    name: str | None = None

    def _pyro_sample(self, msg: Message) -> None:
        self.name = msg["name"]


class Unvalidated(Messenger):
    """Keeps the sites' distributions from checking values inside this block, those too that were made outside of it."""

    def __enter__(self) -> Unvalidated:
        self._validated: list[Distribution] = []
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for part in self._validated:
            part._validate_args = True

    def _pyro_sample(self, msg: Message) -> None:
        parts = [msg["fn"]]
        while parts:
            part = parts.pop()
            own = getattr(part, "__dict__", {})
            if own.get("_validate_args"):  # its own, which Pyro's switch does not reach: ``expand`` gives it one
                self._validated.append(part)
                part._validate_args = False
            parts += [value for value in own.values() if isinstance(value, Distribution)]
