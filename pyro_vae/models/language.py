"""A model of sequences of tokens without latents."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_vae.likelihoods import RecurrentTokens, TokenLikelihood
from pyro_vae.models.base import LikelihoodModel


class LanguageModel(LikelihoodModel):
    """x ~ likelihood: each token given those before it, and nothing else.

    It has no latents (its guide is :class:`~pyro_vae.guides.EmptyGuide`), so that the ELBO is log p(x) itself. A VAE
    whose decoder looks at no latents is this model.

    Args:
        data_shape: (T,).
        num_tokens: V: tokens are 1 … V-1, and 0 is the end.
        likelihood: p(x), one with ``features=0``; a :class:`~pyro_vae.likelihoods.RecurrentTokens` if not given.

    Raises:
        InputError: for a likelihood that takes features, or other data.

    Source: Mikolov et al. 2010, doi:10.21437/Interspeech.2010-343.

    Example:
        >>> import pyro_vae
        >>> model, guide = pyro_vae.models.LanguageModel((6,), num_tokens=10), pyro_vae.guides.EmptyGuide()
        >>> x = pyro_vae.sample(model, 5)["x"]
        >>> pyro_vae.log_likelihood(model, guide, x, num_particles=1, progress=False).per_datum.shape
        torch.Size([5])
    """

    def __init__(self, data_shape: Sequence[int], num_tokens: int, likelihood: TokenLikelihood | None = None) -> None:
        super().__init__(data_shape, likelihood or RecurrentTokens(data_shape, num_tokens, features=0))
