"""The best of many generated images, by any judge of images and captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_vae.data.scenes import Scenes
from pyro_vae.data.tokenizer import Tokenizer
from pyro_vae.errors import InputError
from pyro_vae.evaluation.scenes import score_scenes
from pyro_vae.models.contrastive import ContrastiveModel

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
