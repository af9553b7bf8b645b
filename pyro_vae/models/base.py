"""Base classes of generative models: the data plate, the start of the output bias, priors over codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods import Likelihood
from pyro_vae.priors import LatentPrior, Prior
from pyro_vae.programs.context import Context, narrowed


class GenerativeModel(PyroModule):
    """A generative Pyro program p(x, z) with all per-datum sites in one plate.

    A subclass writes ``forward(self, x=None, *, num_samples=1)``: data sites are observed with ``obs=x`` and are
    sampled when ``x`` is None, which is generation. One that needs context writes
    ``forward(self, x=None, *, y)`` and declares what is right in ``context``.

    Attributes:
        data_shape: shape of one datum.
        likelihood: p(x | features).
        context: what is accepted as context, by argument name.

    Example:
        >>> import pyro, pyro_vae, torch
        >>> import pyro.distributions as dist
        >>> class Scaled(pyro_vae.models.GenerativeModel):
        ...     def forward(self, x=None, *, num_samples=1):
        ...         with self.data_plate(x, num_samples):
        ...             z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))  # (..., batch, 2)
        ...             return pyro.sample("x", dist.Normal(2 * z, 0.1).to_event(1), obs=x)
        >>> pyro_vae.sample(Scaled(), 5)["x"].shape
        torch.Size([5, 2])
    """

    data_shape: tuple[int, ...]
    likelihood: Likelihood
    context: dict[str, Context]

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """What a decoder must give for the likelihood: ``(P * channels, *rest)`` for data ``(channels, *rest)``."""
        return self.likelihood.feature_shape(self.data_shape)

    def data_plate(self, data: Tensor | None, num_samples: int = 1) -> Any:
        """The plate of the data, at dim -1: as long as ``data``, or ``num_samples`` when there are none.

        Raises:
            InputError: if num_samples is not a positive integer.
        """
        size = positive("num_samples", num_samples) if data is None else data.shape[0]
        return pyro.plate("data", size, dim=-1)

    def init_output_bias(self, decoder: nn.Module, mean: Tensor | None) -> None:
        """Let a decoder's output bias, or the likelihood's own, start where the likelihood has the data's mean.

        Args:
            decoder: with a ``set_output_bias``; of others nothing is changed.
            mean: mean of the training data, ``data_shape``, or None.

        Raises:
            InputError: if the mean has another shape.
        """
        if mean is None:
            return
        if tuple(mean.shape) != self.data_shape:
            raise InputError(f"data_mean must have the data's shape {self.data_shape}, got {tuple(mean.shape)}")
        self.likelihood.set_output_bias(mean)
        if hasattr(decoder, "set_output_bias"):
            decoder.set_output_bias(self.likelihood.initial_bias(mean))


class LikelihoodModel(GenerativeModel):
    """x ~ likelihood, given nothing: without latents, so that the ELBO is log p(x) itself.

    Args:
        data_shape: shape of one datum.
        likelihood: p(x), one that takes no features.

    Raises:
        InputError: for a likelihood that takes features, or other data.
    """

    nothing: Tensor

    def __init__(self, data_shape: Sequence[int], likelihood: Likelihood) -> None:
        super().__init__()
        self.data_shape, self.likelihood = tuple(data_shape), likelihood
        if math.prod(self.feature_shape):
            kind = type(likelihood).__name__
            raise InputError(
                f"{type(self).__name__} has no decoder, and {kind} takes features of shape {self.feature_shape}: build "
                f"it with features=0"
            )
        self.register_buffer("nothing", torch.zeros(self.feature_shape), persistent=False)

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, or sample ``num_samples`` data."""
        with self.data_plate(x, num_samples):
            return pyro.sample("x", self.likelihood(self.nothing, len(self.data_shape)), obs=x)


class LatentPriorModel(GenerativeModel):
    """A generative model with a latent site at its top that has the prior N(0, I), or a learned one in its place.

    Attributes:
        latent_prior: the learned prior; None: N(0, I).
    """

    latent_prior: LatentPrior | None
    origin: Tensor

    def take_prior(self, prior: LatentPrior | None, site: str, shape: Sequence[int]) -> None:
        """Let a latent site have a learned prior, or N(0, I).

        Args:
            prior: the prior; None: N(0, I).
            site: name of the site.
            shape: of its event.

        Raises:
            InputError: for a prior of another shape, or one that cannot be without what this model has not.
        """
        self.register_buffer("origin", torch.zeros(*shape), persistent=False)
        self.latent_prior = prior
        if prior is None:
            return
        if not isinstance(prior, LatentPrior):
            raise InputError(f"prior must be a LatentPrior, such as priors.MixturePrior, got {type(prior).__name__}")
        if prior.shape != tuple(shape):
            raise InputError(f"the prior has shape {prior.shape}, and latent site '{site}' has {tuple(shape)}")
        given = getattr(self, "context", {})
        missing = [name for name, context in prior.context.items() if name not in given and not context.optional]
        if missing:
            raise InputError(
                f"the {type(prior).__name__} is given {', '.join(missing)}, and a {type(self).__name__} has nothing of "
                "that name: take a model with context, such as ConditionalVAE"
            )
        if prior.context:  # what both accept: a label that the prior does not know has no features there
            self.context = given | {
                name: narrowed(name, given[name], own) for name, own in prior.context.items() if name in given
            }
        prior.site = site

    def prior(self, **context: Any) -> Any:
        """p(z) of the latent site, or p(z | context)."""
        if self.latent_prior is not None:
            return self.latent_prior(**context)
        return dist.Normal(self.origin, torch.ones_like(self.origin)).to_event(self.origin.dim())


class LatentCodeModel(GenerativeModel):
    """A generative model whose latents are codes, with priors over them that can be replaced by learned ones.

    Attributes:
        priors: over the codes, by site, the coarsest first.
    """

    priors: nn.ModuleDict

    @property
    def context(self) -> dict[str, Context]:  # type: ignore[override]
        """What the priors are given: a class label ``y``, and a ``text``, which is drawn if it is not given."""
        declared = {k: v for prior in self._learnable() for k, v in prior.context.items()}
        given = {name: declared[name] for name in ("y", "text") if name in declared}
        if self._prior_of_text() is not None:
            given["text"] = replace(given["text"], drawn=True)
        return given

    def prior_context(self, **context: Tensor) -> dict[str, Tensor]:
        """What the priors are given of a batch's context beside labels and texts, by name; nothing, of most models.

        A learned prior is trained on it: it is made once, with the codes of the data.

        Args:
            context: the batch but for x, each ``(batch, ...)``.
        """
        return {}

    def sample_text(self, text: Tensor | None) -> Tensor | None:
        """text ~ p(text) of the first prior that has one, observed if it is given: the site ``text``.

        So a model with such a prior is one of data and texts together, log p(x, text). Without one there is no site.

        Args:
            text: ``(batch, text_length)`` int64; None: to be drawn.

        Returns:
            the text that the priors are to be given.
        """
        prior = self._prior_of_text()
        return text if prior is None else pyro.sample("text", prior.text(), obs=text)

    def _learnable(self) -> list[Prior]:
        return [prior for prior in self.priors.values() if isinstance(prior, Prior)]

    def _prior_of_text(self) -> Prior | None:
        """The first prior that is one over texts, too."""
        return next((prior for prior in self._learnable() if prior.draws_text), None)
