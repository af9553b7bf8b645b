"""``write_explorer``: a page on which latents are moved by hand, and decoded in the browser."""

from __future__ import annotations

import base64
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError, unknown
from pyro_vae.evaluation.encoding import NO_FREE_SITE, free_sites, mean_path, principal_components
from pyro_vae.evaluation.latent_units import latent_statistics
from pyro_vae.export.parts import NotExportable, Part, lowest_given_top
from pyro_vae.export.plain import Plain, plain
from pyro_vae.files import write_atomically
from pyro_vae.plots.images import evenly, grey_range, is_image
from pyro_vae.programs.context import X, declared_context, num_classes
from pyro_vae.programs.program import Program, as_programs, prime
from pyro_vae.programs.session import in_evaluation
from pyro_vae.programs.sites import factors
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
CHECKED = 3  # points at which the page compares itself with Python
REACH = 3.0  # prior deviations that a slider goes to


@dataclass
class Blob:
    """Arrays one after another, by place and length."""

    parts: list[np.ndarray] = field(default_factory=list)
    count: int = 0

    def put(self, values: Any, dtype: str = "<f4") -> list[int]:
        """Add numbers; where they begin, and how many they are."""
        array = np.ascontiguousarray(np.asarray(values), dtype=dtype).reshape(-1)
        self.parts.append(array)
        self.count += array.size
        return [self.count - array.size, array.size]

    def text(self) -> str:
        """In base64."""
        return base64.b64encode(b"".join(part.tobytes() for part in self.parts)).decode()


@dataclass
class Explored:
    """What the page shows.

    Attributes:
        name: of the run; lead: what it is, in a sentence.
        site: the latent site; event: its shape; others: sites that are at the model's means.
        shape: of a picture, (C, H, W); limits: black and white.
        means: of the guide, ``(n, dim)``; labels: of these data, or None; classes: the names of labels.
        kl: of each unit, ``(dim,)``.
        loc, scale: of the prior, if it is Gaussian.
        thumbs: places of the data to pick among all; pictures: they, ``(THUMBS, C, H, W)``.
        contexts: names of what the model is given; thumb_contexts: that of each of those data.
        of_classes: whether these are classes, and not the data's own context.
        program: the decoder; None: ``grid``, pictures ``(contexts, side, side, C, H, W)``, and why.
    """

    name: str
    lead: str
    site: str
    event: tuple[int, ...]
    others: list[str]
    shape: tuple[int, int, int]
    limits: tuple[float, float]
    means: Tensor
    labels: list[int] | None
    classes: list[str] | None
    kl: Tensor
    loc: Tensor | None
    scale: Tensor | None
    thumbs: list[int]
    pictures: Tensor
    contexts: list[str]
    thumb_contexts: list[int]
    of_classes: bool
    checks: list[tuple[Tensor, int, Tensor]] = field(default_factory=list)
    program: Plain | None = None
    grid: Tensor | None = None
    why: str = ""

    @property
    def start(self) -> Tensor:
        """Where the page begins, ``(dim,)``: in the middle of the prior, or of the data."""
        return self.means.mean(0) if self.loc is None else self.loc

    def ends(self, points: Tensor, loc: Tensor | None, scale: Tensor | None) -> tuple[list[float], list[float]]:
        """From where to where coordinates are shown, of ``(n, k)``."""
        low, high = points.min(0).values, points.max(0).values
        margin = 0.05 * (high - low) + 1e-3
        low, high = low - margin, high + margin
        if loc is not None and scale is not None:
            low, high = torch.minimum(low, loc - REACH * scale), torch.maximum(high, loc + REACH * scale)
        return low.tolist(), high.tolist()

    def planes(self) -> list[dict[str, Any]]:
        """Planes through latent space: two units, and two principal components if there are more."""
        dim = self.means.shape[1]
        order = self.kl.argsort(descending=True, stable=True)[:2].sort().values
        axes = torch.zeros(2, dim)
        axes[range(len(order)), order] = 1
        prior = (None, None) if self.loc is None or self.scale is None else (self.loc @ axes.T, self.scale @ axes.T)
        names = [unit_name(self.site, self.event, int(i)) for i in order]
        title = "the two units" if dim == 2 else "the two units of largest KL"
        found = [self._plane(title, names, torch.zeros(dim), axes, *prior)]
        if dim > 2 and len(self.means) > 2:
            components = principal_components(self.means, 2)
            share = [f"component {i + 1} ({100 * float(e):.0f} %)" for i, e in enumerate(components.explained)]
            found.append(
                self._plane("the means' two principal components", share, self.means.mean(0), components.directions.T)
            )
        return found

    def _plane(
        self, title: str, names: list[str], origin: Tensor, axes: Tensor, loc: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        points = (self.means - origin) @ axes.T
        low, high = self.ends(points, loc, scale)
        return {"title": title, "names": names, "origin": origin, "directions": axes, "points": points, "low": low, "high": high}


def unit_name(site: str, event: Sequence[int], index: int) -> str:
    """What a unit of a site is called: ``z[3]``, ``z[0,2,1]``."""
    place = np.unravel_index(index, tuple(event)) if event else ()
    return f"{site}[{','.join(map(str, place))}]" if event else site


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
    explored = explore(trained, part_of(trained.data, split), site, seed)
    file, floats, marks = trained.path / PAGE, Blob(), Blob()
    text = explorer_page(explored, floats, marks)
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
            raise InputError(f"{trained.path}: site '{drawn}' has no mean and is drawn: no page shows one picture of '{site}'")
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
        ((name, value),) = given.items()
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
        found = latent_statistics(trained.model, trained.guide, some, num_particles=4, seed=seed).sites[site].kl_per_unit
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
    points = torch.stack([explored.start, explored.means[0], explored.means[-1] + 0.5 * noise][:CHECKED])
    if explored.grid is None:
        explored.checks = [(z, i % count, made(z[None], i % count)[0]) for i, z in enumerate(points)]


def as_json(value: Any) -> str:
    """JSON that may stand in a page's script."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
