"""What a model lets follow the same context under different actions, against what truly follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.actions import ACTIONS
from pyro_vae.data.binarization import as_probability
from pyro_vae.data.clips import FRAMES
from pyro_vae.errors import InputError, positive
from pyro_vae.evaluation.generate import draw, reconstruct
from pyro_vae.evaluation.results import Result, mean_and_error
from pyro_vae.programs.context import X
from pyro_vae.programs.program import as_programs
from pyro_vae.runtime import derived_seed


@dataclass
class RolloutAccuracy(Result):
    """How often a rollout is nearest to what truly follows its own actions, and how near, by step.

    Attributes:
        hits: ``(A, N, T)``: 1 where, at that step, the rollout under these actions is nearer to their true branch than
            to every other one; among n equally near ones 1/n.
        squared_errors: ``(A, N, T)``, mean squared errors of the frames against their own true branch.
        copied: ``(A, N, T)``, those of the last frame that is given, taken for all that follow; None without one.
        reconstructed: ``(A, N, T)``, those of reconstructions of the truth: what the model could reach; None without
            a guide.
    """

    hits: Tensor
    squared_errors: Tensor
    copied: Tensor | None = None
    reconstructed: Tensor | None = None

    @property
    def accuracy(self) -> Tensor:
        """Accuracy by step ``(T,)``; 1/A is chance."""
        return self.hits.mean((0, 1))

    @property
    def steps(self) -> list[int]:
        """Steps that a table shows, counted from 1: the first, the middle one and the last."""
        last = self.hits.shape[2]
        return sorted({1, max(1, last // 2), last})

    def accuracy_at(self, step: int) -> tuple[float, float]:
        """Accuracy at a step, counted from 1, and its standard error over contexts.

        Raises:
            InputError: if there is no such step.
        """
        if not 1 <= step <= self.hits.shape[2]:
            raise InputError(f"steps are counted from 1 to {self.hits.shape[2]}, got {step}")
        return mean_and_error(self.hits[:, :, step - 1].mean(0))

    def psnr(self, errors: Tensor | None = None) -> Tensor:
        """Peak signal-to-noise ratio by step ``(T,)`` in dB: of the mean squared error over contexts and actions.

        Args:
            errors: ``(A, N, T)``; those of the rollouts, if None.
        """
        errors = self.squared_errors if errors is None else errors
        return -10 * errors.double().mean((0, 1)).log10()

    @property
    def rows(self) -> dict[str, str]:
        """Accuracy with its standard error, and PSNR, by step."""
        count = len(self.hits)
        found = {
            f"nearest of {count} branches, step {step}": "{:.3f} +- {:.3f}".format(*self.accuracy_at(step))
            + f" (chance {1 / count:.3g})"
            for step in self.steps
        }
        kinds = {"rollout": self.squared_errors, "last frame copied": self.copied, "reconstruction": self.reconstructed}
        for name, errors in kinds.items():
            if errors is not None:
                found |= {f"PSNR, {name}, step {step}": f"{self.psnr(errors)[step - 1]:.2f} dB" for step in self.steps}
        return found

    def arrays(self) -> dict[str, Tensor]:
        """Of each context ``(N,)``, the mean over actions and steps."""
        return {"hits": self.hits.mean((0, 2)), "squared_errors": self.squared_errors.mean((0, 2))}

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values."""
        ratios = {"psnr": self.psnr().tolist()}
        ratios |= {} if self.copied is None else {"psnr_copied": self.psnr(self.copied).tolist()}
        ratios |= {} if self.reconstructed is None else {"psnr_reconstructed": self.psnr(self.reconstructed).tolist()}
        errors = [self.accuracy_at(step + 1)[1] for step in range(self.hits.shape[2])]
        sizes = {"num_actions": len(self.hits), "num_contexts": self.hits.shape[1]}
        return {"accuracy": self.accuracy.tolist(), "accuracy_standard_error": errors, **ratios, **sizes}


def roll_out(
    model: Callable[..., Any],
    contexts: Mapping[str, Tensor],
    actions: Tensor,
    *,
    seed: int = 0,
    batch_size: int = 100,
    **how: Any,
) -> Tensor:
    """What a model lets follow each context under each sequence of actions: the mean of p(x | z) for a draw of z.

    Args:
        model: a Pyro program with the argument ``actions``.
        contexts: what else it is given, ``(N, ...)`` each, such as ``frames``.
        actions: int64 ``(A, T)``.
        seed: of the draws, other ones for each sequence.
        batch_size: contexts drawn for at once.
        how: temperature, top_k and top_p, as for :func:`~pyro_vae.evaluation.generate.sample`.

    Returns:
        ``(A, N, *data_shape)``, on the CPU.

    Raises:
        InputError: for no contexts or actions that are no sequences, and as :func:`sample`.

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.evaluation import roll_out
        >>> model = pyro_vae.models.VideoVQVAE((4, 3, 16, 16), (2, 3, 16, 16), 5, num_codes=32, code_dim=4, channels=8)
        >>> roll_out(model, {"frames": torch.rand(6, 2, 3, 16, 16)}, torch.tensor([[2, 2, 2, 2], [0, 0, 1, 1]])).shape
        torch.Size([2, 6, 4, 3, 16, 16])
    """
    given = {name: value for name, value in contexts.items() if name not in (X, ACTIONS)}
    if not given or actions.dim() != 2:
        raise InputError(
            f"rollouts need contexts besides '{ACTIONS}', and '{ACTIONS}' (A, T), got {sorted(given)} and "
            f"{tuple(actions.shape)}"
        )
    count = len(next(iter(given.values())))
    found = []
    for place, sequence in enumerate(actions):
        batch = {**given, ACTIONS: sequence.expand(count, -1)}
        own = derived_seed(seed, f"rollout {place}")
        found.append(draw(model, count, seed=own, batch=batch, batch_size=batch_size, **how).mean)
    return torch.stack(found)


