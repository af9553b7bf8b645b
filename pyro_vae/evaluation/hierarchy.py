"""The levels of a hierarchy of latents, and reconstructions from the first of them alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.evaluation.codes import code_sites
from pyro_vae.evaluation.encoding import UNOBSERVED, posterior_samples
from pyro_vae.evaluation.generate import decode
from pyro_vae.programs.checks import check_present
from pyro_vae.programs.context import accepted_arguments
from pyro_vae.programs.program import Batch, as_programs, prime
from pyro_vae.programs.session import in_evaluation
from pyro_vae.programs.sites import in_data_plate, is_point_mass
from pyro_vae.programs.traces import is_latent


class Level(NamedTuple):
    """Latents that are told together.

    Attributes:
        name: of the site that the model draws.
        functions: sites that are functions of it (and of levels before): the vectors of codes.
        is_code: whether the site is one of codes.
    """

    name: str
    functions: tuple[str, ...]
    is_code: bool

    @property
    def sites(self) -> tuple[str, ...]:
        """All its sites, in the model's order."""
        return (self.name, *self.functions)

    @property
    def can_be_left_out(self) -> bool:
        """Whether it can be held at a mean over data: codes, of which the model sees the vectors."""
        return self.is_code and bool(self.functions)


def levels_of(model: Callable[..., Any], guide: Callable[..., Any], split: Split) -> list[Level]:
    """The levels of a model's latents, in its order: a site that it draws, with the point masses after it.

    What the guide does not draw, since it is summed over, is none; nor is what stands for missing parts of data.

    Args:
        model, guide: the programs.
        split: data, one of which is looked at.
    """
    programs = as_programs(model, guide)
    with in_evaluation(programs, split.batch(slice(0, 1)), seed=0) as batch:
        for program, who in zip(programs, ("model", "guide"), strict=True):
            check_present(program, batch, who)
        model_trace, guide_trace = prime(*programs, batch)
        nodes = {name: node for name, node in model_trace.nodes.items() if name in guide_trace.nodes}
    codes = code_sites(nodes, accepted_arguments(programs[0]) or ())
    levels: list[Level] = []
    for name, node in nodes.items():
        if not (is_latent(node) and in_data_plate(node)) or name.endswith(UNOBSERVED):
            continue
        if levels and is_point_mass(node["fn"]) and node["value"].is_floating_point():
            levels[-1] = levels[-1]._replace(functions=(*levels[-1].functions, name))
        else:
            levels.append(Level(name, (), name in codes))
    return levels


def average_values(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    levels: Sequence[Level],
    *,
    batch_size: int = 50,
    seed: int = 0,
) -> dict[str, Tensor]:
    """What stands for levels of codes that are left out: the mean over data of the vectors, the commonest codes.

    The codes do not matter where the model sees their vectors only, but no datum's own may be let through.

    Args:
        model, guide: the programs.
        split: the data.
        levels: those to leave out.
        batch_size: data encoded at once.
        seed: of the draws of a guide that has any.

    Returns:
        ``(*event)`` by site name.
    """
    codes: dict[str, list[Tensor]] = {level.name: [] for level in levels}
    sums: dict[str, Tensor] = {}
    wanted = [name for level in levels for name in level.sites]
    for batch in split.batches(batch_size):
        values = posterior_samples(model, guide, batch, batch_size=batch_size, seed=seed, sites=wanted)
        for level in levels:
            codes[level.name].append(values[level.name])
            for name in level.functions:
                part = values[name].double().sum(0)
                sums[name] = sums[name] + part if name in sums else part
    means = {name: (value / len(split)).float() for name, value in sums.items()}
    return {name: torch.cat(parts).mode(0).values for name, parts in codes.items()} | means


def reconstruct_by_level(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: Batch,
    levels: Sequence[Level],
    average: dict[str, Tensor],
    *,
    counts: Sequence[int] | None = None,
    seed: int = 0,
) -> list[Tensor]:
    """Means of p(x | z) with the first level's latents from the guide, the first two levels', ..., all of them.

    Args:
        model, guide: the programs.
        batch: data, ``(batch, ...)`` each.
        levels: as from :func:`levels_of`.
        average: values of what is left out, as from :func:`average_values`; sites that are neither in it nor among the
            levels so far are drawn from the model, given those.
        counts: how many levels are taken from the guide, each time; 1, 2, ... and all, if None.
        seed: of the draws.

    Returns:
        ``(batch, *event)`` for each count, on the CPU.

    Raises:
        InputError: for a model that cannot be run without data.
    """
    count = len(next(iter(batch.values())))
    values = posterior_samples(model, guide, batch, batch_size=count, seed=seed)
    found = []
    for known in counts or range(1, len(levels) + 1):
        held = {name: values[name] for level in levels[:known] for name in level.sites}
        for name in (name for level in levels[known:] for name in level.sites if name in average):
            held[name] = average[name].expand(count, *average[name].shape)
        found.append(decode(model, held, seed=seed, batch=batch))
    return found
