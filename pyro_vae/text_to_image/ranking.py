"""Re-ranking: many candidate images are drawn for a text, and a scorer keeps the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Tokenizer
from pyro_vae.data.scenes import Scenes
from pyro_vae.errors import InputError, positive
from pyro_vae.evaluation.generate import sample
from pyro_vae.models.contrastive import ContrastiveModel
from pyro_vae.programs.program import Batch
from pyro_vae.text_to_image.scene_accuracy import score_scenes
from pyro_vae.training.batches import derived_seed

Scorer = Callable[[Tensor, Sequence[str]], Tensor]  # images (N, C, H, W) in [0, 1] and N captions -> scores (N,)
BATCH = 256


class ContrastiveScorer:
    """A scorer by a trained contrastive model.

    Args:
        model: the model.
        tokenizer: the one that it was trained with.
    """

    def __init__(self, model: ContrastiveModel, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    @torch.no_grad()
    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores ``(N,)`` of N images and captions, on the model's device.

        Raises:
            InputError: see :meth:`Tokenizer.encode`; for images of another shape.
        """
        device = self.model.log_scale.device
        text, which = self._tokens(captions)
        texts = self.model.embed_texts(text.to(device))[which.to(device)]  # (N, dim)
        vectors = torch.cat([self.model.embed_images(some.to(device)) for some in images.split(BATCH)])
        return self.model.scale() * (vectors * texts).sum(-1)

    def _tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Different captions' tokens ``(M, T)``, and which of them each caption is, ``(N,)``."""
        places = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
        return self.tokenizer.encode(list(places)), torch.tensor([places[caption] for caption in captions])


def scene_scorer(scenes: Scenes) -> Scorer:
    """A scorer that knows the answer, of scenes: the share of objects at their places; what re-ranking could reach."""

    def score(images: Tensor, captions: Sequence[str]) -> Tensor:
        judged = score_scenes(images, captions, scenes)
        return judged.per_object + judged.scenes

    return score


def score_candidates(scorer: Scorer, candidates: Tensor, captions: Sequence[str]) -> Tensor:
    """Scores ``(M, N)`` of N candidates for each of M captions.

    Args:
        scorer: any callable ``(images (n, C, H, W), n captions) -> (n,)``.
        candidates: ``(M, N, C, H, W)``.
        captions: M.

    Raises:
        InputError: for another number of captions, or if the scorer gives no one number for each image.

    Example:
        >>> import torch
        >>> from pyro_vae.text_to_image import score_candidates
        >>> def brightness(images, captions):
        ...     return images.flatten(1).mean(1)
        >>> score_candidates(brightness, torch.rand(2, 8, 3, 16, 16), ["a rose", "a camera"]).shape
        torch.Size([2, 8])
    """
    if candidates.dim() != 5 or len(candidates) != len(captions):
        raise InputError(
            f"candidates must be ({len(captions)}, N, C, H, W), N for each caption, got {tuple(candidates.shape)}"
        )
    count = candidates.shape[1]
    scores = scorer(candidates.flatten(0, 1), [caption for caption in captions for _ in range(count)])
    if tuple(scores.shape) != (len(captions) * count,):
        raise InputError(
            f"the scorer must give one number for each of {len(captions) * count} images, got {tuple(scores.shape)}"
        )
    return scores.reshape(len(captions), count)


def best_of(candidates: Tensor, scores: Tensor, num_best: int = 1) -> tuple[Tensor, Tensor]:
    """The candidates with the highest scores, the best first.

    Args:
        candidates: ``(M, N, ...)``.
        scores: ``(M, N)``.
        num_best: how many to keep, at most N.

    Returns:
        the best ``(M, num_best, ...)`` and their scores ``(M, num_best)``.

    Raises:
        InputError: if there are fewer candidates than that, or none, or their scores are another number of them or NaN.

    Example:
        >>> import torch
        >>> from pyro_vae.text_to_image import best_of
        >>> candidates, scores = torch.rand(2, 8, 3, 16, 16), torch.rand(2, 8)  # 8 candidates for each of 2 texts
        >>> images, best = best_of(candidates, scores, num_best=3)
        >>> images.shape, best.shape
        (torch.Size([2, 3, 3, 16, 16]), torch.Size([2, 3]))
    """
    if tuple(candidates.shape[:2]) != tuple(scores.shape) or scores.dim() != 2:
        raise InputError(f"scores must be {tuple(candidates.shape[:2])}, one a candidate, got {tuple(scores.shape)}")
    if not 1 <= num_best <= scores.shape[1]:
        raise InputError(
            f"the best {num_best} of {scores.shape[1]} candidates cannot be taken: give from 1 to that many"
        )
    if scores.isnan().any():
        raise InputError("scores hold NaN: the scorer cannot judge these images")
    top = scores.topk(num_best, 1)
    rows = torch.arange(len(scores), device=candidates.device).unsqueeze(1)
    return candidates[rows, top.indices.to(candidates.device)], top.values


CANDIDATES = 64


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
    batch_size: int = CANDIDATES,
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
    for place, words in enumerate(texts):
        kept: Candidates | None = None
        for start in range(0, num * best_of_many, batch_size):
            count = min(batch_size, num * best_of_many - start)
            rows = {name: value.expand(count, *value.shape[1:]) for name, value in (batch or {}).items()}
            rows["text"] = text[place].expand(count, -1)
            draws = derived_seed(seed, f"candidates {place} {start}")
            drawn = sample(model, count, seed=draws, batch=rows, batch_size=count, **how)
            kept = _better(kept, drawn, words, scorer, num)
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
