"""The deep Markov model's guide: the rest of the sequence, read backwards, combined with the latent before."""

from __future__ import annotations

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.errors import below_one, positive
from pyro_vae.models.deep_markov import DeepMarkovModel, present_steps
from pyro_vae.networks import diagonal_normal


class DeepMarkovGuide(PyroModule):
    r"""q(z_t | z_{t-1}, x_t … x_T) = N(mu_t, sigma_t^2), with the factorization of the exact posterior.

    .. math:: h_t = \mathrm{GRU}(x_t, h_{t+1}), \qquad
        c_t = \tfrac12 (\tanh(W z_{t-1} + b) + h_t), \qquad (\mu_t, \sigma_t) = \mathrm{linear}(c_t)

    The network reads a sequence from its own last step: what is beyond that is not looked at.

    Args:
        model: the generative model, whose sizes are taken.
        hidden_dim: of h_t and c_t.
        min_scale: lower bound of sigma.

    Raises:
        InputError: for a hidden_dim that is not positive.

    Source: Krishnan et al. 2017, arXiv:1609.09869, section 4 (DKS, its half that reads backwards).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.DeepMarkovModel((6, 3), latent_dim=2, hidden_dims=(8,), transition_dim=8)
        >>> guide = pyro_vae.guides.DeepMarkovGuide(model, hidden_dim=8)
        >>> batch = {"x": torch.zeros(4, 6, 3), "lengths": torch.tensor([6, 2, 5, 1])}
        >>> pyro_vae.encode(model, guide, batch)["z6"].shape
        torch.Size([4, 2])
    """

    def __init__(self, model: DeepMarkovModel, hidden_dim: int = 50, min_scale: float = 1e-4) -> None:
        super().__init__()
        self.context, self.steps = model.context, model.data_shape[0]
        self.min_scale = below_one("min_scale", min_scale)
        self.rnn = nn.GRU(model.data_shape[1], positive("hidden_dim", hidden_dim), batch_first=True)
        self.combine = nn.Linear(model.latent_dim, hidden_dim)
        self.out = nn.Linear(hidden_dim, 2 * model.latent_dim)
        self.before = nn.Parameter(torch.zeros(model.latent_dim))  # z_0

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> None:
        """Run q on data ``x`` (batch, T, dim), of which the first ``lengths`` (batch,) steps count."""
        rest = self.backwards(x, lengths)  # (batch, T, hidden_dim)
        with pyro.plate("data", x.shape[0], dim=-1):
            z = self.before  # (latent_dim,)
            for t in pyro.markov(range(x.shape[1])):
                combined = 0.5 * (self.combine(z).tanh() + rest[:, t])  # (..., batch, hidden_dim)
                z = pyro.sample(f"z{t + 1}", diagonal_normal(self.out(combined), self.min_scale).to_event(1))

    def backwards(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """h_t of every step, ``(batch, T, hidden_dim)``; zero beyond the end."""
        present = present_steps(x, lengths, self.steps)  # (batch, T)
        last = present.sum(1, keepdim=True) - 1
        mirrored = (last - torch.arange(x.shape[1], device=x.device)).clamp(min=0)[..., None]  # the last step first
        present = present[..., None]
        h, _ = self.rnn(torch.where(present, x, 0.0).gather(1, mirrored.expand_as(x)))
        return torch.where(present, h.gather(1, mirrored.expand_as(h)), 0.0)
