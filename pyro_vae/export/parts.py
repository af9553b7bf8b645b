"""The parts of any two programs that can be exported, as functions of tensors: encoder, decoder, sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.export.noise import Draw, NewOfShape, Noise, NoNoise, standard
from pyro_vae.export.sites import MEAN, PROBS, Held, Reached, Settled, UpTo, moments_of, read
from pyro_vae.programs.context import X, accepted_arguments, data_argument, takes
from pyro_vae.programs.handlers import LastSite
from pyro_vae.programs.program import Program
from pyro_vae.programs.session import generated
from pyro_vae.programs.sites import (
    data_first,
    elementwise_support,
    in_data_plate,
    innermost,
    is_point_mass,
    kept,
    masked_like,
    mean_or_none,
)
from pyro_vae.programs.traces import is_latent, traced
from pyro_vae.runtime import same_random_state

Role = Literal["data", "context", "latent", "noise"]
NAMES = ("encoder", "decoder", "sampler")
UNOBSERVED = "_unobserved"  # ends the name of what Pyro draws where an obs_mask is False


class NotExportable(Exception):
    """Why a part cannot be exported: what, and at which site."""


@dataclass
class Part:
    """A function of tensors that have a row for each datum.

    Attributes:
        name: encoder, decoder or sampler.
        programs: whose weights it uses.
        run: from the inputs by name to the outputs by name, ``(N, ...)`` each, within :class:`Noise`.
        inputs: an example of every input but noise, ``(n, ...)`` by name.
        roles: what each input is.
        draws: what is drawn; each is an input as well, found by :meth:`with_noise`.
        dims: of each draw, the dimension over the data.
        about: of outputs, and of the whole, in words.
    """

    name: str
    programs: nn.ModuleList
    run: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    inputs: dict[str, Tensor]
    roles: dict[str, Role]
    draws: dict[str, Draw] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    def rows(self, count: int) -> dict[str, Tensor]:
        """So many rows of the example, in turns."""
        return {name: value[torch.arange(count) % len(value)] for name, value in self.inputs.items()}

    def noise(self, count: int, seed: int = 0) -> dict[str, Tensor]:
        """Noise for so many data, ``(count, ...)`` by name."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: standard(draw._replace(shape=(count, *draw.shape[1:])), generator)
            for name, draw in self.draws.items()
        }

    def __call__(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in order, of inputs by name, noise included."""
        given = iter([(self.dims[name], inputs[name]) for name in self.draws])

        def source(draw: Draw) -> Tensor:
            dim, value = next(given)
            return value.movedim(0, dim)

        watch = LastSite()
        with NewOfShape(), Noise(source, lambda: watch.name), watch:
            return tuple(self.run({name: inputs[name] for name in self.inputs}).values())

    def outputs(self) -> list[str]:
        """The outputs' names, of a run on one row."""
        with same_random_state():
            return [*self._drawing(1)[1]]

    def _drawing(self, count: int) -> tuple[list[Draw], dict[str, Tensor]]:
        draws, watch = list[Draw](), LastSite()

        def source(draw: Draw) -> Tensor:
            draws.append(draw)
            return standard(draw)

        try:
            with Noise(source, lambda: watch.name), watch:
                found = self.run(self.rows(count))
        except NoNoise as error:
            raise NotExportable(f"site '{watch.name}': {error}") from error
        return draws, found

    def with_noise(self) -> Part:
        """With what it draws as inputs: of every draw its shape for one datum, and which of its dimensions are data.

        Raises:
            NotExportable: if it draws what all data share, or another number of times for other data.
        """
        with same_random_state():
            one, found = self._drawing(1)
            more, _ = self._drawing(2)
        if [(d.kind, d.site) for d in one] != [(d.kind, d.site) for d in more]:
            raise NotExportable("it draws another number of times for other numbers of data")
        draws, dims = {}, {}
        for a, b in zip(one, more, strict=True):
            differing = [i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n]
            if len(differing) != 1:
                raise NotExportable(
                    f"site '{a.site}' is drawn once for all data, and is no function of one datum's noise"
                )
            dim = differing[0]
            name = unused(f"noise_{a.site}", [*self.inputs, *draws])
            shape = (1, *(n for i, n in enumerate(a.shape) if i != dim))
            draws[name], dims[name] = a._replace(shape=shape), dim
        roles: dict[str, Role] = {**self.roles, **dict.fromkeys(draws, "noise")}
        return replace(self, draws=draws, dims=dims, roles=roles, about={**dict.fromkeys(found, ""), **self.about})


def unused(name: str, names: list[str]) -> str:
    """A name that is not yet there: it, or it with a number."""
    found, number = name, 2
    while found in names:
        found, number = f"{name}_{number}", number + 1
    return found


def encoder(model: Program, guide: Program, batch: Mapping[str, Tensor]) -> Part:
    """From data to what the guide says of each latent site of theirs: mean and scale, or a value.

    A site that depends on others has its moments given those before it at their means (of classes: at the most probable
    one); a site that has neither is drawn from noise, which is an input then.
    """
    given = _taken(guide, batch)
    settled = Settled()
    nodes = traced(settled(guide), **given).nodes
    sites = {
        name: moments_of(node)
        for name, node in nodes.items()
        if is_latent(node) and in_data_plate(node) and not node["infer"].get("is_auxiliary")
    }
    if not sites:
        raise NotExportable("the guide samples no latent site in a plate at dim -1: there is nothing to encode into")
    model_nodes = traced(
        poutine.replay(model, trace=poutine.trace(Settled(settled.plan)(guide)).get_trace(**given)), **batch
    ).nodes
    masked = any(
        kept(n) is not None for n in (masked_like(nodes[s], model_nodes[s]) for s in sites if s in model_nodes)
    )
    if masked:
        given = {**given, **_taken(model, batch)}

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        trace = poutine.trace(Settled(settled.plan)(guide)).get_trace(**inputs)
        found = dict(trace.nodes)
        if masked:
            beside = traced(poutine.replay(model, trace=trace), **inputs).nodes
            found |= {name: masked_like(found[name], beside[name]) for name in sites if name in beside}
        return {f"{name}{what}": read(found[name], what) for name, of in sites.items() for what in of}

    about = {}
    for name, of in sites.items():
        if of == [""]:
            how = settled.plan[name]
            about[name] = "a draw, made of noise" if how == "draw" and not is_point_mass(nodes[name]["fn"]) else "value"
            about[name] = "the most probable value" if how == "mode" else about[name]
        else:
            about |= {f"{name}{what}": f"{what.strip('.')} under the guide" for what in of}
    roles: dict[str, Role] = {name: "data" if name == X else "context" for name in given}
    return Part("encoder", nn.ModuleList([model, guide]), run, dict(given), roles, about=about)


def decoder(
    model: Program, batch: Mapping[str, Tensor], latents: Mapping[str, Tensor], site: str | None = None
) -> Part:
    """From latents, and context, to the mean of p(x | .), or to the probabilities of classes.

    Args:
        model: the generative program.
        batch: data, ``(n, ...)`` each.
        latents: values of latent sites for them, ``(n, *event)``; what is not there is drawn from the model.
        site: the data site; found, if None.
    """
    start = _Start(model, batch, site)
    values = {}
    for name, node in start.nodes.items():
        if name == start.site or not is_latent(node) or name.endswith(UNOBSERVED):
            continue
        if in_data_plate(node) and not is_point_mass(node["fn"]):
            values[name] = latents.get(name, data_first(node["value"], node))
    if not values:
        raise NotExportable("the model has no latent sites of single data: there is nothing to decode")
    context = {unused(name, [*values]): name for name in start.context}
    inputs = {**values, **{new: start.context[name] for new, name in context.items()}}

    def run(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        held = {name: given[name] for name in values}
        return start.run(
            Held(held)(model), len(next(iter(held.values()))), {n: given[new] for new, n in context.items()}
        )

    roles: dict[str, Role] = {name: "latent" if name in values else "context" for name in inputs}
    about = {**{name: _values_of(start.nodes[name]["fn"]) for name in values}, **start.about}
    return Part("decoder", nn.ModuleList([model]), run, inputs, roles, about=about)


def lowest_given_top(model: Program, batch: Mapping[str, Tensor], top: str, values: Tensor) -> Part:
    """As :func:`decoder`, of one latent site: the others are at the means that the model gives them, given it."""
    start = _Start(model, batch, None)
    with Settled() as settled, Held({top: values}):
        traced(model, **start.arguments(len(values), start.context))
    context = {unused(name, [top]): name for name in start.context}

    def run(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        program = Settled(settled.plan)(Held({top: given[top]})(model))
        return start.run(program, len(given[top]), {n: given[new] for new, n in context.items()})

    inputs = {top: values, **{new: start.context[name] for new, name in context.items()}}
    roles: dict[str, Role] = {name: "latent" if name == top else "context" for name in inputs}
    return Part("decoder", nn.ModuleList([model]), run, inputs, roles, about=start.about)


def sampler(model: Program, batch: Mapping[str, Tensor], site: str | None = None) -> Part:
    """From noise, and context, to the mean of p(x | z) at z ~ p(z)."""
    start = _Start(model, batch, site)
    if not start.context:  # nothing says how many, but noise

        def run(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return start.run(model, len(given[X]), {})

        inputs = {X: start.rows}
    else:

        def run(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return start.run(model, len(next(iter(given.values()))), given)

        inputs = dict(start.context)
    roles: dict[str, Role] = dict.fromkeys(inputs, "context")
    return Part("sampler", nn.ModuleList([model]), run, inputs, roles, about=start.about)


class _Start:
    """How a model is run without its data, up to them, found out by a run.

    Attributes:
        nodes: of the run's trace.
        site: the data site.
        context: what the model is given beside data, ``(n, ...)`` by name.
        rows: data, ``(n, ...)``, which stand in for data where a model cannot be run without.
    """

    def __init__(self, model: Program, batch: Mapping[str, Tensor], site: str | None) -> None:
        self.model, self.rows = model, batch[X]
        self.context = {name: value for name, value in _taken(model, batch).items() if name != X}
        try:
            trace, self.site = generated(model, len(self.rows), {**self.context, X: self.rows}, site)
        except InputError as error:
            raise NotExportable(f"the model cannot be run without its data: {error}") from error
        self.nodes = dict(trace.nodes)
        self.needs_rows = not self._runs_without()
        node = self.nodes[self.site]
        if hasattr(innermost(node["fn"]), "mean_along"):
            raise NotExportable(
                f"site '{self.site}' is drawn one number after another, each given those before it, which is "
                "no function of fixed size"
            )
        self.what = MEAN if mean_or_none(node["fn"]) is not None else PROBS
        if self.what == PROBS and not isinstance(innermost(node["fn"]), torch.distributions.Categorical):
            raise NotExportable(
                f"site '{self.site}' ({type(innermost(node['fn'])).__name__}) has neither a mean nor probabilities"
            )
        words = "mean of p(x | .)" if self.what == MEAN else "probabilities of the classes of each number"
        self.about = {f"{self.site}{self.what}": words}

    def arguments(self, count: int, context: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the model is called with, for so many data."""
        rows = self.rows[:1].expand(count, *self.rows.shape[1:]) if self.needs_rows else None
        return {**context, X: rows, "num_samples": count}

    def run(self, program: Callable[..., Any], count: int, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The output, by name: what the data site's distribution says."""
        reach = UpTo(self.site)
        try:
            with reach:
                program(**self.arguments(count, context))
        except Reached:
            pass
        if reach.found is None:
            raise NotExportable(f"site '{self.site}' is put together from several, which are drawn one after another")
        fn = reach.found["fn"]
        base = innermost(fn)
        if self.what == MEAN:
            return {f"{self.site}{MEAN}": data_first(fn.mean, reach.found)}
        shape = fn.batch_shape + fn.event_shape
        probs = base.probs.expand(*shape, base.probs.shape[-1])  # (..., batch, *event, K)
        return {f"{self.site}{PROBS}": probs.movedim(len(shape) - 1 - fn.event_dim, 0)}

    def _runs_without(self) -> bool:
        if not (takes(self.model, "num_samples") or self.context):
            return False
        try:
            with same_random_state():
                traced(self.model, **{**self.context, X: None, "num_samples": len(self.rows)})
        except Exception:  # a program that was not written to be run without data may fail in any way
            return False
        return True


def _values_of(fn: Any) -> str:
    """In words what a latent site's values are."""
    support = elementwise_support(fn)
    low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    if support is not None and support.is_discrete and low is not None and high is not None:
        return f"integers from {int(torch.as_tensor(low).min())} to {int(torch.as_tensor(high).max())}"
    return "values of the latent site"


def _taken(program: Program, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a batch that a program takes."""
    names = accepted_arguments(program)
    takes_data = data_argument(program, batch) is not None
    return {n: v for n, v in batch.items() if (takes_data if n == X else names is None or n in names)}