def rollout_accuracy(
    model: Callable[..., Any],
    contexts: Mapping[str, Tensor],
    branches: Tensor,
    *,
    actions: Tensor | None = None,
    guide: Callable[..., Any] | None = None,
    seed: int = 0,
    batch_size: int = 50,
    **how: Any,
) -> RolloutAccuracy:
    r"""Is what a model lets follow under some actions nearest to what truly follows them, among all true branches?

    .. math:: \mathrm{hit}_{a,n,t} = [\arg\min_b \lVert \hat x^{(a)}_{n,t} - x^{(b)}_{n,t} \rVert^2 = a]

    where :math:`\hat x^{(a)}_n` is the model's rollout of context n under the actions a, x^{(b)} the truth under b.

    Args:
        model: a Pyro program with the argument ``actions``.
        contexts: what else it is given, ``(N, ...)`` each; of ``frames`` (N, T0, C, H, W) the last one is
            compared, too.
        branches: the truth, floats in [0, 1] or uint8 ``(A, N, T, C, H, W)``, under the actions a.
        actions: int64 ``(A, T)``; each action 0 … A - 1 at all steps, if None.
        guide: its guide, for the reconstructions of the truth.
        seed: of the draws, which also depend on ``batch_size``.
        batch_size: contexts at once; memory is for A^2 times as many comparisons.
        how: temperature, top_k and top_p, as for :func:`~pyro_vae.evaluation.generate.sample`.

    Raises:
        InputError: for branches that are not of the contexts and actions, or of another shape than the model's x.

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.evaluation import rollout_accuracy
        >>> model = pyro_vae.models.VideoVQVAE((4, 3, 16, 16), (2, 3, 16, 16), 5, num_codes=32, code_dim=4, channels=8)
        >>> contexts = {"frames": torch.rand(6, 2, 3, 16, 16)}
        >>> found = rollout_accuracy(model, contexts, torch.rand(5, 6, 4, 3, 16, 16))
        >>> found.accuracy.shape
        torch.Size([4])
    """
    count, positive_size = len(branches), positive("batch_size", batch_size)
    contexts = {name: value for name, value in contexts.items() if name not in (X, ACTIONS)}
    if branches.dim() < 4 or not all(len(value) == branches.shape[1] for value in contexts.values()):
        lengths = ", ".join(f"'{name}' {len(value)}" for name, value in contexts.items())
        raise InputError(f"branches must be (A, N, T, ...) of the N contexts ({lengths}), got {tuple(branches.shape)}")
    actions = torch.arange(count)[:, None].expand(count, branches.shape[2]) if actions is None else actions
    if tuple(actions.shape) != (count, branches.shape[2]):
        raise InputError(
            f"actions must be ({count}, {branches.shape[2]}), as there are branches and steps, got "
            f"{tuple(actions.shape)}"
        )
    hits, errors, copied, reconstructed = [], [], [], []
    for start in range(0, branches.shape[1], positive_size):
        some = {name: value[start : start + positive_size] for name, value in contexts.items()}
        truth = as_probability(branches[:, start : start + positive_size])  # (A, n, T, ...)
        seen = roll_out(
            model, some, actions, seed=derived_seed(seed, f"contexts {start}"), batch_size=batch_size, **how
        )
        if seen.shape != truth.shape:
            raise InputError(
                f"branches are of frames {tuple(truth.shape[2:])}, but one x of the model is {tuple(seen.shape[2:])}"
            )
        apart = torch.stack([_mean_square(each - truth) for each in seen])  # (A, A, n, T): rollout, branch
        own = apart.diagonal().movedim(-1, 0)  # (A, n, T)
        least = apart == apart.amin(1, keepdim=True)
        hits.append((own == apart.amin(1)) / least.sum(1))
        errors.append(own)
        last = some[FRAMES][:, -1:] if FRAMES in some and some[FRAMES].shape[2:] == truth.shape[3:] else None
        if last is not None:
            copied.append(_mean_square(as_probability(last) - truth))
        if guide is not None:
            pair = as_programs(model, guide)
            made = [
                reconstruct(*pair, {X: each, **some, ACTIONS: sequence.expand(len(each), -1)}, seed=seed)
                for each, sequence in zip(truth, actions, strict=True)
            ]
            reconstructed.append(_mean_square(torch.stack(made) - truth))
    return RolloutAccuracy(
        torch.cat(hits, 1),
        torch.cat(errors, 1),
        torch.cat(copied, 1) if copied else None,
        torch.cat(reconstructed, 1) if reconstructed else None,
    )


def _mean_square(differences: Tensor) -> Tensor:
    """Over the pixels of frames ``(A, n, T, ...)``: ``(A, n, T)``."""
    return differences.square().flatten(3).mean(-1)
