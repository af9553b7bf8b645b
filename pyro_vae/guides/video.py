"""The guide of videos in the space of codes."""

from __future__ import annotations

import pyro
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.guides.vq import sample_quantized
from pyro_vae.models.video import VideoVQVAE


class VideoVQGuide(PyroModule):
    r"""q(codes | x): a point mass at the codes nearest to encoder(x_t), of all frames t in one batch.

    .. math:: codes_{t,i} = \arg\min_j \|z_e(x_t)_i - e_j\|, \qquad \partial z / \partial z_e = I

    In training there is the penalty of :class:`~pyro_vae.guides.VQGuide`, summed over the frames. The encoder is the
    model's own, which sees the frames before by it.

    Args:
        model: whose encoder and quantizer it uses.

    Source: van den Oord et al. 2017, arXiv:1711.00937, section 4.4.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VideoVQVAE((4, 3, 16, 16), (2, 3, 16, 16), 5, num_codes=32, code_dim=4, channels=8)
        >>> guide = pyro_vae.guides.VideoVQGuide(model)
        >>> given = {"frames": torch.rand(6, 2, 3, 16, 16), "actions": torch.randint(5, (6, 4))}
        >>> pyro_vae.encode(model, guide, {"x": torch.rand(6, 4, 3, 16, 16).round(), **given})["codes"].shape
        torch.Size([6, 4, 4, 4])
    """

    def __init__(self, model: VideoVQVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> None:
        """Sample the codes of data ``x`` (batch, T, channels, height, width)."""
        quantized = self.model.quantizer(self.model.vectors(x))  # of (batch, T, code_dim, *grid)
        with pyro.plate("data", x.shape[0], dim=-1):
            sample_quantized("", quantized._replace(penalty=quantized.penalty.sum(-1)), 3)
