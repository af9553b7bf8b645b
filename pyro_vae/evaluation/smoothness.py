"""How smooth the way from one sequence of tokens to another is: through latents, and by mixing the sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Data, Split, Tokens
from pyro_vae.data.tokens import END
from pyro_vae.errors import InputError, positive
from pyro_vae.evaluation.latent_space import Kind, decode_path, paths_between
from pyro_vae.evaluation.ngrams import NGrams
from pyro_vae.evaluation.results import Result, mean_and_error
from pyro_vae.programs.context import X
from pyro_vae.runtime import private_seed


@dataclass
class Smoothness(Result):
    """Ways from data to data, decoded, and their mixtures; distances are shares of the T places that differ.

    Attributes:
        from_first: distance of the sequence at each step from that at the first, ``(pairs, steps)``.
        between: distance of neighbours, ``(pairs, steps - 1)``.
        relative: log p of the sequence at each step by an n-gram model of the training data, less the mean of that of
            both ends, nats a token, ``(pairs, steps)``.
        mixed_from_first, mixed_between, mixed_relative: the same of mixtures of both data.
        kind: of the way through latent space.
        order: n.
    """

    from_first: Tensor
    between: Tensor
    relative: Tensor
    mixed_from_first: Tensor
    mixed_between: Tensor
    mixed_relative: Tensor
    kind: str
    order: int

    @property
    def rows(self) -> dict[str, str]:
        """Means over pairs."""

        def said(values: Tensor, unit: str = "") -> str:
            mean, error = mean_and_error(values)
            return f"{mean:.3f} +- {error:.3f}{unit}"

        inner, nats = slice(1, -1), " nats a token"
        return {
            f"places that change from step to step ({self.kind})": said(self.between.mean(1)),
            "the most at one step": said(self.between.amax(1)),
            f"log p between, less that of the ends ({self.order}-grams)": said(self.relative[:, inner].mean(1), nats),
            "of mixtures: places that change": said(self.mixed_between.mean(1)),
            "of mixtures: log p between": said(self.mixed_relative[:, inner].mean(1), nats),
        }

    def to_dict(self) -> dict[str, Any]:
        """Means over pairs at every step."""
        names = ("from_first", "between", "relative", "mixed_from_first", "mixed_between", "mixed_relative")
        means = {name: getattr(self, name).mean(0).tolist() for name in names}
        return {**means, "kind": self.kind, "order": self.order, "num_pairs": len(self.between)}


def interpolation_smoothness(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data,
    *,
    pairs: int = 64,
    steps: int = 11,
    kind: Kind = "spherical",
    order: int = 5,
    seed: int = 0,
    **how: Any,
) -> Smoothness:
    r"""Interpolations of a sequence model, measured: do they change little by little, and stay like the data?

    Pairs of data are sent to the means of q(z | x), and the points between are decoded. Beside them stand mixtures in
    data space: at t each place has the token of one datum with probability 1 - t, else that of the other, drawn anew at
    every step. Both change little by little; that a way through latents stays like the data, and a mixture does not, is
    told by an n-gram model of the training data.

    .. math:: d(x, y) = \frac1T \sum_t [x_t \ne y_t], \qquad
       r(x) = \ell(x) - \tfrac12 (\ell(x_{first}) + \ell(x_{last})), \quad \ell(x) = \log p(x) / T_x

    T_x is the number of tokens of x, with its end.

    Args:
        model, guide: Pyro programs.
        data: with :class:`~pyro_vae.data.Tokens`; the pairs are of the test part, else validation, neighbours in order.
        pairs: how many; as many as there are, if there are fewer.
        steps: points of a way, both ends included, at least 3.
        kind: ``"spherical"`` or ``"linear"``.
        order: n.
        seed: of all draws.
        how: of the decoded tokens, as for :func:`~pyro_vae.decode`: ``top_k=1`` (if nothing is said), ``temperature``.

    Returns:
        distances and log-probabilities of each pair.

    Raises:
        InputError: for data without tokens or held-out data, fewer than two data, fewer than 3 steps.
        NotApplicable: for a pair without real latents of its own.

    Source: Roberts et al. 2018, arXiv:1803.05428, figure 4 and section 5.2.
    """
    tokens = data.extra(Tokens) if isinstance(data, Data) else None
    split = None if tokens is None else data.test if data.test is not None else data.validation
    if tokens is None or split is None:
        raise InputError("smoothness needs a Data whose x are tokens, with a test or validation part")
    if positive("steps", steps) < 3:
        raise InputError(f"steps must be at least 3, for something between the ends, got {steps}")
    count = min(positive("pairs", pairs), len(split) // 2)
    if count < 1:
        raise InputError(f"{split.name}: one datum only; a way needs two")
    batch = split.fixed().batch(slice(0, 2 * count))
    first, last = ({name: value[i::2] for name, value in batch.items()} for i in range(2))
    path, kind = paths_between(model, guide, first, last, steps, kind=kind, seed=seed)
    made = decode_path(model, path, seed=seed, batch=first, **(how or {"top_k": 1}))  # (pairs, steps, T)
    x = _training(data.train)
    grams = NGrams(x, tokens.num_tokens, order, tokens.ends)
    mixed = mixtures(first[X].cpu(), last[X].cpu(), steps, seed)
    found = [value for way in (made, mixed) for value in _measured(way, grams)]
    return Smoothness(*found, kind=kind, order=order)


def mixtures(first: Tensor, last: Tensor, steps: int, seed: int = 0) -> Tensor:
    """Sequences ``(n, T)`` mixed: at t each place has the token of the last with probability t, else of the first.

    Args:
        first, last: int64 ``(n, T)``.
        steps: t goes from 0 to 1 in so many.
        seed: of the choices, which are drawn anew at every step.

    Returns:
        ``(n, steps, T)``; what would stand behind an end is 0.
    """
    t = torch.linspace(0, 1, steps)[:, None]  # (steps, 1)
    with private_seed(seed, torch.device("cpu")):
        chosen = torch.rand(len(first), steps, first.shape[1]) < t
    mixed = torch.where(chosen, last[:, None], first[:, None])
    return mixed * (mixed != END).cumprod(-1)


def hamming(a: Tensor, b: Tensor) -> Tensor:
    """The share of the places ``(..., T)`` at which sequences differ, float64 ``(...)``."""
    return (a != b).double().mean(-1)


def _training(train: Split) -> Tensor:
    """x as it is stored ``(N, T)``, of variants the first."""
    return train.fixed().column(X).long().cpu()


def _measured(way: Tensor, grams: NGrams) -> tuple[Tensor, Tensor, Tensor]:
    """Of ways ``(n, steps, T)``: distances from the first, distances of neighbours, relative log p a token."""
    counts = (way != END).sum(-1) + int(grams.ends)  # (n, steps)
    nats = grams.log_prob(way.flatten(0, 1)).view(way.shape[:2]) / counts.clamp(min=1)
    relative = nats - (nats[:, :1] + nats[:, -1:]) / 2
    return hamming(way, way[:, :1]), hamming(way[:, 1:], way[:, :-1]), relative
