"""Factor analysis of a table with missing entries: z ~ N(0, I), x | z ~ N(W z + m, diag(s^2)), some x_j not known.

A mask leaves the missing entries out: log p is of the known ones, exactly the marginal density. z has a bound.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

import pyro_vae

EPOCHS, LEARNING_RATE = 40, 1e-2


def data(num_data=1000, seed=0):  # six columns of two factors; a fifth of the entries is missing
    generator = torch.Generator().manual_seed(seed)
    loadings = torch.tensor([[1.5, 1.0, 0.5, 0.0, -0.5, 1.0], [0.0, 0.5, -1.0, 1.5, 1.0, 1.0]])
    x = torch.randn(num_data, 2, generator=generator) @ loadings + 1
    x = x + 0.4 * torch.randn(num_data, 6, generator=generator)
    known = torch.rand(num_data, 6, generator=generator) < 0.8
    return {"x": x * known, "known": known}


def pair():
    encoder = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 4))

    def model(x=None, known=None, num_samples=1):
        W = pyro.param("W", lambda: torch.randn(2, 6))
        m = pyro.param("m", torch.zeros(6))
        s = pyro.param("s", torch.ones(6), constraint=dist.constraints.positive)
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            there = True if known is None else known
            return pyro.sample("x", dist.Normal(z @ W + m, s).mask(there).to_event(1), obs=x)

    def guide(x, known):
        loc, raw = encoder(torch.cat([x, known.float()], -1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 1e-3).to_event(1))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))
