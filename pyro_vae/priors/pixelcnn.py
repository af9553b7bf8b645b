"""The gated PixelCNN, a prior over two-dimensional grids of codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.errors import InputError
from pyro_vae.networks.transformer import CausalAttention
from pyro_vae.priors.base import AutoregressivePrior, HeadSteps, check_sizes, transposed
from pyro_vae.priors.conditioning import ContextFeatures, GateCondition, gate, pointwise


class PixelCNNSteps:
    """Logits of one position after another; nothing is computed twice.

    The vertical stack is computed once a row, for all its columns, from the last ``kernel // 2`` rows of each layer; it
    leaves what it and the condition add to the horizontal gates of the row. The horizontal stack is computed once a
    position, from the features to its left. Attention has the keys and values of all positions before.

    A position costs a layer four small operations that write to memory which was set aside before, through views that
    were made before: at this size it is the number of operations that costs.

    Args:
        prior: the network, with the weights that it has now.
        batch: how many grids.
        condition: what the prior's ``condition`` gave, ``(batch, ...)``.
    """

    def __init__(self, prior: GatedPixelCNN, batch: int, condition: Condition) -> None:
        self.condition, self.width = condition, prior.shape[1]
        self.embedding = prior.embedding.weight.detach()
        reach, channels = prior.layers[0].reach, self.embedding.shape[1]
        # the present row of h_0 = x, h_1, …, h_{L-1}, with zeros to its left; of h_L one position
        rows = [self.embedding.new_zeros(batch, reach + self.width, channels) for _ in prior.layers]
        self.last = self.embedding.new_zeros(batch, channels)
        self.before = self.embedding.new_zeros(batch, channels)  # x one position before
        places = [[*row[:, reach:].unbind(1)] for row in rows] + [[self.last] * self.width]  # (batch, channels) each
        self.x, self.x_row = places[0], rows[0][:, reach:].movedim(-1, 1).unsqueeze(2)  # (batch, channels, 1, width)
        self.layers = [
            LayerSteps(layer, row, here, there)
            for layer, row, here, there in zip(prior.layers, rows, places, places[1:], strict=False)
        ]
        self.attention = [a.cache(batch) if isinstance(a, CausalAttention) else None for a in prior.attention]
        self.head = HeadSteps(prior.head)

    def __call__(self, position: int, codes: Tensor) -> Tensor:
        """Logits ``(batch, K)`` at a position, given codes ``(batch, N)`` of which those before it are known."""
        row, column = divmod(position, self.width)
        if position > 0:
            self.before = self.embedding[codes[:, position - 1]]
            self.x[column - 1].copy_(self.before)
        if column == 0:
            self._begin(row)
        for layer, cache in zip(self.layers, self.attention, strict=True):
            h = layer.step(column)
            if cache is not None:
                h.copy_(cache.step(h, self.before, position))
        return self.head(self.last)

    def _begin(self, row: int) -> None:
        """The vertical stack of a row."""
        condition = dict(self.condition)
        if "features" in condition:
            condition["features"] = condition["features"][:, :, row : row + 1]
        v = self.x_row  # still the row above; zeros above the first
        for layer in self.layers:
            v = layer.begin(v, condition)


class LayerSteps:
    """One layer's memory.

    Args:
        layer: with the weights that it has now.
        row: features h that it reads, ``(batch, reach + width, channels)``.
        here: views of them, one a column, ``(batch, channels)``.
        there: where its output goes, one a column.
    """

    def __init__(self, layer: GatedLayer, row: Tensor, here: list[Tensor], there: list[Tensor]) -> None:
        self.layer, self.here, self.there = layer, here, there
        batch, channels = len(row), row.shape[2]
        (near, kernel), width = layer.vertical.kernel_size, len(here)
        self.above = row.new_zeros(batch, near, width + 2 * layer.reach, channels)  # rows of v
        self.patches = self.above.unfold(2, kernel, 1).permute(0, 2, 1, 4, 3)  # (batch, width, near, kernel, channels)
        self.vertical = transposed(layer.vertical.weight.movedim(1, -1))
        self.across = transposed(layer.across.weight)
        self.added = row.new_empty(width, batch, 2 * channels)  # to the horizontal gates of the row
        self.windows = [row[:, j : j + near].view(batch, near * channels) for j in range(width)]
        self.horizontal = transposed(layer.horizontal.weight.movedim(1, -1))
        self.residual = transposed(layer.residual.weight)
        self.gates = row.new_empty(batch, 2 * channels)
        self.a, self.b = self.gates.chunk(2, dim=1)
        self.z = row.new_empty(batch, channels)

    def begin(self, v: Tensor, condition: Condition) -> Tensor | None:
        """Take a row of v, ``(batch, channels, 1, width)``, give the next layer's; keep what the row's gates need."""
        layer, reach = self.layer, self.layer.reach
        self.above[:, :-1] = self.above[:, 1:].clone()
        self.above[:, -1, reach:-reach] = v.squeeze(2).mT
        u = torch.addmm(layer.vertical.bias, self.patches.reshape(-1, len(self.vertical)), self.vertical)
        added = torch.addmm(layer.horizontal.bias, u, self.across)  # (batch * width, 2 * channels), like u
        added, u = (rows.view(len(v), 1, len(self.added), rows.shape[1]).movedim(-1, 1) for rows in (added, u))
        self.added.copy_(layer.horizontal_condition(added, condition).squeeze(2).permute(2, 0, 1))
        return layer.above(u, condition)

    def step(self, column: int) -> Tensor:
        """h' at a column, ``(batch, channels)``; it is where the next layer reads it."""
        torch.addmm(self.added[column], self.windows[column], self.horizontal, out=self.gates)
        torch.mul(self.a.tanh_(), self.b.sigmoid_(), out=self.z)
        if self.layer.first:
            return torch.mm(self.z, self.residual, out=self.there[column])
        return torch.addmm(self.here[column], self.z, self.residual, out=self.there[column])


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

    Example:
        >>> import torch
        >>> from pyro_vae.priors import GatedPixelCNN
        >>> prior = GatedPixelCNN(num_codes=6, shape=(4, 4), num_classes=10, channels=8, num_layers=2)
        >>> codes = prior(y=torch.arange(10))
        >>> codes.batch_shape, codes.event_shape, codes.sample().shape
        (torch.Size([10]), torch.Size([4, 4]), torch.Size([10, 4, 4]))
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
        check_sizes("GatedPixelCNN", dropout, channels=channels, num_layers=num_layers)
        if attention_heads and attention_every > num_layers:
            raise InputError(
                f"GatedPixelCNN: attention_every must be at most the {num_layers} layers, got {attention_every}"
            )
        self.given_features = ContextFeatures(self.coarser, self.shape, channels)
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
