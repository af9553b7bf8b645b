"""A causal transformer as a likelihood of sequences of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.errors import positive
from pyro_vae.likelihoods.tokens import FEATURES, TokenLikelihood
from pyro_vae.networks.recurrent import SequenceDropout
from pyro_vae.networks.transformer import TransformerBlock
from pyro_vae.networks.transformer_steps import Memory, TransformerSteps

SCALE = 0.02  # standard deviation of embeddings at the start


class TransformerTokens(TokenLikelihood):
    r"""p(x | f) = prod_t p(x_t | x_<t, f) by a transformer that looks back only; nats.

    .. math::
        u_1 = A f + a + r_1, \quad u_t = e_{x_{t-1}} + r_t, \quad
        p(x_t | x_{<t}, f) = \mathrm{softmax}(W\,\mathrm{norm}(\mathrm{blocks}(u))_t + b)

    The features are the first thing that it reads, where all later places can look at them; r are learned vectors of
    the places.

    Args:
        data_shape: (T,).
        num_tokens: V: tokens are 1 … V-1, and 0 is the end.
        features: F of the decoder; 0: there is no decoder.
        width: of what goes from layer to layer, and of a token.
        num_layers, heads: of the transformer.
        ends: False: sequences of one length T, without an end.
        dropout: also of what the layers add.
        word_dropout, scheduled_sampling: see :class:`~pyro_vae.likelihoods.tokens.TokenLikelihood`.

    Raises:
        InputError: for sizes that cannot be, and probabilities that are not from 0 to below 1.

    Source: Vaswani et al. 2017, arXiv:1706.03762; as the decoder of a VAE: Liu & Liu 2019, doi:10.18653/v1/K19-1036.

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.likelihoods import TransformerTokens
        >>> likelihood = TransformerTokens((6,), num_tokens=10, features=4, width=8, num_layers=2, heads=2)
        >>> model = pyro_vae.models.VAE((6,), latent_dim=2, likelihood=likelihood, hidden_dims=())
        >>> pyro_vae.sample(model, 5)["x"].shape
        torch.Size([5, 6])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_tokens: int,
        features: int = 32,
        width: int = 128,
        num_layers: int = 2,
        heads: int = 4,
        ends: bool = True,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        scheduled_sampling: float = 0.0,
    ) -> None:
        probabilities = {"word_dropout": word_dropout, "scheduled_sampling": scheduled_sampling}
        super().__init__(data_shape, num_tokens, features, width, width, ends, dropout, **probabilities)
        positive("TransformerTokens: num_layers", num_layers)
        self.embedding.weight.data.mul_(SCALE)
        self.places = nn.Parameter(SCALE * torch.randn(self.data_shape[0], width))
        self.start = nn.Linear(self.features, width) if self.features else None
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, num_layers, 0.0) for _ in range(num_layers))
        for block in self.blocks:
            block.dropout = SequenceDropout(dropout)
        self.norm = nn.LayerNorm(width)

    def read(self, inputs: Tensor, features: Tensor | None) -> Tensor:
        """What the last block says ``(batch, L, width)``, normalized; see the base class."""
        if features is not None and self.start is not None:
            inputs = torch.cat([self.start(features).unsqueeze(1), inputs[:, 1:]], 1)
        x = inputs + self.places[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x, None)
        return self.norm(x)

    def steps(self, batch: int, condition: Condition) -> TransformerSteps:
        """Keys and values of what new sequences have read, ``batch`` of them."""
        features, table = condition.get(FEATURES), self.embedding.weight
        start = table[0] if features is None or self.start is None else self.start(features)
        memories = [
            Memory(table, batch * block.heads, table.shape[1] // block.heads, len(self.places), None)
            for block in self.blocks
        ]
        last = self.norm, self.out.weight, self.bias
        return TransformerSteps(self.blocks, memories, table, self.places, start, *last, batch)
