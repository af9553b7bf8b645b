"""WaveNet, a prior over sequences of codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.functional import pad

from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.errors import InputError
from pyro_vae.networks.gates import GateCondition, gate, pointwise
from pyro_vae.priors.autoregressive import AutoregressivePrior
from pyro_vae.priors.checks import check_layers
from pyro_vae.priors.given import GivenFeatures
from pyro_vae.priors.wavenet_steps import WaveNetSteps


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
        check_layers("WaveNet", dropout, channels=channels, num_layers=num_layers)
        cycle = cycle or whole_cycle(self.shape[0], kernel)
        self.given_features = GivenFeatures(self.coarser, self.shape, channels)
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
