"""Priors over real latent sites in the place of a model's own: the model with them, and the pair that trains one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor, nn

from pyro_vae.errors import InputError, unknown
from pyro_vae.programs.context import Context, X, accepted_arguments, declared_context, narrowed, unwrapped
from pyro_vae.programs.enumeration import is_countable, summed_sites
from pyro_vae.programs.handlers import Replaced
from pyro_vae.programs.program import Batch, Program, as_program, prime
from pyro_vae.programs.sites import (
    REAL,
    Site,
    elementwise_support,
    in_data_plate,
    is_delta,
    is_discrete,
    masks_of,
    of_angles,
)
from pyro_vae.programs.traces import check_sites, data_plates, is_latent, shared_sites, traced
from pyro_vae.runtime import private_seed


def distribution_of(prior: nn.Module, arguments: Mapping[str, Any]) -> Any:
    """A prior's distribution, given that part of a program's arguments that it declares as its context."""
    return prior(**{name: arguments[name] for name in getattr(prior, "context", {}) if name in arguments})


class WithPriors(nn.Module):
    """A model in which latent sites have other priors: p'(z_s) in the place of its own p(z_s).

    It is called as the model is, and is a model like any other. The model itself stays as it was: a guide that runs it,
    such as a ladder, still runs it with its own priors, so that q(z | x) does not change.

    Args:
        model: a generative program, module or function.
        priors: by site; each a module whose call gives a distribution of the site's event shape, and whose
            ``context``, if it has one, names the model's arguments that it is given.

    Raises:
        InputError: if a prior is given what the model does not take; in the run, for another event shape.

    Example:
        >>> import pyro.distributions as dist
        >>> import pyro_vae, torch
        >>> from pyro_vae.programs.site_priors import WithPriors
        >>> class Shifted(torch.nn.Module):
        ...     def forward(self):
        ...         return dist.Normal(torch.full((2,), 5.0), 0.1).to_event(1)
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> pyro_vae.sample(WithPriors(model, {"z": Shifted()}), 100)["z"].mean().round().item()
        5.0
    """

    def __init__(self, model: Callable[..., Any], priors: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.inner_program = as_program(model)
        self.names = tuple(priors)
        _tell(priors)
        self.learned = nn.ModuleList(priors.values())
        for name, prior in priors.items():
            check_context_of(name, prior, self.inner_program)

    @property
    def learned_priors(self) -> dict[str, nn.Module]:
        """The priors by site."""
        return dict(zip(self.names, self.learned, strict=True))

    @property
    def context(self) -> dict[str, Context]:
        """What the model is given; where a prior accepts less of it, what both accept."""
        found, taken = declared_context(self.inner_program), accepted_arguments(self.inner_program)
        for prior in self.learned:
            found |= {k: v for k, v in _context_within(found, prior).items() if taken is None or k in taken}
        return found

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        """Run the model under its other priors; it takes the very arguments of the model."""
        inner = unwrapped(self.inner_program)
        target = inner.forward if isinstance(inner, nn.Module) else inner

        @wraps(target)
        def run(*args: Any, **kwargs: Any) -> Any:
            given = {**inspect.signature(target).bind_partial(*args).arguments, **kwargs} if args else kwargs
            with Replaced({name: distribution_of(prior, given) for name, prior in self.learned_priors.items()}):
                return self.inner_program(**given)

        return run


def _tell(priors: Mapping[str, nn.Module]) -> None:
    """Tell priors that ask for it, such as those that are made of the guide's posteriors, which sites they are of."""
    for name, prior in priors.items():
        if hasattr(prior, "site"):
            prior.site = name


def _context_of(prior: nn.Module) -> dict[str, Context]:
    return dict(getattr(prior, "context", {}))


def _context_within(declared: Mapping[str, Context], prior: nn.Module) -> dict[str, Context]:
    """A prior's context, as far as what is declared already accepts it."""
    return {
        name: narrowed(name, declared[name], context) if name in declared else context
        for name, context in _context_of(prior).items()
    }


