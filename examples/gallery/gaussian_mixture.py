"""A VAE whose prior is a mixture: c ~ Categorical(pi), z | c ~ N(m_c, s_c^2), x | z ~ N(decoder(z), s^2).

c is summed over exactly, log sum_c p(c) p(z | c); z has a bound. `posterior_probabilities` gives p(c | x).
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

import pyro_vae

EPOCHS, LEARNING_RATE = 40, 1e-2


def data(num_data=1000, seed=0):  # four clusters in a plane, bent into five dimensions
    generator = torch.Generator().manual_seed(seed)
    c = torch.randint(4, (num_data,), generator=generator)
    centres = torch.tensor([[2.0, 2.0], [-2.0, 2.0], [-2.0, -2.0], [2.0, -2.0]])
    z = centres[c] + 0.4 * torch.randn(num_data, 2, generator=generator)
    bent = torch.cat([z, z.sin(), z.prod(-1, keepdim=True) / 2], -1)
    return bent + 0.2 * torch.randn(num_data, 5, generator=generator)


def pair():
    decoder = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 5))
    encoder = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 4))

    def model(x=None, num_samples=1):
        pi = pyro.param("pi", torch.ones(4) / 4, constraint=dist.constraints.simplex)
        means = pyro.param("means", lambda: 1.5 * torch.randn(4, 2))
        scales = pyro.param("scales", torch.ones(4, 2), constraint=dist.constraints.positive)
        sd = pyro.param("sd", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", num_samples if x is None else len(x)):
            c = pyro.sample("c", dist.Categorical(pi))
            z = pyro.sample("z", dist.Normal(means[c], scales[c]).to_event(1))
            return pyro.sample("x", dist.Normal(decoder(z), sd).to_event(1), obs=x)

    def guide(x):
        loc, raw = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 1e-3).to_event(1))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))
