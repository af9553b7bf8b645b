"""Fully connected networks: plain ones, encoders, decoders, and those that give a Gaussian."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.errors import InputError
from pyro_vae.networks.layers import FeatureNorm, apply_batched, check_event_shape
from pyro_vae.networks.layers import activation as make_activation


def glorot_(module: nn.Module) -> None:
    """Glorot-uniform weights and zero biases, in place, for linear and convolutional layers.

    Source: Glorot & Bengio 2010, AISTATS.
    """
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def set_bias_(parameter: Tensor, bias: Tensor, out_shape: tuple[int, ...]) -> None:
    """Copy a bias of shape ``out_shape`` into a decoder's parameter, whatever that parameter's layout.

    A parameter with one number a channel takes the mean over positions.

    Raises:
        InputError: if the bias has another shape.
    """
    if tuple(bias.shape) != out_shape:
        raise InputError(f"bias: expected shape {out_shape} (the decoder's output), got {tuple(bias.shape)}")
    if parameter.numel() != bias.numel():
        bias = bias.flatten(1).mean(1)
    parameter.copy_(bias.reshape(parameter.shape))


def hidden_layers(sizes: Sequence[int], activation: str, batch_norm: bool = False) -> nn.Sequential:
    """Linear layers ``sizes[0] -> sizes[1] -> ...``, each followed by the activation.

    Args:
        sizes: of the input and of every layer.
        activation: name of the activation, or ``"gated"`` (see :class:`MLP`).
        batch_norm: normalize before each activation.

    Raises:
        InputError: if the activation is unknown.
    """
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        width = 2 * after if activation == "gated" else after
        layers += [nn.Linear(before, width, bias=not batch_norm)]
        layers += [FeatureNorm(width)] if batch_norm else []
        layers += [nn.GLU(dim=-1) if activation == "gated" else make_activation(activation)]
    return nn.Sequential(*layers).apply(glorot_)


class MLP(nn.Module):
    """A multilayer perceptron, linear in its last layer; Glorot-uniform weights, zero biases.

    Args:
        in_dim: size of the last dimension of the input.
        hidden_dims: sizes of the hidden layers, in the order of application; empty for a linear map.
        out_dim: size of the last dimension of the output.
        activation: name of the activation after each hidden layer (``activations.ACTIVATIONS``), or ``"gated"``
            for gated layers h = (A x + a) * sigmoid(B x + b) (Dauphin et al. 2017, arXiv:1612.08083).
        batch_norm: normalize before each activation (not the output).

    Raises:
        InputError: if the activation is unknown or a size is not positive.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import MLP
        >>> MLP(20, hidden_dims=(64, 64), out_dim=4)(torch.zeros(7, 5, 20)).shape
        torch.Size([7, 5, 4])
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        activation: str = "tanh",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [in_dim, *hidden_dims, out_dim]
        if min(sizes) < 1:
            raise InputError(f"MLP: layer sizes (in_dim, *hidden_dims, out_dim) must be >= 1, got {sizes}")
        self.hidden = hidden_layers(sizes[:-1], activation, batch_norm)
        self.out = nn.Linear(sizes[-2], out_dim)
        self.apply(glorot_)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_dim)`` to ``(..., out_dim)``."""
        return self.out(self.hidden(x))


class MLPEncoder(nn.Module):
    """An MLP on flattened data: ``(..., *data_shape)`` to ``(..., out_dim)``.

    Args:
        data_shape: shape of one datum, e.g. ``(1, 28, 28)`` or ``(10,)``.
        hidden_dims: sizes of the hidden layers.
        out_dim: number of features.
        activation: name of the activation.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import MLPEncoder
        >>> MLPEncoder((1, 8, 8), hidden_dims=(16,), out_dim=4)(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 4])
    """

    def __init__(
        self, data_shape: Sequence[int], hidden_dims: Sequence[int], out_dim: int, activation: str = "tanh"
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.mlp = MLP(math.prod(self.data_shape), hidden_dims, out_dim, activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map data ``(..., *data_shape)`` to features ``(..., out_dim)``.

        Raises:
            InputError: if the trailing shape of ``x`` is not ``data_shape``.
        """
        check_event_shape(x, self.data_shape, "encoder")
        return apply_batched(lambda rows: self.mlp(rows.flatten(1)), x, len(self.data_shape))