def check_context_of(site: str, prior: nn.Module, model: Callable[..., Any]) -> None:
    """Check that a model can hand on what a prior is given.

    Raises:
        InputError: names what it does not take, or takes as something of another kind.
    """
    taken = accepted_arguments(model)
    needed = [name for name, context in _context_of(prior).items() if not context.optional]
    missing = [name for name in needed if taken is not None and name not in taken]
    if missing:
        raise InputError(
            f"the prior of '{site}' is given {', '.join(missing)}, which the model does not take: use a prior that is "
            "not conditional, or a model with that argument"
        )
    _context_within(declared_context(model), prior)


class PriorOfSite(nn.Module):
    """z ~ p(z), for every datum: the model whose ELBO trains a prior; its data are nothing but counted.

    With a guide z ~ q(z | x), :class:`GuideOfSite`, the ELBO is -KL(q(z | x) || p(z)), of which the prior sees
    E_q log p(z).

    Args:
        site: the name of z.
        prior: gives p(z).
    """

    def __init__(self, site: str, prior: nn.Module) -> None:
        super().__init__()
        self.site, self.prior = site, prior
        self.context = _context_of(prior)  # data are checked against it
        _tell({site: prior})

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1, **context: Any) -> Tensor:
        """Draw z for each datum of ``x``, or for ``num_samples``."""
        fn = distribution_of(self.prior, context)
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            return pyro.sample(self.site, fn)


class GuideOfSite(nn.Module):
    """A guide of which one site alone is seen: it is run as far as that site, always in evaluation mode.

    What it draws before is drawn anew at every run and is nobody else's concern. It is frozen: nothing of it is trained
    or saved.

    Args:
        site: the name of z.
        guide: the whole guide.
    """

    def __init__(self, site: str, guide: Program) -> None:
        super().__init__()
        self.site, self.guide = site, guide
        self.eval()

    def train(self, mode: bool = True) -> GuideOfSite:
        """Stay in evaluation mode."""
        return super().train(False)

    def state_dict(self, *args: Any, destination: Any = None, **kwargs: Any) -> Any:
        """Nothing: its weights are kept elsewhere."""
        return {} if destination is None else destination

    def forward(self, **batch: Any) -> None:
        """Draw z ~ q(z | x)."""
        try:
            with _OneSite(self.site):
                self.guide(**batch)
        except _Drawn:
            pass


class _Drawn(BaseException):
    """The site has its value; not an Exception, which a guide might catch."""


