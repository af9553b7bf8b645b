"""Which of a model's sites is its data, whatever it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from string import digits
from typing import Any, ClassVar

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.errors import InputError, unknown
from pyro_vae.programs.context import X
from pyro_vae.programs.sites import Site, density_of, is_factor
from pyro_vae.programs.traces import is_observed
from pyro_vae.runtime import same_random_state

ROWS = 2  # data that a model is given to see which site becomes observed


def observed_data(nodes: Mapping[str, Site]) -> dict[str, Site]:
    """The data sites among a trace's nodes: observed, or so before ``poutine.uncondition``; factors are none.

    A site that is observed in part (``obs_mask``, of which Pyro makes ``x_observed`` and ``x_unobserved``) has the name
    that it has where nothing is observed.
    """

    def is_data(site: Site) -> bool:
        observed = is_observed(site) or (
            site["type"] == "sample" and site["infer"].get("was_observed") and not site["infer"].get("_deterministic")
        )
        return bool(observed) and not is_factor(site)

    def whole(name: str) -> str:
        part = name.removesuffix("_observed")
        return part if {part, f"{part}_unobserved"} <= nodes.keys() else name

    return {whole(name): site for name, site in nodes.items() if is_data(site)}


def data_site(sites: Mapping[str, Site], x: Tensor | None, wanted: str | None = None) -> str:
    """The data site: the only one, else the one whose value is the batch's x.

    Args:
        sites: as from :func:`observed_data`.
        x: the data that the model was given, ``(batch, ...)``; a site may have it in another shape.
        wanted: the site that the caller names.

    Raises:
        InputError: for a wanted site that is none; if there is no data site; if there are several and which is meant
            cannot be told: names them.
    """
    if wanted is not None:
        if wanted not in sites:
            raise unknown("data site", wanted, sites)
        return wanted
    if not sites:
        raise InputError(
            "the model observes nothing: its data are to be observed at a site, pyro.sample('x', ..., obs=x)"
        )
    if len(sites) == 1:
        return next(iter(sites))
    same = [name for name, site in sites.items() if x is not None and same_numbers(_observed_value(site), x)]
    if len(same) != 1:
        raise InputError(
            f"the model has several data sites ({', '.join(sites)}), and {'more than one' if same else 'none'} of them "
            f"is just the data x: say which is meant, site='{(same or [*sites])[0]}'"
        )
    return same[0]


def site_of_run(
    program: Callable[..., Any], trace: Trace, context: Mapping[str, Tensor], data: Tensor | None, wanted: str | None
) -> str:
    """The data site of a model that was run without data.

    The one called x, if that is what the model returned (the contract of models). Else the model is given data, two
    rows of them, at the same latents: the site that is observed now is the one. What the data look like is known from
    what it returned, or else from what it drew.

    Args:
        program: the model, which is handed x.
        trace: of the run without data.
        context: what else it was given, ``(batch, ...)`` each.
        data: rows of data, if there are any at hand.
        wanted: the site that the caller names, which only has to be there.

    Returns:
        the site's name; where data have a site for every step, that of them joined (:func:`join_steps`).

    Raises:
        InputError: as :func:`data_site`.
    """
    drawn = {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not site_is_subsample(s)}
    if wanted is not None:
        if wanted not in drawn:
            raise unknown("data site", wanted, drawn)
        return wanted
    if any(density_of(site) for site in drawn.values()):
        return shown_site(trace)
    if X in drawn and not drawn[X]["is_observed"] and trace.nodes["_RETURN"]["value"] is drawn[X]["value"]:
        return X
    before = observed_data(trace.nodes)
    count = min(
        ROWS, max((f.size for site in drawn.values() for f in site["cond_indep_stack"] if f.dim == -1), default=1)
    )
    rows = {name: value[:count] for name, value in context.items()}
    latent = {name: _first_rows(site, count) for name, site in drawn.items() if not site["is_observed"]}
    for candidate in _candidates(trace, latent, data):
        x = candidate[torch.arange(count, device=candidate.device) % len(candidate)]
        with same_random_state(*(v.device for v in (x, *rows.values()))):
            try:
                found = poutine.trace(_Given(latent)(program)).get_trace(**{**rows, X: x, "num_samples": count})
            except Exception:  # data do not look like this; a program may fail at it in any way
                continue
        sites = {name: site for name, site in observed_data(found.nodes).items() if name not in before}
        if sites and (joined := join_steps(trace, sites, x)):
            return joined
        if sites:
            return data_site(sites, x if candidate is data else None)  # what is no data may be one site's by chance
    if X in drawn:
        return X
    raise InputError(
        "no site of the model is observed when it is given data: they are handed to its argument 'x', or else to its "
        f"first one; observe them (obs=x), or say which site is meant, site=..., of {', '.join(drawn) or 'none'}"
    )


def shown_site(trace: Trace) -> str:
    """What stands for the data of a model that observes functions of them: the deterministic site that it returns.

    Raises:
        InputError: if it returns none.
    """
    returned = trace.nodes["_RETURN"]["value"]
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and site["infer"].get("_deterministic") and site["value"] is returned:
            return name
    said = ", ".join(f"'{n}': {of}" for n, s in trace.nodes.items() if s["type"] == "sample" and (of := density_of(s)))
    raise InputError(
        f"the model observes functions of its data ({said}) and draws no data: let it return what is to be shown in "
        "their stead, return pyro.deterministic('image', g, event_dim=3); or say which site is meant, site=..."
    )


def join_steps(trace: Trace, sites: Mapping[str, Site], x: Tensor) -> str | None:
    """Put one site in the place of those that have a step of the data each, x[:, 0], x[:, 1], …, as of time series.

    Args:
        trace: of a run in which they were drawn; changed.
        sites: as from :func:`observed_data`, of a run that was given data.
        x: those data, ``(batch, steps, ...)``.

    Returns:
        its name, x; None if the sites are not the steps of x, in their order.
    """
    apart = len(sites) < 2 or x.dim() < 2 or x.shape[1] != len(sites) or X in trace.nodes
    if apart or not all(same_numbers(_observed_value(s), x[:, t]) for t, s in enumerate(sites.values())):
        return None
    nodes = [trace.nodes[name] for name in sites]
    steps = Steps([node["fn"] for node in nodes])
    values = torch.broadcast_tensors(*(node["value"] for node in nodes))
    value = torch.stack(values, values[0].dim() - steps.event_dim + 1)
    trace.add_node(X, **{**nodes[0], "name": X, "fn": steps, "value": value, "mask": None})
    for name in sites:
        trace.remove_node(name)
    return X


class Steps(TorchDistribution):
    """The distributions of the steps of a sequence as one, for what it draws: event shape ``(steps, *event)``.

    Args:
        parts: of every step, of one event shape.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        shape = torch.broadcast_shapes(*(part.batch_shape for part in parts))
        super().__init__(shape, torch.Size([len(parts), *parts[0].event_shape]), validate_args=False)

    @property
    def support(self) -> Any:
        """That of every step."""
        return constraints.independent(self.parts[0].support, 1)

    @property
    def mean(self) -> Tensor:
        """``(*batch, steps, *event)``."""
        means = torch.broadcast_tensors(*(part.mean for part in self.parts))
        return torch.stack(means, means[0].dim() - self.event_dim + 1)


