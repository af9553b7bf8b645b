"""The generative model of documents by topics."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.likelihoods import Multinomial
from pyro_vae.models.base import GenerativeModel
from pyro_vae.networks import LogCounts, MLPDecoder


class TopicVAE(GenerativeModel):
    r"""z ~ N(0, s^2 I), theta = softmax(z);  x | z ~ Multinomial(n, softmax(B theta + b)): ProdLDA.

    The logistic-normal prior is Laplace's approximation to a symmetric Dirichlet(a) over K topics,
    :math:`s^2 = \frac{1}{a} (1 - \frac{1}{K})`. Words are a product of experts: theta weighs the topics' logits, not
    their probabilities. n, the number of words of a document, is the datum's own: log p(x | n).

    Sites: ``z`` with event shape (num_topics,), ``x`` with event shape (vocabulary,).

    Args:
        data_shape: (vocabulary,).
        num_topics: K, at least 2.
        concentration: a, positive; below 1 a document has few topics.
        likelihood: with the number of words of documents that are drawn.
        data_mean: mean of the training data, ``(vocabulary,)``; b starts there.

    Raises:
        InputError: for data that are no vectors of counts, fewer than 2 topics, a concentration that is not positive.

    Source: Srivastava & Sutton 2017, arXiv:1703.01488, without its batch normalization.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.TopicVAE((30,), num_topics=3)
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(8,))
        >>> pyro_vae.encode(model, guide, torch.poisson(torch.ones(5, 30)))["z"].softmax(-1).shape
        torch.Size([5, 3])
        >>> model.top_words(4).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_topics: int = 20,
        concentration: float = 0.5,
        likelihood: Multinomial | None = None,
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        if len(data_shape) != 1:
            raise InputError(f"data_shape: documents are vectors of counts (vocabulary,), got {tuple(data_shape)}")
        if num_topics < 2:
            raise InputError(f"num_topics must be at least 2, got {num_topics}")
        if not concentration > 0:
            raise InputError(f"concentration must be positive, got {concentration}")
        self.data_shape = tuple(data_shape)
        self.likelihood = likelihood if likelihood is not None else Multinomial()
        self.decoder = MLPDecoder(num_topics, (), self.feature_shape)
        self.seen = LogCounts()
        self.register_buffer("origin", torch.zeros(num_topics), persistent=False)
        self.scale = ((1 - 1 / num_topics) / concentration) ** 0.5
        self.init_output_bias(self.decoder, data_mean)

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on word counts ``x`` (batch, vocabulary), or sample ``num_samples`` documents."""
        with self.data_plate(x, num_samples):
            z = pyro.sample("z", dist.Normal(self.origin, self.scale * torch.ones_like(self.origin)).to_event(1))
            theta = z.softmax(-1)  # (..., batch, topics)
            return pyro.sample("x", self.likelihood(self.decoder(theta), 1), obs=x)

    @torch.no_grad()
    def top_words(self, count: int = 10) -> Tensor:
        """The words that each topic raises most above the others', ``(num_topics, count)`` places in the vocabulary."""
        rows = self.decoder.mlp.out.weight.T  # (topics, vocabulary)
        return (rows - rows.mean(0)).topk(count, -1).indices
