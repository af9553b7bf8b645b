"""A latent on the circle: z ~ uniform, x | z ~ N(f(z), s^2), q(z | x) a projected normal around any direction.

log p(x) is bounded by importance weights over z; gradients are reparameterized. No annealing: the circle is no R^n.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae

EPOCHS, LEARNING_RATE = 100, 1e-2


def data(num_data=1000, seed=0):
    """Closed curves in five dimensions: harmonics of a phase, with noise."""
    draws = torch.Generator().manual_seed(seed)
    phase = 2 * math.pi * torch.rand(num_data, generator=draws)
    curve = [phase.cos(), phase.sin(), (2 * phase).cos(), (2 * phase).sin(), (3 * phase).cos()]
    return torch.stack(curve, -1) + 0.3 * torch.randn(num_data, 5, generator=draws)


def pair():
    encoder = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 2))
    decoder = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 5))

    def model(x=None, num_samples=1):
        noise = pyro.param("noise", torch.tensor(0.3), constraint=dist.constraints.positive)
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.ProjectedNormal(torch.zeros(2)))  # uniform on the circle
            return pyro.sample("x", dist.Normal(decoder(z), noise).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.ProjectedNormal(5 * encoder(x)))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))
