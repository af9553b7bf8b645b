"""Gaussian likelihood of fields whose errors are correlated: along principal components, and between neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions import GaussianField as Field
from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods.spread import Spread, WithSpread

COMPONENTS_OF = 1000  # training data that the principal components are of


class GaussianField(WithSpread):
    r"""log N(x; mu, s^2 Lambda^{-1}) with Lambda = I + lambda sum_k P_k P_k^T / sigma_k^2 + mu grad^T grad: a density.

    Features are locations. P_k are the K leading principal components of the training data (orthonormal fields), and
    sigma_k^2 the data's variances along them: the Mahalanobis term weighs errors where the data vary little. The
    gradient term weighs differences between the errors of neighbours; see
    :class:`~pyro_vae.distributions.GaussianField`, which is exact and quick. ``fit`` hands the first training data,
    of which the components are computed; they are saved with the weights. Without data there is no Mahalanobis term.

    Args:
        data_shape: (channels, height, width); None: in a configuration, that of the data.
        scale: s, in the data's units: a positive number, or ``"learned"`` (one scalar, which starts at 1). At lambda =
            mu = 0 it is the standard deviation.
        leading: lambda, in the square of the data's unit, not negative.
        num_components: K.
        gradient: mu, without unit, not negative.
        min_scale: lower bound of a learned scale.

    Raises:
        InputError: for a data_shape that is no field's, negative weights, sizes that are not positive, another scale,
            more components than numbers of a field; and as :meth:`take_data`.

    Source: Deshpande et al. 2017, arXiv:1612.01958, section 4.1: its loss with constant weights is this density's
    exponent (20 components, lambda 0.1, mu 1e-3).

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import GaussianField
        >>> likelihood = GaussianField((2, 8, 8), num_components=3)
        >>> likelihood.take_data(torch.randn(50, 2, 8, 8))
        >>> likelihood(torch.zeros(5, 2, 8, 8)).log_prob(torch.zeros(5, 2, 8, 8)).shape
        torch.Size([5])
    """

    support = constraints.real
    spread_name = "scale"
    components: Tensor
    deviations: Tensor
    initialized: Tensor

    def __init__(
        self,
        data_shape: Sequence[int] | None = None,
        scale: Spread = "learned",
        leading: float = 0.1,
        num_components: int = 20,
        gradient: float = 1e-3,
        min_scale: float = 1e-3,
    ) -> None:
        if scale == "per_pixel":
            raise InputError("GaussianField: scale must be a positive number or 'learned', one for all pixels")
        super().__init__(scale, min_scale)
        self.data_shape = tuple(data_shape or ())
        if len(self.data_shape) != 3:
            raise InputError(f"GaussianField: data_shape must be (channels, height, width), got {data_shape}")
        for name, weight in (("leading", leading), ("gradient", gradient)):
            if not (weight >= 0 and math.isfinite(weight)):
                raise InputError(f"GaussianField: {name} must be a number of at least 0, got {weight}")
        self.leading, self.gradient = leading, gradient
        self.num_components = positive("num_components", num_components)
        if num_components > math.prod(self.data_shape):
            raise InputError(
                f"GaussianField: num_components must be at most {math.prod(self.data_shape)}, the numbers of a field "
                f"of shape {self.data_shape}, got {num_components}"
            )
        self.register_buffer("components", torch.zeros(num_components, *self.data_shape))
        self.register_buffer("deviations", torch.ones(num_components))  # sigma_k, in the data's units
        self.register_buffer("initialized", torch.tensor(leading == 0))

    @property
    def data_wanted(self) -> int:
        """How many training data it is to be given by :meth:`take_data`; 0: none (any more)."""
        return 0 if self.initialized else max(COMPONENTS_OF, self.num_components + 1)

    @torch.no_grad()
    def take_data(self, x: Tensor) -> None:
        """Compute the principal components.

        Args:
            x: training data ``(n, *data_shape)``.

        Raises:
            InputError: for data of another shape, with missing entries, or that vary in fewer directions than
                num_components.
        """
        if tuple(x.shape[1:]) != self.data_shape:
            raise InputError(f"GaussianField has data_shape {self.data_shape}, got data of shape {tuple(x.shape[1:])}")
        if not bool(x.isfinite().all()):
            raise InputError("GaussianField: there are no principal components of data with missing entries")
        flat = x.flatten(1).double()
        flat = flat - flat.mean(0)  # (n, N)
        small = flat @ flat.T if len(flat) <= flat.shape[1] else flat.T @ flat
        values, vectors = torch.linalg.eigh(small / max(1, len(flat) - 1))  # ascending
        k = self.num_components
        if len(values) < k or float(values[-k]) <= 1e-10 * float(values[-1]):
            varied = int((values > 1e-10 * values[-1]).sum()) if float(values[-1]) > 0 else 0
            raise InputError(
                f"GaussianField takes the {k} leading principal components of {len(x)} training data, and these vary "
                f"in {varied} directions: take fewer, num_components={max(1, varied)}, or leading=0"
            )
        values, vectors = values[-k:].flip(0), vectors[:, -k:].flip(1)  # the leading one first
        directions = vectors.T @ flat if len(flat) <= flat.shape[1] else vectors.T  # (K, N)
        directions = directions / directions.norm(dim=1, keepdim=True)
        self.components.copy_(directions.view(k, *self.data_shape))
        self.deviations.copy_(values.sqrt())
        self.initialized.fill_(True)

    def forward(self, features: Tensor, event_dim: int = 3) -> Field:
        """The distribution around fields ``(..., C, H, W)``.

        Raises:
            InputError: for features of another shape.
        """
        (loc,) = self.split(features, event_dim)
        if event_dim != 3 or tuple(loc.shape[-3:]) != self.data_shape:
            raise InputError(
                f"GaussianField has data_shape {self.data_shape}, and the features are of shape {tuple(features.shape)}"
            )
        directions = math.sqrt(self.leading) * self.components / self.deviations[:, None, None, None]
        return Field(loc, self.spread(loc, []), directions, self.gradient)

    def initial_bias(self, mean: Tensor) -> Tensor:
        """The mean itself."""
        return mean.clone()
