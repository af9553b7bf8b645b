"""WaveNet, a prior over sequences of codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.errors import InputError
from pyro_vae.networks.gated import GateCondition, gate, pointwise, transposed
from pyro_vae.networks.layers import check_sizes
from pyro_vae.priors.base import AutoregressivePrior, HeadSteps
from pyro_vae.priors.conditioning import ContextFeatures

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


class WaveNet(AutoregressivePrior):
    r"""Dilated causal convolutions over a sequence of codes.

    With x the embedded codes, one place later (h_0 at t is x at t-1), and c what label and coarser codes add:

    .. math::
        z_l = \mathrm{gate}(W_l *_{d_l} h_{l-1} + c_l), \quad h_l = h_{l-1} + R_l z_l, \quad
        \ell = B\,\mathrm{relu}(A\,\mathrm{relu}(\textstyle\sum_l S_l z_l))

    where layer l convolves the features at t, t - d_l, t - 2 d_l, …, as many as ``kernel`` says. Dilations are 1, 2, 4,
    …, ``2 ** (cycle - 1)``, and again from 1.

    Args:
        num_codes: K.
        shape: (length,).
        num_classes: labels that it is given (a speaker); None: no label.
        coarser: sequences of coarser codes that it is given, by site name.
        channels: of h and of the sum.
        num_layers: how many z there are.
        cycle: layers until the dilations start again; None: as many as it takes to see the whole sequence.
        kernel: positions that a layer looks at, at least 2.
        dropout: of each z, in training.

    Attributes:
        receptive_field: how many codes before it a position sees.

    Raises:
        InputError: for a grid that is no sequence, and for sizes that cannot be.

    Source: van den Oord et al. 2016, arXiv:1609.03499.

    Example:
        >>> from pyro_vae.priors import WaveNet
        >>> prior = WaveNet(num_codes=6, shape=(16,), channels=8, num_layers=4)
        >>> prior.receptive_field, prior().sample((2,)).shape
        (16, torch.Size([2, 16]))
    """

    def __init__(
        self,
        num_codes: int,
        shape: Sequence[int],
        num_classes: int | None = None,
        coarser: Mapping[str, tuple[int, Sequence[int]]] | None = None,
        channels: int = 64,
        num_layers: int = 12,
        cycle: int | None = None,
        kernel: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_codes, shape, num_classes, coarser)
        if len(self.shape) != 1:
            raise InputError(f"WaveNet needs a sequence (length,), got {self.shape}: GatedPixelCNN is for grids")
        if kernel < 2:
            raise InputError(f"WaveNet: kernel must be at least 2, got {kernel}")
        if cycle is not None and cycle < 1:
            raise InputError(f"WaveNet: cycle must be a positive integer or None, got {cycle}")
        check_sizes("WaveNet", dropout, channels=channels, num_layers=num_layers)
        cycle = cycle or whole_cycle(self.shape[0], kernel)
        self.given_features = ContextFeatures(self.coarser, self.shape, channels)
        self.embedding = nn.Embedding(num_codes, channels)
        self.layers = nn.ModuleList(
            DilatedLayer(
                channels,
                kernel,
                2 ** (layer % cycle),
                num_classes,
                self.given_features.channels,
                dropout,
                last=layer == num_layers - 1,
            )
            for layer in range(num_layers)
        )
        self.receptive_field = 1 + sum((kernel - 1) * layer.dilation for layer in self.layers)
        self.head = nn.Sequential(
            nn.ReLU(), pointwise(channels, channels, 1), nn.ReLU(), pointwise(channels, num_codes, 1)
        )

    def condition(self, context: Condition) -> Condition:
        """The label, and features of the coarser codes on this sequence."""
        return self.given_features(context)

    def logits(self, codes: Tensor, condition: Condition) -> Tensor:
        """Logits ``(batch, K, length)`` of codes ``(batch, length)``, in one pass."""
        x = self.embedding(codes).mT  # (batch, channels, length)
        h, total = pad(x, (1, -1)), 0
        for layer in self.layers:
            h, skip = layer(h, condition)
            total = total + skip
        return self.head(total)

    def steps(self, batch: int, condition: Condition) -> WaveNetSteps:
        """A memory of each layer's features as far back as its kernel reaches."""
        return WaveNetSteps(self, batch, condition)


class DilatedLayer(nn.Module):
    """z = gate(W * h + c), h' = h + R z, and S z for the sum.

    Args:
        channels: of h, z and S z.
        kernel, dilation: of W.
        num_classes, features: of the label and of the features that the gate is given.
        dropout: of z, in training.
        last: no h' is made, as no layer would use it.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        dilation: int,
        num_classes: int | None,
        features: int | None,
        dropout: float,
        last: bool,
    ) -> None:
        super().__init__()
        self.dilation, self.reach = dilation, dilation * (kernel - 1)
        self.dilated = nn.Conv1d(channels, 2 * channels, kernel, dilation=dilation)
        self.condition = GateCondition(2 * channels, 1, num_classes, features)
        self.residual = None if last else pointwise(channels, channels, 1, bias=False)
        self.skip = pointwise(channels, channels, 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, condition: Condition) -> tuple[Tensor | None, Tensor]:
        """h' and the term of the sum, ``(batch, channels, length)`` like h."""
        z = self.dropout(gate(self.condition(self.dilated(pad(h, (self.reach, 0))), condition)))
        return None if self.residual is None else h + self.residual(z), self.skip(z)


def whole_cycle(length: int, kernel: int) -> int:
    """The fewest layers of dilations 1, 2, 4, … that see ``length - 1`` positions before the last."""
    cycle = 1
    while (kernel - 1) * (2**cycle - 1) < length - 2:
        cycle += 1
    return cycle
