"""A robust factor model: z ~ StudentT(3), x | z ~ StudentT(3) around W z, for data with outliers; q(z | x) StudentT.

log p(x) is bounded by importance weights over z; a heavy-tailed guide keeps them bounded where x is an outlier.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import softplus

import pyro_vae

EPOCHS, LEARNING_RATE = 40, 1e-2


def data(num_data=1000, seed=0):
    """Points along a line in five dimensions with noise; one number in twenty is an outlier, ten times as noisy."""
    draws = torch.Generator().manual_seed(seed)
    direction = torch.tensor([[1.0, -2.0, 0.5, 0.0, 1.5]])
    spread = torch.where(torch.rand(num_data, 5, generator=draws) < 0.05, 3.0, 0.3)
    return torch.randn(num_data, 1, generator=draws) @ direction + spread * torch.randn(num_data, 5, generator=draws)


def pair():
    encoder = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 2))
    decoder = nn.Linear(1, 5)

    def model(x=None, num_samples=1):
        noise = pyro.param("noise", torch.ones(5), constraint=constraints.positive)
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.StudentT(3.0, torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.StudentT(3.0, decoder(z), noise).to_event(1), obs=x)

    def guide(x):
        loc, raw = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(3.0, loc, softplus(raw) + 1e-4).to_event(1))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))