def _candidates(trace: Trace, latent: Mapping[str, Tensor], data: Tensor | None) -> Iterator[Tensor]:
    """What may look like data: data, what the model returned, what it drew at every step, what it drew last … first."""
    if data is not None:
        yield data
    returned = trace.nodes["_RETURN"]["value"]
    values = returned.values() if isinstance(returned, Mapping) else returned
    for value in values if isinstance(values, Sequence) and not isinstance(values, str) else [values]:
        if isinstance(value, Tensor) and value.dim() and len(value):
            yield value
    yield from _stacked(trace, latent)
    for name in reversed(latent):
        site, value = trace.nodes[name], latent[name]
        if value.dim() > site["fn"].event_dim:
            yield value.movedim(value.dim() - 1 - site["fn"].event_dim, 0)


def _stacked(trace: Trace, latent: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Values of sites that are numbered, x_0, x_1, …, as one tensor ``(batch, steps, *event)``, the last kind first."""
    kinds: dict[str, list[Tensor]] = {}
    for name, value in latent.items():
        stem, event_dim = name.rstrip(digits), trace.nodes[name]["fn"].event_dim
        if stem != name and value.dim() > event_dim:
            kinds.setdefault(stem, []).append(value.movedim(value.dim() - 1 - event_dim, 0))
    for values in reversed(kinds.values()):
        if len({value.shape for value in values}) == 1:
            yield torch.stack(values, 1)


class _Given(Messenger):
    """Gives sites their values."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def _first_rows(site: Site, count: int) -> Tensor:
    """A site's value for the first data: ``(..., batch, *event)`` cut along the data plate, if it is in one."""
    value = site["value"]
    dim = value.dim() - 1 - site["fn"].event_dim
    in_plate = any(frame.dim == -1 for frame in site["cond_indep_stack"])
    return value.narrow(dim, 0, min(count, value.shape[dim])) if in_plate else value


def _observed_value(site: Site) -> Any:
    return site["infer"]["obs"] if site["infer"].get("was_observed") else site["value"]


def same_numbers(value: Any, x: Tensor) -> bool:
    """Whether a value is x: the same numbers, whatever the shape and type."""
    if value is x:
        return True
    if not isinstance(value, Tensor) or value.numel() != x.numel():
        return False
    return torch.equal(value.detach().flatten().double(), x.detach().flatten().double())
