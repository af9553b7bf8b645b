"""Counts with a library size, as of single cells (scVI): l ~ LogNormal, z ~ N(0, 1), x | l, z ~ NegativeBinomial
with mean l softmax(decoder(z)) and a dispersion r of each gene.

Both latents are drawn by the guide and have a bound; log p(x) is a probability.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae

EPOCHS, LEARNING_RATE = 40, 1e-2


def data(num_data=1000, seed=0):  # 8 genes; a cell's place on a line says which of them are on
    generator = torch.Generator().manual_seed(seed)
    place, size = torch.randn(2, num_data, 1, generator=generator)
    shares = (-((place - torch.linspace(-2, 2, 8)) ** 2)).softmax(-1)
    rate = (4 + 0.4 * size).exp() * shares
    noise = torch._standard_gamma(torch.full_like(rate, 5.0), generator=generator) / 5
    return torch.poisson(rate * noise, generator=generator)


def pair():
    decoder = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 8))
    encoder = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))

    def model(x=None, num_samples=1):
        r = pyro.param("r", torch.full((8,), 2.0), constraint=dist.constraints.positive)
        l_loc = pyro.param("l_loc", torch.tensor(3.0))
        with pyro.plate("cells", num_samples if x is None else len(x)):
            size = pyro.sample("l", dist.LogNormal(l_loc, 0.5))
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            logits = size.log()[..., None] + decoder(z).log_softmax(-1) - r.log()  # log of mean / r
            return pyro.sample("x", dist.NegativeBinomial(r, logits=logits).to_event(1), obs=x)

    def guide(x):
        features = encoder((x + 1).log())
        loc, scale = features[..., :2], features[..., 2:].exp()
        with pyro.plate("cells", len(x)):
            pyro.sample("l", dist.LogNormal(x.sum(-1).log() + loc[..., 0], scale[..., 0]))
            pyro.sample("z", dist.Normal(loc[..., 1:], scale[..., 1:]).to_event(1))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))
