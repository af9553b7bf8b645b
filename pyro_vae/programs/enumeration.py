"""Discrete latents that are summed over exactly: which they are, and runs of programs at all their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyro import poutine
from pyro.infer import infer_discrete
from pyro.poutine import Trace
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.programs.sites import Site, in_data_plate
from pyro_vae.runtime import LimitedMemory

PARTICLES = "particles"  # the name of their plate
ONE_DATUM, TENSORS = 2 * 2**30, 10**6  # bytes that a datum may take in all, and how many tensors
MOST = 2**28  # numbers in one table of log-densities
NAMED = 8  # sites that an error names, at most


@dataclass(frozen=True)
class Sums:
    """The latent sites of a pair that are summed over, not drawn.

    Attributes:
        model: those that the guide does not have.
        guide: those that the guide has, with ``infer={"enumerate": "parallel"}``.
    """

    model: frozenset[str] = frozenset()
    guide: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return self.model | self.guide

    def __bool__(self) -> bool:
        return bool(self.names)


NOTHING = Sums()


def summed_sites(model: Trace, guide: Trace) -> Sums:
    """Which latent sites of a pair are summed over: discrete ones that the guide marks as Pyro does, or does not have.

    Args:
        model, guide: traces, in which all sites are drawn.

    Raises:
        InputError: names a site that is marked and cannot be enumerated, is enumerated by samples
            (``infer["num_samples"]``), or is shared by all data.
    """
    latent = {name: s for name, s in model.nodes.items() if s["type"] == "sample" and not s["is_observed"]}
    of_guide = {name for name, s in guide.nodes.items() if s["type"] == "sample" and _marked(s)}
    of_model = {name for name, s in latent.items() if name not in guide.nodes and (_marked(s) or is_countable(s["fn"]))}
    for name in of_guide | of_model:
        site = latent.get(name, guide.nodes.get(name))
        if not is_countable(site["fn"]):
            raise InputError(
                f"latent site '{name}' is marked to be enumerated, but its {type(site['fn']).__name__} has no finite "
                "list of values (of several discrete numbers of a datum only an inner plate can be enumerated, not an "
                "event: leave out .to_event); take the mark away, and let the guide draw it"
            )
        if site["infer"].get("num_samples") is not None:
            raise InputError(
                f"latent site '{name}' is to be enumerated by samples (infer['num_samples']), which is no exact sum: "
                "leave num_samples out"
            )
        if not in_data_plate(site):
            raise InputError(
                f"latent site '{name}' is outside the data plate: a sum over its values would join all data; put it "
                "into the data plate, or let the guide draw it"
            )
        if name not in latent:
            raise InputError(f"the guide enumerates site '{name}', which the model does not have as a latent")
    return Sums(frozenset(of_model), frozenset(of_guide))


def _marked(site: Site) -> bool:
    return site["infer"].get("enumerate") in ("parallel", "sequential") and not site["is_observed"]


def is_countable(fn: Any) -> bool:
    """Whether a distribution has a finite list of values for each number of its batch."""
    if not getattr(fn, "has_enumerate_support", False):
        return False
    try:
        fn.enumerate_support(expand=False)
    except NotImplementedError:  # an event of several numbers
        return False
    return True


def check_terms(run: Callable[[], object], sums: Sums, model: Trace, guide: Trace) -> None:
    """Run a pair on one datum with all values of what is summed over, in bounded memory.

    Args:
        run: does so.
        sums: what is summed over.
        model, guide: traces in which it is drawn.

    Raises:
        InputError: if that takes too much memory; says how many terms there are.
    """
    nodes = {**guide.nodes, **model.nodes}
    sizes = {name: len(nodes[name]["fn"].enumerate_support(expand=False)) for name in sums.names}
    terms = " x ".join(f"{size} ({name})" for name, size in sorted(sizes.items())[:NAMED])
    message = (
        f"all values of what is summed over take more than {ONE_DATUM / 2**30:.0f} GiB for a single datum: "
        f"{terms}{' …' if len(sizes) > NAMED else ''}, {math.prod(sizes.values()):,} terms where all depend on one "
        "another. Let the guide draw some of these latents; use pyro.markov for chains, and inner plates for latents "
        "that are independent"
    )
    try:
        with LimitedMemory(ONE_DATUM, TENSORS, message):
            run()
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise InputError(message) from error


class Marked(Messenger):
    """A handler that marks sites to be enumerated, in Pyro's way, and no others.

    Args:
        sites: their names.
    """

    def __init__(self, sites: frozenset[str]) -> None:
        super().__init__()
        self.sites = sites

    def _pyro_sample(self, msg: Any) -> None:
        wanted = "parallel" if msg["name"] in self.sites else None
        if msg["infer"].get("enumerate") != wanted:
            msg["infer"] = {**msg["infer"], "enumerate": wanted}


class AllValues(EnumMessenger):
    """A handler under which sites have all their values at once, each site along a dimension of its own.

    Args:
        sites: their names.
        first_dim: the first free dimension from the right, negative; None: those left free by the run before.
    """

    def __init__(self, sites: frozenset[str], first_dim: int | None = None) -> None:
        super().__init__(first_dim)
        self._marks = Marked(sites)

    def _pyro_sample(self, msg: Any) -> None:
        self._marks._pyro_sample(msg)
        super()._pyro_sample(msg)
        size = math.prod(getattr(msg["fn"], "batch_shape", ()))
        if size > MOST:
            raise InputError(
                f"site '{msg['name']}' would have {size:,} terms ({' x '.join(map(str, msg['fn'].batch_shape))}: data, "
                "particles and all values of what is summed): fewer data or particles at once, fewer values, or let "
                "the guide draw some of these latents"
            )


def with_all_values(
    model: Callable[..., Any], guide: Callable[..., Any], sums: Sums, nesting: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Both programs under :class:`AllValues`, the guide to be run first.

    Args:
        model, guide: in the plate of particles, if there is one.
        sums: what is summed over; if nothing, the programs are given back.
        nesting: batch dimensions of their own plates.
    """
    if not sums:
        return model, guide
    return AllValues(sums.model)(model), AllValues(sums.guide, -(nesting + 2))(guide)


def drawn_given_data(
    model: Callable[..., Any], guide: Trace, batch: Mapping[str, Tensor], sums: Sums, nesting: int
) -> Trace:
    """A guide's trace and, beside its sites, draws of what is summed in the model, given data and guide's draws.

    By Pyro's ``infer_discrete``: chains forwards and backwards.

    Args:
        model: the program; it is given the whole batch.
        guide: of a run on the batch, in which all its sites are drawn.
        batch: the data.
        sums: what is summed over.
        nesting: batch dimensions of the model's own plates.
    """
    if not sums.model:
        return guide
    drawn = {name: site for name, site in guide.nodes.items() if site["type"] == "sample"}
    held = {name: site["value"] for name, site in drawn.items() if not site_is_subsample(site)}
    marked = Marked(sums.model)(poutine.condition(model, data=held))
    inferred = infer_discrete(marked, first_available_dim=-(nesting + 1))
    given, found = poutine.trace(inferred).get_trace(**batch), guide.copy()
    for name in sums.model:
        found.add_node(name, **given.nodes[name])
    return found


def alone_with_all_values(model: Callable[..., Any], sums: Sums, nesting: int) -> Callable[..., Any]:
    """A model under :class:`AllValues` that is run without the guide."""
    return AllValues(sums.model, -(nesting + 2))(model) if sums else model
