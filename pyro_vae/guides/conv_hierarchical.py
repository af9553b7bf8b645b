"""The ladder guide of a convolutional hierarchy: features of x at every scale, merged into the model's own path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.errors import InputError, below_one, positive, unknown
from pyro_vae.guides.base import draw_top_down, gaussian
from pyro_vae.guides.ladder import MERGES, Merge
from pyro_vae.models.conv_hierarchical import ConvHierarchicalVAE
from pyro_vae.networks.layers import activation as make_activation
from pyro_vae.networks.layers import apply_batched, check_event_shape
from pyro_vae.networks.mlp import diagonal_normal
from pyro_vae.networks.stages import ScaleEncoder

MIN_RATIO = 0.01  # of the merged-in scale: relative to p's, q is no narrower than that


class ConvLadderGuide(PyroModule):
    r"""q(z | x) = q(z_L | x) prod_i q(z_i | z_{>i}, x), on features e_s(x) at every scale.

    The model's own top-down path is run; at z_i its state h, the features e of x at that scale and the
    model's conditional N(mu_p, sigma_p^2) give q(z_i | .), in NVAE's residual form

    .. math:: q(z_i | z_{>i}, x) = N(\mu_p + \Delta\mu_i(h, e), (\sigma_p \Delta\sigma_i(h, e))^2)

    or by precision (:class:`~pyro_vae.guides.LadderGuide`). Its top-down weights are shared by model and guide.

    Args:
        model: the generative program, a :class:`~pyro_vae.models.ConvHierarchicalVAE`.
        channels: of the features of x at every scale, finest first; as many as the model's if not given. They are
            computed once for a datum, however many particles there are.
        num_blocks: residual blocks of the features of each scale.
        activation: nonlinearity, by name.
        batch_norm: normalize inside the blocks, each channel over data, particles and pixels.
        dropout: rate inside the blocks, in training.
        merge: ``"residual"`` or ``"precision"``.

    Raises:
        InputError: for another model, channels that are not one positive number for each scale, a dropout that is no
            probability below 1, an unknown activation or merge.

    Source: Vahdat & Kautz 2020, arXiv:2007.03898.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.ConvHierarchicalVAE((1, 8, 8), 3, channels=(8, 8), num_latents=(1, 1))
        >>> guide = pyro_vae.guides.ConvLadderGuide(model)
        >>> {name: tuple(z.shape) for name, z in pyro_vae.encode(model, guide, torch.ones(5, 1, 8, 8)).items()}
        {'z3': (5, 3), 'z2': (5, 4, 2, 2), 'z1': (5, 1, 4, 4)}
    """

    def __init__(
        self,
        model: nn.Module,
        channels: Sequence[int] | None = None,
        num_blocks: int = 1,
        activation: str = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
        merge: Merge = "residual",
    ) -> None:
        super().__init__()
        if not isinstance(model, ConvHierarchicalVAE):
            raise InputError(
                f"ConvLadderGuide is for models.ConvHierarchicalVAE, got {type(model).__name__}; LadderGuide fits "
                "others"
            )
        if merge not in MERGES:
            raise unknown("merge", merge, MERGES)
        positive("num_blocks", num_blocks)
        below_one("dropout", dropout)
        widths = tuple(channels) if channels is not None else tuple(width for width, *_ in model.scales)
        if len(widths) != len(model.scales) or min(widths) < 1:
            raise InputError(
                f"channels: one positive number for each of {len(model.scales)} scales, got {list(widths)}"
            )
        self.model, self.merge = model, MERGES[merge]
        scales = [(width, *shape[1:]) for width, shape in zip(widths, model.scales, strict=True)]
        self.upward = ScaleEncoder(model.data_shape, scales, num_blocks, activation, batch_norm, dropout)
        self.top = nn.Sequential(
            make_activation(activation), nn.Flatten(), nn.Linear(math.prod(scales[-1]), 2 * model.latent_dim)
        )
        self.sides = nn.ModuleList(nn.Conv2d(widths[s], model.scales[s][0], 1) for s in model.scale_of)
        self.heads = nn.ModuleList(
            nn.Sequential(
                make_activation(activation),
                nn.Conv2d(model.scales[s][0], 2 * stage.latent_channels, 3, padding=1),
            )
            for s, stage in zip(model.scale_of, model.stages, strict=True)
        )

    def forward(self, x: Tensor) -> None:
        """Sample z_L, …, z_1 given data ``x``, ``(batch, *data_shape)``."""
        check_event_shape(x, self.model.data_shape, "guide")
        scales, top = self.upward(x), len(self.model.stages) + 1  # each (batch, *scales[s])
        q_top = diagonal_normal(apply_batched(self.top, scales[-1], 3))  # (batch, latent_dim)
        sides = [apply_batched(side, scales[s], 3) for side, s in zip(self.sides, self.model.scale_of, strict=True)]

        def posterior(name: str, p: Any, infer: dict[str, Any]) -> dist.Normal:
            if name == f"z{top}":
                return q_top
            i = int(name[1:]) - 1
            merged = apply_batched(self.heads[i], infer["features"] + sides[i], 3)
            return self.merge(diagonal_normal(merged, MIN_RATIO, dim=-3), gaussian(name, p))

        draw_top_down(self.model, posterior, [f"z{i}" for i in range(top, 0, -1)], {"x": x})
