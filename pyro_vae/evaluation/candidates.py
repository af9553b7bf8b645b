"""Images of texts: many candidates for each, of which the best are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Tokenizer
from pyro_vae.errors import InputError
from pyro_vae.evaluation.generate import sample
from pyro_vae.evaluation.ranking import Scorer, best_of, score_candidates
from pyro_vae.evaluation.session import positive
from pyro_vae.inference.batches import derived_seed
from pyro_vae.program import Batch

BATCH = 64


@dataclass
class Candidates:
    """The best of the images that were drawn for texts, the best first.

    Attributes:
        images: means of p(x | z), ``(M, num, *shape)``, on the CPU.
        scores: ``(M, num)``; None if nothing scored them.
        sites: what was drawn for them, by site, ``(M, num, ...)``.
    """

    images: Tensor
    scores: Tensor | None
    sites: dict[str, Tensor]


def draw_best(
    model: Callable[..., Any],
    tokenizer: Tokenizer,
    texts: Sequence[str],
    num: int = 1,
    *,
    best_of_many: int = 1,
    scorer: Scorer | None = None,
    seed: int = 0,
    batch: Batch | None = None,
    batch_size: int = BATCH,
    **how: Any,
) -> Candidates:
    """Draw ``num`` x ``best_of_many`` images for each text, and keep the ``num`` with the highest scores.

    At no time are there more images than a batch and those kept.

    Args:
        model: a program that takes ``text``, and samples x if it is given none.
        tokenizer: of the texts that it was trained on.
        texts: M texts.
        num: images to keep of each text.
        best_of_many: how many are drawn for each that is kept.
        scorer: of images in [0, 1] and texts; None: nothing is scored, which is for ``best_of_many`` 1 only.
        seed: of the draws (which also depend on ``batch_size``).
        batch: further context, one row each, for all images.
        batch_size: images drawn at once.
        how: temperature, top_k, top_p, guidance, scales of :func:`~pyro_vae.evaluation.generate.sample`.

    Raises:
        InputError: for texts that the tokenizer refuses, numbers that are not positive, many candidates without a
            scorer; as ``sample``.
    """
    for name, number in (("num", num), ("best_of_many", best_of_many), ("batch_size", batch_size)):
        positive(name, number)
    if best_of_many > 1 and scorer is None:
        raise InputError(f"the best of {best_of_many} cannot be found without a scorer: give one, or best_of_many=1")
    text = tokenizer.encode(texts)  # (M, T)
    parts = []
    for place, told in enumerate(texts):
        kept: Candidates | None = None
        for start in range(0, num * best_of_many, batch_size):
            count = min(batch_size, num * best_of_many - start)
            rows = {name: value.expand(count, *value.shape[1:]) for name, value in (batch or {}).items()}
            rows["text"] = text[place].expand(count, -1)
            draws = derived_seed(seed, f"candidates {place} {start}")
            drawn = sample(model, count, seed=draws, batch=rows, batch_size=count, **how)
            kept = _better(kept, drawn, told, scorer, num)
        assert kept is not None
        parts.append(kept)
    return Candidates(
        torch.cat([part.images for part in parts]),
        None if scorer is None else torch.cat([part.scores for part in parts if part.scores is not None]),
        {name: torch.cat([part.sites[name] for part in parts]) for name in parts[0].sites},
    )


def _better(
    kept: Candidates | None, drawn: dict[str, Tensor], text: str, scorer: Scorer | None, num: int
) -> Candidates:
    """The best of those that were kept so far and of new ones; all dimensions are ``(1, n, ...)``."""
    images = drawn.pop("x.mean")[None]
    sites = {name: value[None] for name, value in drawn.items()}
    scores = None if scorer is None else score_candidates(scorer, images.clamp(0, 1), [text]).cpu()  # (1, n)
    if kept is not None:
        images = torch.cat([kept.images, images], 1)
        sites = {name: torch.cat([kept.sites[name], value], 1) for name, value in sites.items()}
        scores = torch.cat([kept.scores, scores], 1) if scores is not None and kept.scores is not None else None
    if scores is None:
        return Candidates(images, None, sites)
    most = min(num, scores.shape[1])
    images, best = best_of(images, scores, most)
    return Candidates(images, best, {name: best_of(value, scores, most)[0] for name, value in sites.items()})
