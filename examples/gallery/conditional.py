"""Regression with two answers: z ~ N(0, 1), y | z, t ~ N(f(z, t), s^2), q(z | y, t) Gaussian; t is context.

log p(y | t) is bounded by importance weights over z; t has no density.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

import pyro_vae

EPOCHS, LEARNING_RATE = 60, 1e-2


def data(num_data=1000, seed=0):
    """Inputs x in [-2, 2], and targets y = x or y = -x with equal chance, with noise."""
    draws = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(num_data, 1, generator=draws) - 2
    sign = 2.0 * torch.randint(2, (num_data, 1), generator=draws) - 1
    return {"x": x, "y": sign * x + 0.2 * torch.randn(num_data, 1, generator=draws)}


def pair():
    encoder = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 2))
    decoder = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 1))

    def model(x, y=None):
        noise = pyro.param("noise", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            loc = decoder(torch.cat([z, x.expand(*z.shape[:-1], 1)], -1))
            return pyro.sample("y", dist.Normal(loc, noise).to_event(1), obs=y)

    def guide(x, y):
        loc, raw = encoder(torch.cat([x, y], -1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 1e-4).to_event(1))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))
