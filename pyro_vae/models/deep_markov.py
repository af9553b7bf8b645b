"""The deep Markov model: sequences whose latents are a Markov chain."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods import Gaussian, Likelihood
from pyro_vae.models.base import GenerativeModel
from pyro_vae.networks import MLP
from pyro_vae.programs.context import Context


class DeepMarkovModel(GenerativeModel):
    r"""z_1 ~ N(mu_1, sigma_1^2);  z_t | z_{t-1} ~ N(G(z_{t-1}), S(z_{t-1})^2);  x_t | z_t ~ likelihood(emitter(z_t)).

    Sites: ``z1`` … ``zT`` with event shape (latent_dim,), ``x`` with event shape (T, dim). What is beyond a sequence's
    length has no density, neither in x nor in the latents: it counts neither as nats nor as dimensions, whatever stands
    there. Without lengths all T steps count.

    Args:
        data_shape: (T, dim): the steps of the longest sequence, and the numbers of a step.
        latent_dim: dimensions of every z_t.
        likelihood: p(x_t | emitter features); Gaussian with a learned scale if not given.
        hidden_dims: widths of the emitter's layers.
        transition_dim: width of the gate's and of the proposal's hidden layer.
        activation: nonlinearity of the emitter, by name.
        min_scale: lower bound of sigma_1 and S.

    Raises:
        InputError: for a data_shape that is not (T, dim), sizes that are not positive, an unknown activation.

    Source: Krishnan et al. 2017, arXiv:1609.09869, equation 3 and appendix (gated transition).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.DeepMarkovModel((6, 3), latent_dim=2, hidden_dims=(8,), transition_dim=8)
        >>> guide = pyro_vae.guides.DeepMarkovGuide(model, hidden_dim=8)
        >>> batch = {"x": torch.zeros(4, 6, 3), "lengths": torch.tensor([6, 2, 5, 1])}
        >>> pyro_vae.elbo(model, guide, batch).per_datum.shape
        torch.Size([4])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dim: int = 10,
        likelihood: Likelihood | None = None,
        hidden_dims: Sequence[int] = (50,),
        transition_dim: int = 50,
        activation: str = "relu",
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        if len(data_shape) != 2:
            raise InputError(f"data_shape must be (steps, numbers of a step), got {tuple(data_shape)}")
        self.data_shape = (positive("steps", data_shape[0]), positive("dim", data_shape[1]))
        self.latent_dim = positive("latent_dim", latent_dim)
        self.likelihood = likelihood if likelihood is not None else Gaussian("learned")
        steps, dim = self.data_shape
        support = constraints.integer_interval(1, steps)
        what = f"lengths of sequences from 1 to {steps}, all {steps} where they are not given"
        self.context = {"lengths": Context(what, (), torch.int64, support, optional=True)}
        self.first_loc = nn.Parameter(torch.zeros(latent_dim))
        self.first_scale = nn.Parameter(torch.full((latent_dim,), 0.5413))  # softplus gives 1
        self.transition = GatedTransition(latent_dim, transition_dim, min_scale)
        self.emitter = MLP(latent_dim, hidden_dims, self.likelihood.num_parameters * dim, activation)

    def forward(self, x: Tensor | None = None, lengths: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Run the program on data ``x`` (batch, T or more, dim), whose first ``lengths`` (batch,) steps count."""
        if x is None:
            size = num_samples if lengths is None else len(lengths)
            present = present_steps(self.first_loc.new_empty(size, *self.data_shape), lengths, self.data_shape[0])
        else:
            present = present_steps(x, lengths, self.data_shape[0])  # (batch, T)
        with self.data_plate(lengths if x is None else x, num_samples):
            latents: list[Tensor] = []
            for t in pyro.markov(range(present.shape[1])):
                with pyro.poutine.mask(mask=present[:, t]):
                    latents.append(pyro.sample(f"z{t + 1}", self.next_latent(latents[-1] if latents else None)))
            features = self.emitter(torch.stack(latents, -2))  # (..., batch, T, P * dim)
            of_steps = self.likelihood(features, 1).mask(present)  # a batch of steps, (..., batch, T), of events (dim,)
            return pyro.sample("x", of_steps.to_event(1), obs=x)

    def next_latent(self, z: Tensor | None) -> dist.Distribution:
        """p(z_t | z_{t-1}), event shape (latent_dim,); p(z_1), of None."""
        if z is None:
            return dist.Normal(self.first_loc, softplus(self.first_scale)).to_event(1)
        return self.transition(z).to_event(1)


def present_steps(x: Tensor, lengths: Tensor | None, steps: int) -> Tensor:
    """Which steps of sequences are there, bool ``(batch, T)``.

    Args:
        x: ``(batch, T, dim)``.
        lengths: of the sequences, int64 ``(batch,)``; all ``steps`` if None.
        steps: of the longest sequence.

    Raises:
        InputError: if x has fewer steps than that.
    """
    if x.shape[1] < steps:
        raise InputError(
            f"x has {x.shape[1]} steps, and the model's sequences have up to {steps}: pad x with zeros, and give "
            "lengths"
        )
    step = torch.arange(x.shape[1], device=x.device)
    return (step < (steps if lengths is None else lengths[:, None])).expand(len(x), -1)


class GatedTransition(nn.Module):
    """N(G(z), S(z)^2): a gate g between a linear step and a nonlinear one, G = (1 - g) * (W z + b) + g * h(z).

    Args:
        dim: of z.
        hidden_dim: width of the hidden layers of g and h.
        min_scale: lower bound of S.

    Source: Krishnan et al. 2017, arXiv:1609.09869, section "Gated transition function".
    """

    def __init__(self, dim: int, hidden_dim: int, min_scale: float = 1e-3) -> None:
        super().__init__()
        self.gate = MLP(dim, (hidden_dim,), dim, "relu")
        self.proposal = MLP(dim, (hidden_dim,), dim, "relu")
        self.linear, self.scale = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.min_scale = min_scale
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> dist.Normal:
        """The distribution of the next latent, batch shape ``(..., dim)``, of ``z`` (..., dim)."""
        gate, proposal = self.gate(z).sigmoid(), self.proposal(z)
        loc = (1 - gate) * self.linear(z) + gate * proposal
        return dist.Normal(loc, softplus(self.scale(proposal.relu())) + self.min_scale)
