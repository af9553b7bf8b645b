"""Muon: updates of matrices that are orthogonalized, and Adam's for all other parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adam import adam

from pyro_vae.errors import InputError

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x, x^3 and x^5: steepest at 0, and between 0.7 and 1.2 after five times
ITERATIONS = 5
RMS = 0.2  # of an update of Adam, about


class Muon(Optimizer):
    r"""The momentum of each weight matrix, orthogonalized; biases, norms and all else by Adam.

    .. math::
        M \leftarrow \mu M + (1 - \mu) G, \qquad (1 - \mu) G + \mu M = U S V^T, \qquad
        W \leftarrow W - 0.2\, \eta \sqrt{\max(rows, columns)}\, U V^T

    U V^T, in which all directions count the same, is found by five iterations of a polynomial in bfloat16. Convolution
    kernels are matrices of (the first dimension, all others). The factor gives updates the size of Adam's, so that
    one learning rate is right for both; about twice what is right for Adam alone.

    By its name (``fit(..., optimizer="muon")``) the matrices are the weights of linear layers and of convolutions
    without groups; codebooks, embeddings, recurrent layers and what a program owns itself are Adam's. A group of
    parameters can say it, ``param_groups={"model.top.*": {"orthogonal": False}}``, and ``optimizer_options`` of all.

    Args:
        params: parameters, or groups of them; a group with ``orthogonal`` True has matrices or kernels alone.
        lr: learning rate eta.
        momentum: mu, of the matrices.
        betas, eps: Adam's.
        weight_decay: decoupled from the gradient: weights shrink by ``lr * weight_decay`` at each step.
        orthogonal: of groups that do not say it.

    Raises:
        InputError: for numbers out of range, and for a vector that is to be orthogonalized.

    Source: Jordan et al. 2024, Muon (kellerjordan.github.io/posts/muon); the factor: Liu et al. 2025, arXiv:2502.16982.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> options = {"epochs": 1, "progress": False, "learning_rate": 4e-3}
        >>> _ = pyro_vae.fit(model, guide, torch.ones(20, 1, 8, 8), optimizer="muon", **options)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        orthogonal: bool = False,
    ) -> None:
        defaults = {
            **{"lr": lr, "momentum": momentum, "betas": betas, "eps": eps},
            **{"weight_decay": weight_decay, "orthogonal": orthogonal},
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            _check(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update along the gradients that the parameters have.

        Args:
            closure: computes loss and gradients; none are computed without.

        Returns:
            The closure's loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            members = [p for p in group["params"] if p.grad is not None]
            if group["orthogonal"]:
                self._orthogonal(members, group)
            elif members:
                self._adam(members, group)
        return loss

    def _orthogonal(self, members: list[Tensor], group: dict[str, Any]) -> None:
        alike: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for p in members:
            state = self.state[p]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(p)
            moment = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
            ahead = p.grad.lerp(moment, group["momentum"]).flatten(1)  # (rows, columns)
            alike.setdefault(tuple(ahead.shape), []).append((p, ahead))
        rate = group["lr"]
        for shape, pairs in alike.items():
            updates = orthogonalized(torch.stack([ahead for _, ahead in pairs]))  # (matrices, rows, columns)
            factor = RMS * math.sqrt(max(shape))
            for (p, _), update in zip(pairs, updates.to(pairs[0][0].dtype), strict=True):
                if group["weight_decay"]:
                    p.mul_(1 - rate * group["weight_decay"])
                p.sub_(rate * factor * update.reshape(p.shape))

    def _adam(self, members: list[Tensor], group: dict[str, Any]) -> None:
        for p in members:
            if not self.state[p]:
                self.state[p].update(
                    {"step": torch.zeros(()), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                )
        states = [self.state[p] for p in members]
        if group["weight_decay"]:
            torch._foreach_mul_(members, 1 - group["lr"] * group["weight_decay"])
        adam(
            members,
            [p.grad for p in members if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )


def orthogonalized(matrices: Tensor) -> Tensor:
    """About U V^T of matrices U S V^T, ``(..., rows, columns)``, by Newton-Schulz iterations; bfloat16.

    The singular values of what is returned are between 0.7 and 1.2, but for those that were nearly 0.
    """
    a, b, c = COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = (matrices if wide else matrices.mT).bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def matrices_of(module: nn.Module) -> list[nn.Parameter]:
    """Weights of a module's linear layers and of its convolutions without groups, but for those that others share.

    A weight that a layer of another kind has too (an embedding) is none.
    """
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    grouped = [m for m in layers if getattr(m, "groups", 1) != 1]
    apart = {id(m) for m in layers} - {id(m) for m in grouped}
    found = {id(m.weight): m.weight for m in layers if id(m) in apart and isinstance(m.weight, nn.Parameter)}
    others = {id(p) for m in module.modules() if id(m) not in apart for p in m.parameters(recurse=False)}
    return [weight for key, weight in found.items() if key not in others]


def _check(group: dict[str, Any]) -> None:
    names = ("lr", "eps", "weight_decay")
    wrong = next((name for name in names if not 0 <= float(group[name]) < math.inf), None)
    if wrong is not None:
        raise InputError(f"Muon: {wrong} must be a number of at least 0, got {group[wrong]!r}")
    for name, value in (("momentum", group["momentum"]), *(("betas", beta) for beta in group["betas"])):
        if not 0 <= value < 1:
            raise InputError(f"Muon: {name} must be at least 0 and below 1, got {group[name]!r}")
    if not isinstance(group["orthogonal"], bool):
        raise InputError(f"Muon: orthogonal must be true or false, got {group['orthogonal']!r}")
    vector = next((p for p in group["params"] if group["orthogonal"] and p.dim() < 2), None)
    if vector is not None:
        raise InputError(
            f"Muon: a group of which updates are orthogonalized has a parameter of shape {tuple(vector.shape)}, which "
            "is no matrix: leave it to a group with orthogonal=False"
        )
