"""``write_explorer``: a page on which latents are moved by hand, and decoded in the browser."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError, unknown
from pyro_vae.evaluation.encoding import NO_FREE_SITE, free_sites, mean_path
from pyro_vae.evaluation.latent_units import latent_statistics
from pyro_vae.export.parts import NotExportable, Part, lowest_given_top
from pyro_vae.export.plain import plain
from pyro_vae.files import write_atomically
from pyro_vae.plots.images import evenly, grey_range, is_image
from pyro_vae.programs.context import X, declared_context, num_classes
from pyro_vae.programs.program import Program, as_programs, prime
from pyro_vae.programs.session import in_evaluation
from pyro_vae.programs.sites import factors
from pyro_vae.reports.explored import Explored
from pyro_vae.reports.explorer_page import explorer_page
from pyro_vae.reports.stored import TrainedPair
from pyro_vae.runs.measurements import part_of
from pyro_vae.runs.run import Run

logger = logging.getLogger(__name__)

PAGE = "explorer.html"
POINTS, THUMBS = 1000, 24  # data in the plane, and to pick
KL_DATA = 200  # data over which the units' KL is a mean
MOST_NUMBERS = 8_000_000  # of a decoder within the page: 43 MB of text
SIDE, MOST_BYTES = 15, 12_000_000  # of a grid of pictures, in the place of a decoder


def write_explorer(
    run: Run | str | Path,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    data: Data | Split | None = None,
    *,
    site: str | None = None,
    split: str = "test",
    seed: int = 0,
    trust: bool = False,
) -> Path:
    """Write ``explorer.html`` into a run directory, one page that needs no other file and no network.

    It has sliders over the units of a latent site, the plane of two of them with the guide's means of data, and ways
    from one datum to another. The decoder is in the page, and run there, if it is made of operations that the page's
    executor has and is not too large; else pictures on a grid of the plane are, and what is between them is a mixture.

    Args:
        run: a run, or its directory.
        model, guide, data: of a run that was trained from Python (``fit(..., out=path)``), and so has no configuration.
        site: the latent site; None: the first with real values of its own that the model draws.
        split: the part of the data that is shown.
        seed: of all draws.
        trust: allow class paths outside ``pyro_vae`` in the configuration; their code is run.

    Returns:
        the page.

    Raises:
        InputError: for data that are no images, a site that is not there or has no real values, and as
            :func:`~pyro_vae.reports.write_report`.
    """
    trained = TrainedPair.of(run, model, guide, data, trust=trust)
    file, text = trained.path / PAGE, explorer_page(explore(trained, part_of(trained.data, split), site, seed))
    write_atomically(file, lambda path: path.write_text(text, encoding="utf-8"))
    logger.info("%s: %.1f MB", file, len(text) / 1e6)
    return file


def explore(trained: TrainedPair, split: Split, site: str | None, seed: int) -> Explored:
    """What the page of a run shows: see :func:`write_explorer`."""
    pictures = None if trained.run is None else trained.run.pictures
    if not is_image(split.shape) or pictures is not None or trained.data.train.integers:
        raise InputError(f"{trained.path}: its data, of shape {split.shape}, are no images that a page could draw")
    split = split.fixed()
    split = split if len(split) <= POINTS else split.subset(POINTS)
    programs = as_programs(trained.model, trained.guide)
    free = free_sites(*programs, split)
    if not free:
        raise InputError(f"{trained.path}: {NO_FREE_SITE}, so that there is nothing to move")
    if site is not None and site not in free:
        raise unknown("latent site with real values", site, free)
    site = free[0] if site is None else site
    means = mean_path(*programs, split, seed=seed, sites=[site])[site]  # (n, *event)
    event = tuple(means.shape[1:])
    shape = split.shape if len(split.shape) == 3 else (1, *split.shape)
    thumbs = evenly(len(split), min(THUMBS, len(split)))
    with in_evaluation(programs, split.batch(thumbs), seed) as batch:
        model_trace, _ = prime(*programs, batch)
        try:
            part = lowest_given_top(programs[0], batch, site, means[thumbs].to(batch[X].device)).with_noise()
        except NotExportable as error:
            raise InputError(f"{trained.path}: {error}") from error
        if part.draws:
            drawn = next(iter(part.draws.values())).site
            raise InputError(
                f"{trained.path}: site '{drawn}' has no mean and is drawn: no page shows one picture of '{site}'"
            )
        contexts, names, of_classes = _contexts(programs[0], part, site, trained.run)
        labels = split.tensors.get("y") if "y" in split.keys else None
        labels = labels if labels is not None and labels.dim() == 1 and not labels.is_floating_point() else None
        in_turn = [0] * len(thumbs) if not contexts else list(range(len(thumbs)))
        if of_classes:
            in_turn = next(iter(part.inputs[name] for name in contexts)).long().tolist()
        loc, scale = _prior(model_trace.nodes[site]["fn"], event)
        x = split.batch(slice(0, len(split)))[X]
        classes = None if trained.run is None or trained.run.classes is None else list(trained.run.classes)
        explored = Explored(
            trained.path.resolve().name,
            f"{type(trained.model).__name__} on {trained.data.name}, {split.name} data",
            site,
            event,
            [name for name in free if name != site],
            (int(shape[0]), int(shape[1]), int(shape[2])),
            grey_range(x),
            means.flatten(1).float() if event else means[:, None].float(),
            None if labels is None else labels.tolist(),
            classes,
            _unit_kl(trained, split, site, means, seed),
            loc,
            scale,
            thumbs.tolist(),
            batch[X].reshape(len(thumbs), *shape).float().cpu(),
            names,
            in_turn,
            of_classes,
        )
        _add_decoder(explored, part, contexts, seed)
    return explored


def _contexts(model: Program, part: Part, site: str, run: Run | None) -> tuple[dict[str, Tensor], list[str], bool]:
    """What a model is given beside the latent, to choose from; in words; and whether these are classes."""
    given = {name: value for name, value in part.inputs.items() if name != site}
    if not given:
        return {}, [], False
    declared = declared_context(model)
    if len(given) == 1:
        (name,) = given
        count = num_classes(declared[name]) if name in declared else None
        if count is not None:
            known = None if run is None else run.classes
            return {name: torch.arange(count)}, [str(c) for c in (known or range(count))], True
    return given, [f"that of datum {i + 1}" for i in range(len(next(iter(given.values()))))], False


def _prior(fn: Any, event: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None]:
    """Location and scale of a Gaussian prior that is the same for all data, flat; else None."""
    base = factors(fn)[0]
    if not isinstance(base, dist.Normal):
        return None, None
    found = []
    for value in (base.loc, base.scale):
        rows = value.expand(fn.batch_shape + fn.event_shape).reshape(-1, math.prod(event)).float().cpu()
        if not bool((rows == rows[0]).all()):
            return None, None
        found.append(rows[0])
    return found[0], found[1]


def _unit_kl(trained: TrainedPair, split: Split, site: str, means: Tensor, seed: int) -> Tensor:
    """KL of each unit, nats; where units have none of their own, the variance of the means tells their order."""
    some = split if len(split) <= KL_DATA else split.subset(KL_DATA)
    try:
        found = (
            latent_statistics(trained.model, trained.guide, some, num_particles=4, seed=seed).sites[site].kl_per_unit
        )
    except InputError as error:  # a pair that cannot be measured can be looked at
        logger.info("KL of units: %s", error)
        found = means.new_empty(0)
    if found.numel() == means[0].numel():
        return found.flatten()
    return means.double().reshape(len(means), -1).var(0, unbiased=False)


def _add_decoder(explored: Explored, part: Part, contexts: Mapping[str, Tensor], seed: int) -> None:
    """The decoder as plain operations, or a grid of pictures; and what it makes of a few points."""
    count = max(1, len(explored.contexts))
    dtype = part.inputs[explored.site].dtype

    def made(z: Tensor, which: int) -> Tensor:
        rows = {explored.site: z.reshape(len(z), *explored.event).to(dtype)}
        rows |= {name: value[which : which + 1].expand(len(z), *value.shape[1:]) for name, value in contexts.items()}
        return part(**rows)[0].reshape(len(z), *explored.shape).float()

    if not part.outputs()[0].endswith(".mean"):
        raise InputError("the data are classes without a mean: there is no picture of p(x | z)")
    try:
        explored.program = plain(part, explored.site, contexts)
        if explored.program.size > MOST_NUMBERS:
            explored.why = f"the decoder has {explored.program.size:,} numbers, more than a page should hold"
    except NotExportable as error:
        explored.why = str(error)
    if explored.why:
        logger.warning("the page has a grid of pictures, and no decoder: %s", explored.why)
        explored.program = None
        side = min(SIDE, math.isqrt(MOST_BYTES // (count * math.prod(explored.shape))))
        if side < 3:
            raise InputError(f"{explored.why}; and {count} grids of its pictures are too large for a page, too")
        plane = explored.planes()[0]
        ticks = [torch.linspace(low, high, side) for low, high in zip(plane["low"], plane["high"], strict=True)]
        across = torch.stack(torch.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, 2)  # (side * side, 2)
        start = explored.start - (explored.start @ plane["directions"].T) @ plane["directions"]
        points = start + across @ plane["directions"]
        explored.grid = torch.stack([made(points, k) for k in range(count)]).unflatten(1, (side, side))
    noise = torch.randn(explored.means.shape[1], generator=torch.Generator().manual_seed(seed))
    points = torch.stack([explored.start, explored.means[0], explored.means[-1] + 0.5 * noise])
    if explored.grid is None:
        explored.checks = [(z, i % count, made(z[None], i % count)[0]) for i, z in enumerate(points)]
