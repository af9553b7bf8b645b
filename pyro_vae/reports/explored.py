"""What a latent explorer shows of a run: points, pictures, a decoder or a grid of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.evaluation.encoding import principal_components
from pyro_vae.export.plain import Plain

REACH = 3.0  # prior deviations that a slider goes to


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
        return {
            "title": title,
            "names": names,
            "origin": origin,
            "directions": axes,
            "points": points,
            "low": low,
            "high": high,
        }


def unit_name(site: str, event: Sequence[int], index: int) -> str:
    """What a unit of a site is called: ``z[3]``, ``z[0,2,1]``."""
    place = np.unravel_index(index, tuple(event)) if event else ()
    return f"{site}[{','.join(map(str, place))}]" if event else site
