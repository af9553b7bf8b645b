"""The gated PixelCNN, a prior over two-dimensional grids of codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.functional import pad

from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.errors import InputError
from pyro_vae.networks.causal_attention import CausalAttention
from pyro_vae.networks.gates import GateCondition, gate, pointwise
from pyro_vae.priors.autoregressive import AutoregressivePrior
from pyro_vae.priors.checks import check_layers
from pyro_vae.priors.given import GivenFeatures
from pyro_vae.priors.pixelcnn_steps import PixelCNNSteps


class GatedPixelCNN(AutoregressivePrior):
    r"""A convolutional prior over a grid of codes that has seen all rows above, and the own row to the left.

    Two stacks of gated convolutions, with no blind spot between them. At layer l, with x the embedded codes,
    v_0 = h_0 = x, and c what label and coarser codes add (see :class:`GatedLayer`):

    .. math::
        u_l = W^v_l * v_{l-1}, \quad v_l = \mathrm{gate}(u_l + c^v_l), \quad
        h_l = h_{l-1} + R_l\,\mathrm{gate}(W^h_l * h_{l-1} + M_l u_l + c^h_l), \quad
        \ell = B\,\mathrm{relu}(A\,\mathrm{relu}(h_L))

    The first layer sees only rows above and codes to the left (mask A), and has no residual connection; later ones see
    the features of their own row and place, too (mask B). Masks are kernels of fewer rows and columns on padded input,
    not kernels multiplied by zeros. With ``attention_heads``, the horizontal stack attends to all that is before it
    after every ``attention_every`` layers, at any distance.

    Each layer sees ``kernel // 2`` rows and columns further; without attention, the whole grid is seen if
    ``num_layers * (kernel // 2)`` is no less than its sides.

    Args:
        num_codes: K.
        shape: (height, width).
        num_classes: labels that it is given; None: no label.
        coarser: grids of coarser codes that it is given, by site name, also of two dimensions.
        channels: of both stacks.
        num_layers: L.
        kernel: k, odd: the vertical kernels are k columns wide, and horizontal ones see k // 2 to the left.
        attention_heads: 0: no attention; otherwise they divide the channels.
        attention_every: layers between attention.
        dropout: of the horizontal gates' output, in training.

    Raises:
        InputError: for a grid that has not two sides, and for sizes that cannot be.

    Source: van den Oord et al. 2016, arXiv:1606.05328; attention: Chen et al. 2017, arXiv:1712.09763; coarser codes:
    Razavi et al. 2019, arXiv:1906.00446.
    """

    def __init__(
        self,
        num_codes: int,
        shape: Sequence[int],
        num_classes: int | None = None,
        coarser: Mapping[str, tuple[int, Sequence[int]]] | None = None,
        channels: int = 64,
        num_layers: int = 8,
        kernel: int = 5,
        attention_heads: int = 0,
        attention_every: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_codes, shape, num_classes, coarser)
        if len(self.shape) != 2:
            raise InputError(f"GatedPixelCNN needs a grid (height, width), got {self.shape}: WaveNet is for sequences")
        if kernel < 3 or kernel % 2 == 0:
            raise InputError(f"GatedPixelCNN: kernel must be odd and at least 3, got {kernel}")
        if attention_heads < 0 or attention_every < 1:
            raise InputError(
                "GatedPixelCNN: attention_heads must not be negative and attention_every must be positive, "
                f"got {attention_heads} and {attention_every}"
            )
        check_layers("GatedPixelCNN", dropout, channels=channels, num_layers=num_layers)
        if attention_heads and attention_every > num_layers:
            raise InputError(
                f"GatedPixelCNN: attention_every must be at most the {num_layers} layers, got {attention_every}"
            )
        self.given_features = GivenFeatures(self.coarser, self.shape, channels)
        self.embedding = nn.Embedding(num_codes, channels)
        self.layers = nn.ModuleList(
            GatedLayer(
                channels,
                kernel,
                num_classes,
                self.given_features.channels,
                dropout,
                first=layer == 0,
                last=layer == num_layers - 1,
            )
            for layer in range(num_layers)
        )
        self.attention = nn.ModuleList(
            CausalAttention(self.shape, channels, attention_heads)
            if attention_heads and (layer + 1) % attention_every == 0
            else nn.Identity()
            for layer in range(num_layers)
        )
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, num_codes, 1)
        )

    def condition(self, context: Condition) -> Condition:
        """The label, and features of the coarser codes on this grid."""
        return self.given_features(context)

    def logits(self, codes: Tensor, condition: Condition) -> Tensor:
        """Logits ``(batch, K, height, width)`` of codes ``(batch, height, width)``, in one pass."""
        x = self.embedding(codes).movedim(-1, 1)  # (batch, channels, height, width), channels last in memory
        v = h = x
        for layer, attend in zip(self.layers, self.attention, strict=True):
            v, h = layer(v, h, condition)
            if isinstance(attend, CausalAttention):
                h = attend(h, x)
        return self.head(h)

    def steps(self, batch: int, condition: Condition) -> PixelCNNSteps:
        """A memory of the rows above and of the row that is being written."""
        return PixelCNNSteps(self, batch, condition)


class GatedLayer(nn.Module):
    r"""A layer of both stacks: u = W^v * v, v' = gate(u + c^v), h' = h + R gate(W^h * h + M u + c^h).

    Args:
        channels: of v and h.
        kernel: k.
        num_classes, features: of the label and of the features that the gates are given.
        dropout: of the horizontal gate's output, in training.
        first: mask A and no residual connection.
        last: no v' is made, as no layer would use it.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        num_classes: int | None,
        features: int | None,
        dropout: float,
        first: bool,
        last: bool,
    ) -> None:
        super().__init__()
        self.first, self.reach = first, kernel // 2
        near = self.reach if first else self.reach + 1  # rows and columns: without or with the own one
        self.vertical = nn.Conv2d(channels, 2 * channels, (near, kernel))
        self.horizontal = nn.Conv2d(channels, 2 * channels, (1, near))
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)  # M, before the gate
        self.residual = pointwise(channels, channels, 2, bias=False)
        self.vertical_condition = None if last else GateCondition(2 * channels, 2, num_classes, features)
        self.horizontal_condition = GateCondition(2 * channels, 2, num_classes, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, v: Tensor, h: Tensor, condition: Condition) -> tuple[Tensor | None, Tensor]:
        """v' and h', ``(batch, channels, height, width)`` like v and h."""
        reach, cut = self.reach, -1 if self.first else 0  # mask A: the own row or column is cut off
        u = self.vertical(pad(v, (reach, reach, reach, cut)))
        s = self.horizontal(pad(h, (reach, cut))) + self.across(u)
        z = self.residual(self.dropout(gate(self.horizontal_condition(s, condition))))
        return self.above(u, condition), z if self.first else h + z

    def above(self, u: Tensor, condition: Condition) -> Tensor | None:
        """v' = gate(u + c^v)."""
        return None if self.vertical_condition is None else gate(self.vertical_condition(u, condition))
