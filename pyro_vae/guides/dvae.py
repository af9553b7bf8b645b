"""The discrete variational autoencoder's guide."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.distributions import RelaxedCodes
from pyro_vae.models.dvae import DVAE, positive_temperature
from pyro_vae.networks.pyramid import PyramidEncoder


class DVAEGuide(PyroModule):
    r"""q(codes | x): independent categoricals with logits from an encoder; in training mode relaxed.

    .. math:: q(codes | x) = \prod_i \mathrm{Cat}(codes_i \mid \mathrm{softmax}(encoder(x)_i)), \quad
              \text{in training } y_i \sim \mathrm{Concrete}(encoder(x)_i, \tau)

    The site reports its perplexity, exp(entropy of q averaged over the batch and the grid): how many codes are in use.

    Args:
        model: whose codes it infers.
        channels: of the encoder's finest group; the model's decoder's if not given.
        temperature: tau at first; the buffer ``temperature``, to be scheduled with
            ``fit(schedules={"guide.temperature": ...})``.
        straight_through: in training the decoder sees one-hot codes, with the gradient of the relaxed ones.

    Raises:
        InputError: for channels or a temperature that are not positive.

    Source: Ramesh et al. 2021, arXiv:2102.12092; Jang et al. 2017, arXiv:1611.01144 (straight-through).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.DVAE((3, 16, 16), num_codes=32, code_dim=4, halvings=2, channels=8)
        >>> guide = pyro_vae.guides.DVAEGuide(model)
        >>> pyro_vae.reconstruct(model, guide, torch.ones(5, 3, 16, 16)).shape
        torch.Size([5, 3, 16, 16])
    """

    temperature: Tensor

    def __init__(
        self, model: DVAE, channels: int | None = None, temperature: float = 1.0, straight_through: bool = False
    ) -> None:
        super().__init__()
        own, num_blocks = model.widths
        self.rank, self.straight_through = len(model.grid), straight_through
        own = own if channels is None else channels
        self.encoder = PyramidEncoder(model.data_shape, model.num_codes, own, model.halvings, num_blocks)
        self.register_buffer("temperature", positive_temperature(temperature))

    def forward(self, x: Tensor) -> None:
        """Sample the codes of data ``x``, ``(batch, *data_shape)``."""
        logits = self.encoder(x)  # (batch, K, *grid)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # also under mixed precision
        report = {"report": {"perplexity": _perplexity(logits)}}
        with pyro.plate("data", x.shape[0], dim=-1):
            if self.training:
                q = RelaxedCodes(logits, self.temperature, self.rank, self.straight_through)
            else:
                q = dist.Categorical(logits=logits.movedim(1, -1)).to_event(self.rank)  # of (batch, *grid, K)
            pyro.sample("codes", q, infer=report)


@torch.no_grad()
def _perplexity(logits: Tensor) -> Tensor:
    """exp(H(mean of the probabilities over batch and grid)) of logits ``(batch, K, *grid)``."""
    mean = logits.float().softmax(1).flatten(2).mean((0, 2))  # (K,)
    return torch.special.entr(mean).sum().exp()
