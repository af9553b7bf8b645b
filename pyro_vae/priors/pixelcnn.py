"""The gated PixelCNN, a prior over two-dimensional grids of codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.errors import InputError
from pyro_vae.networks.gated import GatedLayer, GatedLayerSteps, check_kernel
from pyro_vae.networks.layers import check_sizes
from pyro_vae.networks.transformer import CausalAttention
from pyro_vae.priors.base import AutoregressivePrior, HeadSteps
from pyro_vae.priors.conditioning import ContextFeatures


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
            GatedLayerSteps(layer, row, here, there)
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


class GatedPixelCNN(AutoregressivePrior):
    r"""A convolutional prior over a grid of codes that has seen all rows above, and the own row to the left.

    Two stacks of gated convolutions, with no blind spot between them. At layer l, with x the embedded codes,
    v_0 = h_0 = x, and c what label and coarser codes add (see :class:`~pyro_vae.networks.gated.GatedLayer`):

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

    features_of = ContextFeatures  # what makes the features that the gates are given of the context

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
            raise InputError(
                f"GatedPixelCNN needs a grid (height, width), got {self.shape}: WaveNet is for sequences, "
                "FramePixelCNN for the grids of several frames"
            )
        check_kernel("GatedPixelCNN: kernel", kernel)
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
        self.given_features = self.features_of(self.coarser, self.shape, channels)
        self.embedding = nn.Embedding(num_codes, channels)
        self.layers = nn.ModuleList(
            GatedLayer(
                channels,
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
