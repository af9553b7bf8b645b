"""A Gaussian over fields that penalizes deviations along few directions and between neighbours, without a matrix."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

DIMS = 3  # of a field: channels, height, width


class GaussianField(TorchDistribution):
    r"""N(m, s^2 Lambda^{-1}) over fields of numbers x ``(C, H, W)``, with

    .. math:: \Lambda = I + \textstyle\sum_k u_k u_k^\top + \mu \nabla^\top \nabla, \qquad
        \log p(x) = -\tfrac{1}{2 s^2} \big[\lVert r \rVert^2 + \sum_k (u_k^\top r)^2 + \mu \lVert \nabla r \rVert^2\big]
        + \tfrac12 \log |\Lambda| - N \log s - \tfrac N2 \log 2 \pi, \quad r = x - m

    The gradient is of differences between neighbours in a row and in a column, in each channel by itself. A cosine
    transform (DCT-II) makes I + mu grad^T grad diagonal, a = 1 + 4 mu (sin^2(pi i / 2 H) + sin^2(pi j / 2 W)); what the
    K directions add is of rank K. So there is no matrix of N x N numbers, N = C H W, and all is exact: densities take
    O(K N), draws O(K N + N (H + W)), the determinant O(K^2 N) once a distribution.

    Args:
        loc: m, ``(*batch, C, H, W)``.
        scale: s, a number or 0-dimensional, positive; in the units of x.
        directions: u, ``(K, C, H, W)``, K may be 0; in no unit (s is that of x): u = P sqrt(lambda) / sigma for a
            Mahalanobis term lambda (P^T r)^2 / sigma^2.
        gradient: mu, not negative.

    Raises:
        ValueError: for a scale that is no single number, directions of other fields, a negative gradient; and, of
            ``log_prob``, for fields of another shape.

    Example:
        >>> import torch
        >>> from pyro_vae.distributions import GaussianField
        >>> p = GaussianField(torch.zeros(5, 2, 8, 8), 0.1, torch.ones(1, 2, 8, 8), gradient=0.5)
        >>> p.log_prob(p.sample()).shape, p.variance.shape
        (torch.Size([5]), torch.Size([5, 2, 8, 8]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, DIMS)  # pyright: ignore[reportAssignmentType]
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor | float, directions: Tensor, gradient: float = 0.0) -> None:
        self.loc, self.directions, self.gradient = loc, directions.to(loc), gradient
        self.scale = torch.as_tensor(scale, dtype=loc.dtype, device=loc.device)
        if self.scale.dim():
            raise ValueError(f"scale must be one number, got shape {tuple(self.scale.shape)}")
        if directions.shape[1:] != loc.shape[-DIMS:] or directions.dim() != 1 + DIMS:
            raise ValueError(f"directions must be (K, *{tuple(loc.shape[-DIMS:])}), got {tuple(directions.shape)}")
        if not gradient >= 0:
            raise ValueError(f"gradient must be at least 0, got {gradient}")
        super().__init__(loc.shape[:-DIMS], loc.shape[-DIMS:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GaussianField:
        """The same distribution for a larger batch."""
        new = GaussianField(
            self.loc.expand(*batch_shape, *self.event_shape), self.scale, self.directions, self.gradient
        )
        new.__dict__ |= {name: self.__dict__[name] for name in ("_whitened", "_log_det") if name in self.__dict__}
        return new

    @cached_property
    def _whitened(self) -> tuple[Tensor, Tensor, Tensor]:
        """1 / a ``(H, W)``, v = a^(-1/2) DCT(u) ``(K, C, H, W)`` and v^T v ``(K, K)``, float64."""
        height, width = self.event_shape[-2:]
        rows, columns = (_eigenvalues(n, self.loc.device) for n in (height, width))
        inverse = (1 + self.gradient * (rows[:, None] + columns)).reciprocal()  # (H, W)
        v = inverse.sqrt() * _transformed(self.directions.double())
        flat = v.flatten(1)
        return inverse, v, flat @ flat.T

    @cached_property
    def _log_det(self) -> Tensor:
        """log |Lambda| = sum log a + log |I + v^T v|, float64."""
        inverse, _, gram = self._whitened
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        low_rank = 2 * torch.linalg.cholesky(eye + gram).diagonal().log().sum()
        return low_rank - self.event_shape[0] * inverse.log().sum()

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) of fields ``(..., C, H, W)``, nats."""
        if value.shape[-DIMS:] != self.event_shape:  # it would be repeated to fit
            raise ValueError(f"fields must have shape {tuple(self.event_shape)}, got {tuple(value.shape[-DIMS:])}")
        r = value - self.loc
        square = r.square().sum((-3, -2, -1))
        square = square + (r.flatten(-DIMS) @ self.directions.flatten(1).T).square().sum(-1)
        if self.gradient:
            for dim in (-2, -1):
                square = square + self.gradient * r.diff(dim=dim).square().sum((-3, -2, -1))
        n = self.event_shape.numel()
        constant = 0.5 * (self._log_det - n * math.log(2 * math.pi)).to(r.dtype) - n * self.scale.log()
        return constant - square / (2 * self.scale.square())

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        r"""Draws ``(*sample_shape, *batch, C, H, W)``, with a gradient.

        With v = a^{-1/2} DCT(u) and noise e, that is x = m + s DCT^{-1} a^{-1/2} (I + v v^T)^{-1/2} e.
        """
        inverse, v, gram = self._whitened
        values, vectors = torch.linalg.eigh(gram)
        root = (1 + values.clamp(min=0)).sqrt()
        middle = vectors @ torch.diag(-1 / (root * (1 + root))) @ vectors.T  # (I + v v^T)^(-1/2) = I + v middle v^T
        shape = Size((*sample_shape, *self.loc.shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)  # (..., C, H, W)
        flat = v.flatten(1).to(noise)
        change = (noise.flatten(-DIMS) @ flat.T) @ middle.to(noise) @ flat
        return self.loc + self.scale * _transformed(inverse.sqrt().to(noise) * (noise + change.view(shape)), back=True)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws ``(*sample_shape, *batch, C, H, W)``."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    @property
    def mean(self) -> Tensor:
        """E[x] = m, ``(*batch, C, H, W)``."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The most probable field, m."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The diagonal of s^2 Lambda^{-1}, ``(*batch, C, H, W)``."""
        inverse, v, gram = self._whitened
        height, width = self.event_shape[-2:]
        rows, columns = (_cosines(n, self.loc.device).square() for n in (height, width))
        of_gradient = rows.T @ inverse @ columns  # (H, W), the diagonal of (I + mu grad^T grad)^-1
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        low_rank = _transformed(inverse.sqrt() * v, back=True)  # (K, C, H, W)
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(eye + gram), low_rank.flatten(1), upper=False)
        found = of_gradient - half.square().sum(0).view(self.event_shape)
        return (self.scale.square() * found.to(self.loc)).expand(self.loc.shape)


def _eigenvalues(n: int, device: torch.device) -> Tensor:
    """Of the squared differences of n neighbours in a row, in the cosines' order, ``(n,)``."""
    return 4 * (torch.arange(n, dtype=torch.float64, device=device) * (math.pi / (2 * n))).sin().square()


def _cosines(n: int, device: torch.device) -> Tensor:
    """The orthonormal DCT-II ``(n, n)``: row i is the i-th cosine."""
    place = torch.arange(n, dtype=torch.float64, device=device)
    cosines = (place[:, None] * (place + 0.5) * (math.pi / n)).cos() * math.sqrt(2 / n)
    return torch.cat([cosines[:1] / math.sqrt(2), cosines[1:]])


def _transformed(x: Tensor, back: bool = False) -> Tensor:
    """The cosine transform of fields ``(..., H, W)`` over both dimensions, or back."""
    rows, columns = (_cosines(n, x.device).to(x) for n in x.shape[-2:])
    return rows.T @ x @ columns if back else rows @ x @ columns.T
