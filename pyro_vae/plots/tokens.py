"""Figures of tokens: data beside their reconstructions, samples, and what lies between two data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.data.tokens import Tokens
from pyro_vae.errors import InputError, NotApplicable
from pyro_vae.evaluation.encoding import has_latents
from pyro_vae.evaluation.generate import draw, reconstruct
from pyro_vae.evaluation.latent_space import Kind, decode_path, paths_between
from pyro_vae.plots.drawing import Figure
from pyro_vae.plots.images import pick
from pyro_vae.plots.registry import figure
from pyro_vae.plots.tables import token_table
from pyro_vae.programs.context import X
from pyro_vae.programs.program import Batch

logger = logging.getLogger(__name__)

NUM_SAMPLES = 16
GREEDY = "each token the most probable given those before it"
Made = TypeVar("Made")


@figure(
    section="Reconstructions",
    caption="Data, and what the model makes of them through the mean of q(z | x), each token the most probable one.",
)
def token_reconstructions(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    tokens: Tokens | None,
    n: int = 12,
    seed: int = 0,
) -> Figure:
    """Data and their reconstructions through the mean of q(z | x), each token the most probable given those before.

    A likelihood that cannot be tempered (:class:`~pyro_vae.programs.handlers.Tempered`) gives draws.

    Args:
        model, guide: the programs.
        split: the data, of which n at even distances are shown.
        tokens: what the integers stand for.
        n: rows.
        seed: of the draws of what has no mean.

    Raises:
        NotApplicable: if the data are no tokens, or the model has no latents.

    Source: Bowman et al. 2016, arXiv:1511.06349, table 7.
    """
    tokens = _known(tokens)
    batch = pick(split, n, seed)
    if not has_latents(model, guide, batch):
        raise NotApplicable("the model has no latents")
    made, how = chosen(lambda **how: reconstruct(model, guide, batch, seed=seed, at_mean=True, **how))
    columns = {"data": batch[X].cpu(), "reconstruction": made}
    return token_table(tokens, columns, f"{split.name}: reconstructions from the mean of q(z | x){how}")


@figure(
    section="Samples",
    caption="Draws x ~ p(x | z), z drawn from the prior.",
    given=lambda run: dict(zip(("n", "batch"), run.context(NUM_SAMPLES), strict=True)),
)
def token_samples(
    model: Callable[..., Any],
    tokens: Tokens | None,
    n: int = NUM_SAMPLES,
    seed: int = 0,
    batch: Batch | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int | None = None,
) -> Figure:
    """Draws of the model.

    Args:
        model: the generative program.
        tokens: what the integers stand for.
        n: how many.
        seed: of the draws.
        batch: context that the model needs, ``(n, ...)`` each.
        temperature, top_k, top_p, beams: as for :func:`~pyro_vae.evaluation.generate.sample`.

    Raises:
        NotApplicable: if the data are no tokens.
    """
    tokens = _known(tokens)
    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "beams": beams}
    drawn = draw(model, n, seed=seed, batch=batch, **how)
    return token_table(tokens, {"samples": drawn.mean}, f"Samples of the model{said(**how)}")


@figure(section="Traversals", caption="From one datum to another through latent space.", order=1)
def token_interpolations(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    tokens: Tokens | None,
    kind: Kind = "spherical",
    pairs: int = 2,
    steps: int = 7,
    seed: int = 0,
) -> Figure:
    """What the model makes of latents between the means of two data, which stand at both ends.

    Args:
        model, guide: the programs; context that they need is that of the first of two.
        split: the data, of which ``2 * pairs`` at even distances are taken.
        tokens: what the integers stand for.
        kind: ``"linear"`` or ``"spherical"``, see :func:`pyro_vae.evaluation.latent_space.interpolate`.
        pairs: columns.
        steps: points on the way, both ends included.
        seed: of draws, one noise along a way.

    Raises:
        NotApplicable: if the data are no tokens, there are no two of them, or no real-valued latents.

    Source: Bowman et al. 2016, arXiv:1511.06349, table 8.
    """
    tokens = _known(tokens)
    batch = pick(split, 2 * pairs, seed)
    half = len(batch[X]) // 2
    if half < 1:
        raise NotApplicable("one datum only")
    left, right = ({name: value[i * half : (i + 1) * half] for name, value in batch.items()} for i in range(2))
    path, kind = paths_between(model, guide, left, right, steps, kind=kind, seed=seed)
    made, how = chosen(lambda **how: decode_path(model, path, seed=seed, batch=left, **how))  # (half, steps, T)
    columns = {f"pair {i + 1}": between(left[X][i], made[i], right[X][i]) for i in range(half)}
    return token_table(tokens, columns, f"{split.name}: {kind} interpolation{how}", rows=labels(steps))


def between(a: Tensor, made: Tensor, b: Tensor) -> Tensor:
    """Two data and what was made between them, ``(steps + 2, T)``."""
    return torch.cat([a.cpu()[None], made, b.cpu()[None]])


def labels(steps: int) -> list[str]:
    """What is said of the places on a way, the two data at its ends among them."""
    return ["datum", *(f"{i / (steps - 1):.3g}" for i in range(steps)), "datum"]


def said(
    temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, beams: int | None = None
) -> str:
    """How tokens were chosen, after a comma; nothing of plain draws."""
    words = [
        f"temperature {temperature:g}" * (temperature != 1),
        GREEDY if top_k == 1 else f"top {top_k} tokens" * (top_k is not None),
        f"top_p {top_p}" * (top_p is not None),
        f"beam search of width {beams}" * (beams is not None),
    ]
    return "".join(f", {word}" for word in words if word)


def chosen(make: Callable[..., Made], how: Mapping[str, Any] = MappingProxyType({})) -> tuple[Made, str]:
    """What ``make(**how)`` gives, and how tokens were chosen, after a comma (:func:`said`).

    If nothing is said, greedily; draws, and a line in the log, where a model's tokens cannot be tempered.
    """
    if how:
        return make(**how), said(**how)
    try:
        return make(top_k=1), said(top_k=1)
    except InputError as error:
        made = make()
        logger.info("tokens are drawn: %s", error)
        return made, ", draws of p(x | z)"


def _known(tokens: Tokens | None) -> Tokens:
    if tokens is None:
        raise NotApplicable("the data are no tokens")
    return tokens