class _OneSite(Messenger):
    """Hides all of a guide's sites but one from those outside, and ends its run after that one."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.name or site_is_subsample(msg):
            return
        if msg["is_observed"]:  # factors and penalties
            msg["stop"] = True
        else:  # plates outside still see it
            msg["infer"] = {**msg["infer"], "is_auxiliary": True, "_do_not_trace": True}

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == self.name:
            raise _Drawn


ROWS, TURNS = 8, 4  # data, and runs of the model, by which it is seen what a site depends on


def site_to_replace(
    model: Program, guide: Program, batch: Batch, site: str | None = None, *, with_density: bool = True
) -> tuple[str, torch.Size]:
    """The latent site that can have another prior, and its event shape.

    Such a site is real and per datum, the guide has a density there, and its distribution in the model is the same
    whatever the model draws elsewhere. That is seen in runs of the model with other draws and other data.

    Args:
        model, guide: programs in evaluation mode.
        batch: a few data.
        site: its name; None: the first one in the model's order.
        with_density: whether the guide must have a density there.

    Raises:
        InputError: says why the site cannot have another prior, or why none can.
    """
    traces = prime(model, guide, batch)
    ours, theirs = (prune_subsample_sites(trace.copy()) for trace in traces)
    sums = summed_sites(ours, theirs)
    check_sites(ours, theirs, sums.model)
    shared = shared_sites(ours, theirs, data_plates(ours))
    latents = {name: node for name, node in ours.nodes.items() if is_latent(node)}
    if not latents:
        raise InputError("the model has no latent site that a prior could be learned for")
    if site is not None and site not in latents:
        raise unknown("latent site", site, latents)
    runs = _runs(model, batch)
    reasons = {}
    for name in latents if site is None else [site]:
        if name in sums.names:
            reasons[name] = "it is summed over"
        elif name in shared or not in_data_plate(latents[name]):
            reasons[name] = "all data share it"
        else:
            reasons[name] = _why_not(latents[name], theirs.nodes[name], runs, with_density)
        if not reasons[name]:
            return name, latents[name]["fn"].event_shape
    told = "; ".join(f"'{name}': {reason}" for name, reason in reasons.items())
    raise InputError(f"no other prior can be put in the place of the model's at latent site {told}")


def _why_not(p: Site, q: Site, runs: list[Mapping[str, Site]], with_density: bool) -> str:
    """Why a site cannot have another prior; empty if it can."""
    fn, name = p["fn"], p["name"]
    inner = [f"'{frame.name}'" for frame in p["cond_indep_stack"] if frame.vectorized and frame.dim != -1]
    if is_delta(fn):
        return "it is a point mass in the model, a function of what is drawn elsewhere"
    if is_discrete(fn):
        return "it is discrete, and priors over codes are for models that say where they have codes (docs/codes.md)"
    if elementwise_support(fn) not in REAL or of_angles(fn):
        return f"its values are no real numbers without bounds (support {fn.support})"
    if with_density and is_delta(q["fn"]):
        return "the guide has a point mass there, and no density"
    if inner:
        return f"it is in plate {', '.join(inner)} besides the data's: declare those dimensions as event, .to_event"
    if masks_of(p) or masks_of(q):
        return "parts of it are masked"
    others = [run.get(name) for run in runs]
    values = [node["value"] for node in others if node is not None]
    if len(values) < len(runs) or not all(_same(others[0], node, values) for node in others[1:]):
        return "its distribution depends on what the model draws elsewhere, so that the model would be another one"
    return ""


def depends_on_draws(program: Program, batch: Batch, site: str) -> bool:
    """Whether a program's distribution at a site depends on what it draws elsewhere, seen in runs with other draws.

    Args:
        program: in evaluation mode.
        batch: a few data.
        site: its name; every run has it.
    """
    runs = [run[site] for run in _runs(program, batch, turned=False)]
    values = [each["value"] for each in runs]
    return not all(_same(runs[0], run, values) for run in runs[1:])


def _runs(program: Program, batch: Batch, turned: bool = True) -> list[Mapping[str, Site]]:
    """Sites of runs with other draws each, and the data (``turned``) in turn in the opposite order."""
    found = []
    for turn in range(TURNS):
        data = {X: batch[X].flip(0)} if X in batch and turned and turn % 2 else {}
        with private_seed(turn, *(value.device for value in batch.values())), _InTurn(turn):
            found.append(traced(program, **{**batch, **data}).nodes)
    return found


class _InTurn(Messenger):
    """Gives sites with a list of values the next of them at every turn, which draws might miss."""

    def __init__(self, turn: int) -> None:
        super().__init__()
        self.turn = turn

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg) or not is_countable(msg["fn"]):
            return
        values = msg["fn"].enumerate_support(expand=False)  # (K, 1, ..., *event)
        msg["value"] = values[self.turn % len(values)].expand(msg["fn"].shape())
        msg["done"] = True


def _same(a: Any, b: Any, values: list[Tensor]) -> bool:
    """Whether two sites have one distribution, as far as their densities at some values tell."""
    if a["fn"].event_shape != b["fn"].event_shape:
        return False
    for value in values:
        ours, theirs = (node["fn"].log_prob(value).double() for node in (a, b))
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6):
            return False
    return True
