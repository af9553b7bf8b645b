"""Models whose data are codes: what a learned prior is trained as."""

from __future__ import annotations

import pyro
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.priors import Prior
from pyro_vae.programs.context import Context


class CodeModel(PyroModule):
    """x ~ p(codes | y, text, coarser codes): what trains a learned prior, by maximum likelihood.

    It has no latents (its guide is :class:`~pyro_vae.guides.EmptyGuide`), so that the ELBO is log p(codes) itself.

    Args:
        prior: over the codes, which are the data ``x`` ``(batch, *grid)``, int64.

    Example:
        >>> import pyro_vae
        >>> prior = pyro_vae.priors.GatedPixelCNN(num_codes=6, shape=(4, 4), channels=8, num_layers=2)
        >>> model, guide = pyro_vae.models.CodeModel(prior), pyro_vae.guides.EmptyGuide()
        >>> codes = pyro_vae.sample(model, 20)["x"]
        >>> codes.shape, pyro_vae.ELBO().differentiable_loss(model, guide, x=codes).shape  # of -log p(codes)
        (torch.Size([20, 4, 4]), torch.Size([]))
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    @property
    def context(self) -> dict[str, Context]:
        """What the prior is given."""
        return self.prior.context

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1, **context: Tensor | None) -> Tensor:
        """Run the program on codes ``x``, or sample ``num_samples`` grids of them."""
        with pyro.plate("data", num_samples if x is None else x.shape[0], dim=-1):
            return pyro.sample("x", self.prior(**context), obs=x)


class TextCodeModel(PyroModule):
    """text ~ p(text), x ~ p(codes | text, y, coarser codes): what trains a prior over texts and codes together.

    In training the two sites are scaled by the prior's ``training_scales``; in evaluation they are not, so that the
    ELBO is log p(text, codes). Its guide is :class:`~pyro_vae.guides.EmptyGuide`.

    Args:
        prior: over the codes, the data ``x`` ``(batch, *grid)``, and over the data ``text`` ``(batch, text_length)``.

    Example:
        >>> import pyro_vae
        >>> sizes = {"width": 8, "num_layers": 1, "heads": 2}
        >>> prior = pyro_vae.priors.TransformerPrior(6, (4, 4), text_length=3, num_words=5, **sizes)
        >>> drawn = pyro_vae.sample(pyro_vae.models.TextCodeModel(prior), 2, site="x")
        >>> drawn["text"].shape, drawn["x"].shape
        (torch.Size([2, 3]), torch.Size([2, 4, 4]))
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    @property
    def context(self) -> dict[str, Context]:
        """What the prior is given beside the text."""
        return {name: context for name, context in self.prior.context.items() if name != "text"}

    def forward(
        self, x: Tensor | None = None, text: Tensor | None = None, *, num_samples: int = 1, **context: Tensor | None
    ) -> Tensor:
        """Run the program on codes and texts, or sample codes (of ``num_samples`` texts that are sampled, too)."""
        given = next((value for value in (x, text) if value is not None), None)
        scales = self.prior.training_scales() if self.training else (1.0, 1.0)
        with pyro.plate("data", num_samples if given is None else given.shape[0], dim=-1):
            with poutine.scale(scale=scales[0]):
                text = pyro.sample("text", self.prior.text(), obs=text)
            with poutine.scale(scale=scales[1]):
                return pyro.sample("x", self.prior(text=text, **context), obs=x)
