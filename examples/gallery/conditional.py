"""A conditional model: answers x to questions c, z ~ N(0, 1), x | z, c ~ N(f(z, c), s^2), q(z | x, c) Gaussian.

log p(x | c) is bounded by importance weights over z; c has no density. An answer is c or -c: regression would say 0.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

import pyro_vae

EPOCHS, LEARNING_RATE = 60, 1e-2


def data(num_data=1000, seed=0):
    """Questions c in [-2, 2], and answers x = c or x = -c with equal chance, with noise."""
    draws = torch.Generator().manual_seed(seed)
    c = 4 * torch.rand(num_data, 1, generator=draws) - 2
    sign = 2.0 * torch.randint(2, (num_data, 1), generator=draws) - 1
    return {"x": sign * c + 0.2 * torch.randn(num_data, 1, generator=draws), "c": c}


def pair():
    encoder = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 2))
    decoder = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 1))

    def model(c, x=None):
        noise = pyro.param("noise", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(c)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            loc = decoder(torch.cat([z, c], -1))
            return pyro.sample("x", dist.Normal(loc, noise).to_event(1), obs=x)

    def guide(x, c):
        loc, raw = encoder(torch.cat([x, c], -1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 1e-4).to_event(1))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))
