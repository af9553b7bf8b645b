"""A contrastive model of images and texts, as CLIP's: which text belongs to which image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import normalize

from pyro_vae.networks import ConvEncoder
from pyro_vae.networks.text_encoder import TextEncoder
from pyro_vae.programs.context import Context

TEMPERATURE, LARGEST_SCALE = 0.07, 100.0


class ContrastiveModel(PyroModule):
    r"""text of image i ~ Categorical(softmax_j s_ij),  image of text j ~ Categorical(softmax_i s_ij).

    i, j are places in the batch, s_ij = e^t cos(f(image i), g(text j)), and both sites are observed at the pairs as
    they come: i belongs to i. Each has half its weight, so that the loss of ``fit`` (with ``EmptyGuide``) is CLIP's,

    .. math:: -\frac{1}{2N} \sum_i (\log p(text = i \,|\, image\ i) + \log p(image = i \,|\, text\ i)),

    nats per pair; ln N for guessing. It is no density of the data: it depends on what else is in the batch, and each of
    several data-parallel processes compares the pairs of its own part only. Others in the batch with the very same
    tokens as text i are right answers as well, and left out of the comparison with i.

    Sites: ``text_of_image`` and ``image_of_text``, both observed; no latents.

    Args:
        data_shape: of an image, (channels, height, width).
        vocabulary_size, text_length: of the tokenizer.
        dim: of the space that images and texts are mapped to.
        hidden_dims: channels of the image encoder's stages, each of which halves the image.
        width, num_layers, heads: of the text encoder, see :class:`~pyro_vae.networks.text_encoder.TextEncoder`.

    Raises:
        InputError: if the image is too small for the stages, or the heads cannot share the width.

    Source: Radford et al. 2021, arXiv:2103.00020 (temperature 0.07 at first, e^t at most 100).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.ContrastiveModel((3, 8, 8), vocabulary_size=10, text_length=4, dim=16)
        >>> images, text = torch.rand(5, 3, 8, 8), torch.randint(10, (5, 4))
        >>> model.embed_images(images).shape, model.score(images, text).shape
        (torch.Size([5, 16]), torch.Size([5]))
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        vocabulary_size: int,
        text_length: int,
        dim: int = 64,
        hidden_dims: Sequence[int] = (32, 64),
        width: int = 64,
        num_layers: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.image_encoder = ConvEncoder(data_shape, hidden_dims, dim)
        self.text_encoder = TextEncoder(vocabulary_size, text_length, width, num_layers, heads, dim)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(TEMPERATURE)))
        tokens = constraints.integer_interval(0, vocabulary_size - 1)
        what = f"{text_length} tokens below {vocabulary_size} (as the tokenizer that it was trained with makes them)"
        self.context = {"text": Context(what, (text_length,), torch.int64, tokens)}

    def forward(self, x: Tensor, *, text: Tensor) -> Tensor:
        """Run the program on images ``(batch, *data_shape)`` and texts ``(batch, T)``; returns s ``(batch, batch)``."""
        images, texts = self.embed_images(x), self.embed_texts(text)  # (batch, dim) each
        with torch.autocast(images.device.type, enabled=False):
            similarity = self.scale() * images @ texts.mT  # (batch, batch)
        own = torch.arange(len(x), device=x.device)
        repeated = (text[:, None] == text).all(-1) & (own[:, None] != own)  # (batch, batch)
        similarity = similarity.masked_fill(repeated, torch.finfo(similarity.dtype).min)
        with pyro.plate("data", len(x), dim=-1), poutine.scale(scale=0.5):
            pyro.sample("text_of_image", dist.Categorical(logits=similarity), obs=own)
            pyro.sample("image_of_text", dist.Categorical(logits=similarity.mT), obs=own)
        return similarity

    def scale(self) -> Tensor:
        """e^t, the inverse temperature."""
        return self.log_scale.clamp(max=math.log(LARGEST_SCALE)).exp()

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors ``(..., dim)`` of images ``(..., *data_shape)``."""
        return _unit(self.image_encoder(images))

    def embed_texts(self, text: Tensor) -> Tensor:
        """Unit vectors ``(..., dim)`` of texts ``(..., T)``."""
        return _unit(self.text_encoder(text))

    def score(self, images: Tensor, text: Tensor) -> Tensor:
        """How well images and texts match, e^t cos, ``(...)``; leading dimensions are broadcast.

        Args:
            images: ``(..., *data_shape)``, in [0, 1].
            text: int64 ``(..., T)``.
        """
        return self.scale() * (self.embed_images(images) * self.embed_texts(text)).sum(-1)


def _unit(features: Tensor) -> Tensor:
    """Features ``(..., dim)`` at length 1, in float32 at least (also under mixed precision)."""
    return normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
