"""A WaveNet position by position, from what it has computed before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.priors.steps import HeadSteps, transposed

if TYPE_CHECKING:
    from pyro_vae.priors.wavenet import DilatedLayer, WaveNet

BLOCK = 64  # positions whose condition is computed together


class WaveNetSteps:
    """Logits of one position after another; nothing is computed twice.

    Each layer keeps the features that its kernel reaches back to in a ring. A position costs a layer four small
    operations, whatever the dilation and the length are.

    Args:
        prior: the network, with the weights that it has now.
        batch: how many sequences.
        condition: what the prior's ``condition`` gave, ``(batch, ...)``.
    """

    def __init__(self, prior: WaveNet, batch: int, condition: Condition) -> None:
        self.condition, self.length = condition, prior.shape[0]
        self.embedding = prior.embedding.weight.detach()
        layers, channels = prior.layers, self.embedding.shape[1]
        self.z = self.embedding.new_empty(batch, len(layers) * channels)  # of all the layers, for the sum
        z = self.z.split(channels, dim=1)
        self.layers = [LayerSteps(layer, out, self.length) for layer, out in zip(layers, z, strict=True)]
        self.skip = torch.cat([transposed(layer.skip.weight) for layer in layers])
        self.head = HeadSteps(prior.head)

    def __call__(self, position: int, codes: Tensor) -> Tensor:
        """Logits ``(batch, K)`` at a position, given codes ``(batch, length)`` of which those before it are known."""
        if position % BLOCK == 0:
            self._begin(position)
        if position > 0:  # at 0 nothing is before: zeros, as in a new ring
            self.layers[0].place(position).copy_(self.embedding[codes[:, position - 1]])
        for layer, above in zip(self.layers, [*self.layers[1:], None], strict=True):
            layer.step(position, None if above is None else above.place(position))
        return self.head(torch.mm(self.z, self.skip))

    def _begin(self, position: int) -> None:
        """What the condition adds to the gates of the next positions."""
        condition, end = dict(self.condition), min(position + BLOCK, self.length)
        if "features" in condition:
            condition["features"] = condition["features"][:, :, position:end]
        for layer in self.layers:
            layer.begin(condition, end - position)


class LayerSteps:
    """One layer's ring of features.

    The ring has a slot for each position modulo the dilation d: the k features, ``(batch, k * channels)``, that the
    layer convolves when it is there. The newest takes the place of the oldest, so that their order in the slot turns by
    one at each visit; it is the weights that are turned, not the features.

    Args:
        layer: with the weights that it has now.
        z: where the gate's output goes, ``(batch, channels)``.
        length: of the sequence.
    """

    def __init__(self, layer: DilatedLayer, z: Tensor, length: int) -> None:
        self.layer, self.z = layer, z
        (batch, channels), kernel = z.shape, layer.dilated.kernel_size[0]
        self.slots = [z.new_zeros(batch, kernel * channels) for _ in range(min(layer.dilation, length))]
        self.places = [slot.split(channels, dim=1) for slot in self.slots]  # k times (batch, channels)
        taps = layer.dilated.weight.detach().permute(2, 1, 0)  # (kernel, channels, 2 * channels), the oldest first
        # at visit n the newest is in place n mod k: the last tap belongs there
        self.turned = [taps.roll(n + 1, 0).flatten(0, 1).contiguous() for n in range(kernel)]
        self.residual = None if layer.residual is None else transposed(layer.residual.weight)
        self.gates = z.new_empty(batch, 2 * channels)
        self.a, self.b = self.gates.chunk(2, dim=1)

    def place(self, position: int) -> Tensor:
        """Where the features h at a position go, ``(batch, channels)``."""
        visit, slot = divmod(position, self.layer.dilation)
        return self.places[slot][visit % len(self.turned)]

    def begin(self, condition: Condition, count: int) -> None:
        """What bias and condition add at the next positions, ``(batch, 2 * channels)`` each."""
        bias = self.layer.dilated.bias.detach()[:, None].expand(len(self.z), -1, count)
        self.added = self.layer.condition(bias, condition).permute(2, 0, 1).contiguous().unbind(0)

    def step(self, position: int, above: Tensor | None) -> None:
        """z at a position, and h' to where the next layer reads it."""
        visit, slot = divmod(position, self.layer.dilation)
        added, turned = self.added[position % BLOCK], self.turned[visit % len(self.turned)]
        torch.addmm(added, self.slots[slot], turned, out=self.gates)
        torch.mul(self.a.tanh_(), self.b.sigmoid_(), out=self.z)
        if self.residual is not None:
            torch.addmm(self.place(position), self.z, self.residual, out=above)
