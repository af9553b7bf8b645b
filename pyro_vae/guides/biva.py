"""The bidirectional guide of BIVA: a stochastic path up, then the model's own path down."""

from __future__ import annotations

from typing import Any, Literal

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.errors import InputError, positive, unknown
from pyro_vae.guides.base import draw_top_down, gaussian
from pyro_vae.guides.ladder import residual
from pyro_vae.models.biva import BIVA
from pyro_vae.networks.features import FeatureGaussian, FeatureMap, Stage
from pyro_vae.networks.layers import activation as make_activation
from pyro_vae.networks.layers import check_event_shape


class BIVAGuide(PyroModule):
    r"""q(z | x) = prod_i q(z_i^BU | x, z_{<i}^BU)  q(z_L | x, z^BU)  prod_i q(z_i^TD | x, z^BU, z_{>i}^TD).

    Upward, u_i = f_i(u_{i-1} + g(z_{i-1}^BU)) gives q(z_i^BU | .) and, at the top, q(z_L | .). Downward the model's
    own deterministic path is run with these latents; its state h_i merged with u_i gives q(z_i^TD | .). Its top-down
    weights are so shared by model and guide.

    Args:
        model: the generative program.
        num_blocks: residual blocks of each f_i.
        activation: nonlinearity, by name.
        dropout: rate inside the blocks.
        parameterization: of q(z_i^TD | .): ``"absolute"``, N(mu, sigma^2), or NVAE's ``"residual"``,
            N(mu_p + mu, (sigma_p sigma)^2) relative to the model's conditional.

    Raises:
        InputError: for a model that is no BIVA, an unknown activation or parameterization.

    Source: Maaløe et al. 2019, arXiv:1902.02102; Vahdat & Kautz 2020, arXiv:2007.03898 (residual).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.BIVA((1, 8, 8), latent_dims=(4, 2), widths=(8, 8), strides=(2, 1), num_blocks=1)
        >>> guide = pyro_vae.guides.BIVAGuide(model, num_blocks=1)
        >>> {name: tuple(z.shape) for name, z in pyro_vae.encode(model, guide, torch.ones(5, 1, 8, 8)).items()}
        {'z1_bu': (5, 4), 'z2': (5, 2), 'z1_td': (5, 4)}
    """

    def __init__(
        self,
        model: nn.Module,
        num_blocks: int = 3,
        activation: str = "elu",
        dropout: float = 0.0,
        parameterization: Literal["absolute", "residual"] = "absolute",
    ) -> None:
        super().__init__()
        if not isinstance(model, BIVA):
            raise InputError(f"BIVAGuide is for models.BIVA, got {type(model).__name__}; LadderGuide fits others")
        if parameterization not in ("absolute", "residual"):
            raise unknown("parameterization", parameterization, ("absolute", "residual"))
        positive("num_blocks", num_blocks)
        act, shapes, sizes = make_activation(activation), model.shapes, model.latent_dims
        self.model, self.parameterization, self.num_stages = model, parameterization, len(sizes)
        below_top = range(len(sizes) - 1)
        self.upward = nn.ModuleList(
            Stage(below, shape, None, act, num_blocks, dropout=dropout)
            for below, shape in zip([model.data_shape, *shapes[:-1]], shapes, strict=True)
        )
        self.heads_bu = nn.ModuleList(FeatureGaussian(shape, d, act) for shape, d in zip(shapes, sizes, strict=True))
        self.inject = nn.ModuleList(FeatureMap((sizes[i],), shapes[i]) for i in below_top)
        self.merge = nn.ModuleList(Stage(shapes[i], shapes[i], shapes[i], act, 1, (3, 3), dropout) for i in below_top)
        self.heads_td = nn.ModuleList(FeatureGaussian(shapes[i], sizes[i], act) for i in below_top)

    def forward(self, x: Tensor) -> None:
        """Sample z1_bu, …, zL, …, z1_td given data ``x``, ``(batch, *data_shape)``."""
        check_event_shape(x, self.model.data_shape, "guide")
        top, features, drawn, h = self.num_stages, {}, {}, x
        with pyro.plate("data", x.shape[0], dim=-1):
            for i in range(1, top):
                u = self.upward[i - 1](h)  # (..., batch, *shapes[i-1])
                z = pyro.sample(f"z{i}_bu", self.heads_bu[i - 1](u).to_event(1))  # (..., batch, latent_dims[i-1])
                features[f"z{i}_td"], drawn[f"z{i}_bu"] = u, z
                h = u + self.inject[i - 1](z)
            q_top = self.heads_bu[top - 1](self.upward[top - 1](h))

        def posterior(name: str, p: Any, infer: dict[str, Any]) -> dist.Normal:
            if name == f"z{top}":
                return q_top
            i = int(name[1:].removesuffix("_td"))
            q = self.heads_td[i - 1](self.merge[i - 1](infer["features"], features[name]))
            return residual(q, gaussian(name, p)) if self.parameterization == "residual" else q

        latents = [*drawn, f"z{top}", *features]
        draw_top_down(self.model, posterior, latents, {"x": x}, drawn)
