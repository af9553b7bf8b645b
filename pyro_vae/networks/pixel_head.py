"""From what a pixel is given to its distribution's parameters, by 1x1 convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_vae.networks.gated import gate, product, transposed


class PixelHead(nn.Module):
    """1x1 convolutions from what the pixels before, the decoder and the known channels say, to parameters of outputs.

    Its features of the image's channels are groups, one channel's after another's, which do not see each other.

    Args:
        data_channels: C.
        seen: channels of what the pixels before say.
        features: F, channels of what the decoder says; may be 0.
        channels: M, for each channel of the image.
        num_layers: L.
        num_parameters: P, of each number's distribution.
    """

    def __init__(
        self, data_channels: int, seen: int, features: int, channels: int, num_layers: int, num_parameters: int
    ) -> None:
        super().__init__()
        self.groups, self.num_parameters = data_channels, num_parameters
        width = data_channels * channels
        self.before = nn.Conv2d(seen, 2 * width, 1)
        self.given = AsImages(features, 2 * width) if features else None
        self.known = KnownChannels(data_channels, 2 * channels) if data_channels > 1 else None
        self.inner = nn.ModuleList(nn.Conv2d(width, 2 * width, 1, groups=data_channels) for _ in range(num_layers - 1))
        self.residual = nn.ModuleList(
            nn.Conv2d(width, width, 1, groups=data_channels, bias=False) for _ in range(num_layers - 1)
        )
        self.out = nn.Conv2d(width, data_channels * num_parameters, 1, groups=data_channels)
        with torch.no_grad():
            self.out.weight.mul_(0.1)  # near 0, so that x starts at its mean

    def seen(self, before: Tensor, x: Tensor) -> Tensor:
        """What the image says, ``(batch, C * 2M, height, width)``, of the layers' output and the image itself."""
        gates = self.before(before)
        return gates if self.known is None else gates + self.known(x)

    def forward(self, gates: Tensor) -> Tensor:
        """Parameters ``(batch, P * C, height, width)`` of the first gates' input ``(batch, C * 2M, height, width)``."""
        g = self._gate(gates)
        for inner, residual in zip(self.inner, self.residual, strict=True):
            g = g + residual(self._gate(inner(g)))
        out = self.out(g)
        return out if self.groups == 1 else out.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)

    def _gate(self, x: Tensor) -> Tensor:
        """Each channel's gate: its a and its b are beside one another."""
        if self.groups == 1:
            return gate(x)
        a, b = x.unflatten(1, (self.groups, 2, -1)).unbind(2)  # (batch, C, M, height, width) each
        return product(a, b).flatten(1, 2)

    @torch.no_grad()
    def set_output_bias(self, bias: Tensor) -> None:
        """Let parameters start at ``(P, C)``."""
        self.out.bias.copy_(bias.T.flatten())


class AsImages(nn.Conv2d):
    """A linear map at every pixel, without a bias, of features in any memory layout."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """``(batch, in_channels, height, width)`` to ``(batch, out_channels, height, width)``, channels last."""
        return super().forward(features.contiguous(memory_format=torch.channels_last))


class KnownChannels(nn.Module):
    """sum over j < k of V_kj x_j: what the channels of a pixel before the k-th say.

    Args:
        channels: C.
        width: of the result, for each k.
    """

    mask: Tensor

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, width, channels) / channels**0.5)  # (k, width, j)
        before = torch.ones(channels, channels).tril(-1).unsqueeze(1)  # (k, 1, j)
        self.register_buffer("mask", before, persistent=False)

    def matrix(self) -> Tensor:
        """V, ``(C * width, C)``."""
        return (self.weight * self.mask).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, C, height, width)`` to ``(batch, C * width, height, width)``."""
        return nn.functional.conv2d(x, self.matrix()[:, :, None, None])


class PixelHeadSteps:
    """Parameters of one number after another.

    Args:
        head: with the weights that it has now.
    """

    def __init__(self, head: PixelHead) -> None:
        groups = head.groups
        self.before, self.bias = transposed(head.before.weight), head.before.bias.detach()
        self.given = None if head.given is None else transposed(head.given.weight)
        self.known = None if head.known is None else head.known.matrix().detach().chunk(groups)  # (2M, C) each
        self.layers = [
            [*zip(of_each(inner, groups), of_each(residual, groups), strict=True)]
            for inner, residual in zip(head.inner, head.residual, strict=True)
        ]
        self.out = of_each(head.out, groups)
        self.row: Tensor | None = None
        self.gates: tuple[Tensor, ...] = ()

    def begin_row(self, features: Tensor) -> None:
        """Take the decoder's features of a row, ``(batch, F, width)``."""
        if self.given is not None:
            self.row = features.permute(2, 0, 1) @ self.given  # (width, batch, C * 2M)

    def begin(self, before: Tensor, column: int) -> None:
        """Take what the pixels before say at a column, ``(batch, channels)``."""
        gates = torch.addmm(self.bias, before, self.before)
        if self.row is not None:
            gates = gates + self.row[column]
        self.gates = gates.chunk(len(self.out), 1)

    def __call__(self, known: Tensor, channel: int) -> Tensor:
        """Parameters ``(batch, P)`` of the k-th channel of the pixel, given those before it, ``(batch, k)``."""
        gates = self.gates[channel]
        if self.known is not None:
            gates = gates + known @ self.known[channel][:, :channel].T
        g = gate(gates)
        for layer in self.layers:
            (inner, bias), (residual, _) = layer[channel]
            g = g + gate(torch.addmm(bias, g, inner)) @ residual
        weight, bias = self.out[channel]
        return torch.addmm(bias, g, weight)


def of_each(conv: nn.Conv2d, groups: int) -> list[tuple[Tensor, Tensor | None]]:
    """Weights ``(in, out)`` and bias of each group."""
    weights = [transposed(weight) for weight in conv.weight.chunk(groups)]
    biases = [None] * groups if conv.bias is None else conv.bias.detach().chunk(groups)
    return [*zip(weights, biases, strict=True)]