class MLPDecoder(nn.Module):
    """An MLP whose output is reshaped: ``(..., in_dim)`` to ``(..., *out_shape)``.

    Args:
        in_dim: size of a latent vector.
        hidden_dims: sizes of the hidden layers, the one nearest to the latent first.
        out_shape: shape of one output, e.g. ``(1, 28, 28)``.
        activation: name of the activation.
        batch_norm: normalize the hidden layers.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import MLPDecoder
        >>> MLPDecoder(4, hidden_dims=(16,), out_shape=(1, 8, 8))(torch.zeros(7, 5, 4)).shape
        torch.Size([7, 5, 1, 8, 8])
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_shape: Sequence[int],
        activation: str = "tanh",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.out_shape = tuple(out_shape)
        self.mlp = MLP(in_dim, hidden_dims, math.prod(self.out_shape), activation, batch_norm)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents ``(..., in_dim)`` to outputs ``(..., *out_shape)``.

        Raises:
            InputError: if the last dimension of ``z`` is not ``in_dim``.
        """
        check_event_shape(z, (self.in_dim,), "decoder")
        return apply_batched(lambda rows: self.mlp(rows).reshape(-1, *self.out_shape), z, 1)

    def set_output_bias(self, bias: Tensor) -> None:
        """Set the bias of the last layer, shape ``out_shape``.

        Raises:
            InputError: if the bias has another shape.
        """
        set_bias_(self.mlp.out.bias, bias, self.out_shape)


MIN_VARIANCE = 1e-5  # of the hierarchies' conditionals


def diagonal_normal(
    features: Tensor, min_scale: float = 1e-4, min_variance: float | None = None, dim: int = -1
) -> dist.Normal:
    """N(mu, diag sigma^2), elementwise, of features (mu, s): sigma = softplus(s + shift) + min_scale, 1 at s = 0.

    Args:
        features: ``(..., 2 * size)``, first mu, then s; they are taken in float32 at least, also under mixed precision.
        min_scale: lower bound of sigma.
        min_variance: in place of it, sigma^2 = softplus(s) + min_variance (Sønderby et al. 2016, arXiv:1602.02282).
        dim: the dimension along which mu and s lie; -3 for the channels of images.

    Returns:
        a distribution with batch shape ``(..., size)``.

    Example:
        >>> import torch
        >>> from pyro_vae.networks import diagonal_normal
        >>> normal = diagonal_normal(torch.zeros(5, 4))
        >>> normal.loc.shape, normal.scale[0]
        (torch.Size([5, 2]), tensor([1., 1.]))
    """
    if features.dtype in (torch.float16, torch.bfloat16):
        features = features.float()
    loc, raw = features.chunk(2, dim)  # each (..., size)
    if min_variance is not None:
        return dist.Normal(loc, (softplus(raw) + min_variance).sqrt())
    shift = math.log(math.expm1(1.0 - min_scale))  # softplus(shift) = 1 - min_scale
    return dist.Normal(loc, softplus(raw + shift) + min_scale)


class GaussianHead(nn.Module):
    r"""N(mu(h), diag sigma^2(h)) with linear mu and sigma^2 = softplus(linear) + 1e-5.

    Args:
        in_dim: size of h.
        out_dim: dimensions of the Gaussian.
        batch_norm: normalize both linear maps.

    Source: Sønderby et al. 2016, arXiv:1602.02282.
    """

    def __init__(self, in_dim: int, out_dim: int, batch_norm: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, 2 * out_dim, bias=not batch_norm).apply(glorot_)
        self.norm = FeatureNorm(2 * out_dim) if batch_norm else nn.Identity()

    def forward(self, h: Tensor) -> dist.Normal:
        """The elementwise Gaussian ``(..., out_dim)`` at h ``(..., in_dim)``."""
        return diagonal_normal(self.norm(self.linear(h)), min_variance=MIN_VARIANCE)


class GaussianMLP(nn.Module):
    """A conditional p(z | h) = N(mu(h), diag sigma^2(h)) by hidden layers and a :class:`GaussianHead`.

    Args:
        in_dim: size of h.
        hidden_dims: sizes of the hidden layers; empty for a linear Gaussian conditional.
        out_dim: dimensions of z.
        activation: name of the activation.
        batch_norm: normalize every layer, the head included.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        activation: str = "tanh",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [in_dim, *hidden_dims]
        self.hidden = hidden_layers(sizes, activation, batch_norm)
        self.head = GaussianHead(sizes[-1], out_dim, batch_norm)

    def forward(self, h: Tensor) -> dist.Normal:
        """The elementwise Gaussian ``(..., out_dim)`` at h ``(..., in_dim)``."""
        return self.head(self.hidden(h))
