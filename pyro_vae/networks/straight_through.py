"""Straight-through gradients: codebook vectors in the place of an encoder's outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding

TINY = 1e-8  # a vector shorter than this has no direction that could be turned


def look_up(vectors: Tensor, codes: Tensor) -> Tensor:
    """The vectors of codes, bit by bit as they are in the codebook.

    Args:
        vectors: ``(num_codes, dim)``.
        codes: ``(batch,)`` or ``(batch, positions)``.

    Returns:
        ``(batch, dim)`` or ``(batch, dim, positions)``.
    """
    if codes.dim() == 1:
        return embedding(codes, vectors)
    batch, positions = codes.shape
    table = vectors.t().contiguous().expand(batch, *vectors.t().shape)  # (batch, dim, num_codes)
    return table.gather(2, codes[:, None].expand(batch, vectors.shape[1], positions))


def quantize(
    z_e: Tensor, vectors: Tensor, codes: Tensor, commitment: float, codebook: float, rotate: bool
) -> tuple[Tensor, Tensor]:
    r"""Vectors of codes with a gradient for z_e, and the penalty on the distance.

    .. math:: \beta |z_e - \mathrm{sg}[e]|^2 + b |\mathrm{sg}[z_e] - e|^2

    The gradient with respect to the first result goes to z_e as it is, or turned (:func:`turn_back`), and never to
    the codebook. Nothing is kept for the backward pass but arguments and results.

    Args:
        z_e: ``(batch, dim)`` or ``(batch, dim, positions)``.
        vectors: ``(num_codes, dim)``.
        codes: ``(batch,)`` or ``(batch, positions)``.
        commitment: beta.
        codebook: b.
        rotate: turn the gradient.

    Returns:
        vectors, shaped like z_e, and penalties ``(batch,)``.

    Source: van den Oord et al. 2017, arXiv:1711.00937; Fifty et al. 2024, arXiv:2410.06424 (rotation).
    """
    return _Quantize.apply(z_e, vectors, codes, commitment, codebook, rotate)


def turn_back(gradient: Tensor, z_e: Tensor, e: Tensor) -> Tensor:
    r"""The gradient through e = λ R z_e, with λ = |e| / |z_e| and the rotation R from z_e to e taken as constants.

    .. math:: λ R^\top g = λ \, (g - 2 r (r \cdot g) + 2 \hat z (\hat e \cdot g)), \quad
        r = (\hat z + \hat e) / |\hat z + \hat e|

    A vector z_e of length zero has no direction: there the gradient stays as it is.

    Args:
        gradient, z_e, e: ``(batch, dim, …)``; vectors are along dimension 1.

    Source: Fifty et al. 2024, arXiv:2410.06424, section 4.
    """

    def along(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1, keepdim=True)

    length, length_e = (v.norm(dim=1, keepdim=True) for v in (z_e, e))
    z_unit, e_unit = z_e / length.clamp(min=TINY), e / length_e.clamp(min=TINY)
    between = z_unit + e_unit
    between = between / between.norm(dim=1, keepdim=True).clamp(min=TINY)
    turned = gradient - 2 * between * along(between, gradient) + 2 * z_unit * along(e_unit, gradient)
    return torch.where(length > TINY, length_e / length.clamp(min=TINY) * turned, gradient)


class _Quantize(Function):
    @staticmethod
    def forward(
        ctx: Any, z_e: Tensor, vectors: Tensor, codes: Tensor, commitment: float, codebook: float, rotate: bool
    ) -> tuple[Tensor, Tensor]:
        e = look_up(vectors, codes)
        ctx.save_for_backward(z_e, e, codes)
        ctx.weights, ctx.rotate, ctx.num_codes = (commitment, codebook), rotate, len(vectors)
        return e, (z_e - e).square_().flatten(1).sum(1).mul_(commitment + codebook)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        through, penalty = gradients  # (batch, dim, …), (batch,)
        z_e, e, codes = ctx.saved_tensors
        commitment, codebook = ctx.weights
        distance = (z_e - e).mul_(2 * penalty.view(-1, *[1] * (e.dim() - 1)))  # gradient of |z_e - e|^2
        of_vectors = None
        if ctx.needs_input_grad[1]:
            rows = distance.movedim(1, -1).flatten(0, -2)  # (rows, dim)
            of_vectors = rows.new_zeros(ctx.num_codes, rows.shape[1])
            of_vectors = of_vectors.index_add_(0, codes.flatten(), rows, alpha=-codebook)
        if ctx.rotate:
            through = turn_back(through, z_e, e)
        return distance.mul_(commitment).add_(through), of_vectors, None, None, None, None
