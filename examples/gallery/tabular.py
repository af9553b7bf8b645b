"""A table whose columns are of four kinds, real, class, count and share, a site each: z ~ N(0, I), columns given z.

log p of a row is bounded by importance weights over z; the nats of each column are told apart.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import one_hot, softplus

import pyro_vae

EPOCHS, LEARNING_RATE = 30, 1e-2


def data(num_data=1000, seed=0):
    """Height, shop (0, 1, 2), visits (0, 1, ...) and share (in (0, 1)) of customers, who differ in one number."""
    draws = torch.Generator().manual_seed(seed)
    factor, noise, uniform = (f(num_data, generator=draws) for f in (torch.randn, torch.randn, torch.rand))
    return {
        "height": 1.7 + 0.1 * factor + 0.05 * noise,
        "shop": torch.bucketize(factor + 0.5 * noise, torch.tensor([-0.5, 0.5])),
        "visits": torch.poisson((1 + 0.5 * factor).exp(), generator=draws),
        "share": (2 * factor + (uniform / (1 - uniform)).log()).sigmoid().clamp(0.01, 0.99),
    }


def pair():
    encoder = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4))
    decoder = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 8))

    def model(height=None, shop=None, visits=None, share=None, num_samples=1):
        with pyro.plate("data", num_samples if height is None else len(height)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc, raw, rate, a, b, *logits = decoder(z).unbind(-1)
            pyro.sample("height", dist.Normal(1.7 + 0.1 * loc, 0.1 * softplus(raw) + 0.01), obs=height)
            pyro.sample("shop", dist.Categorical(logits=torch.stack(logits, -1)), obs=shop)
            pyro.sample("visits", dist.Poisson(rate.exp()), obs=visits)
            pyro.sample("share", dist.Beta(softplus(a) + 0.1, softplus(b) + 0.1), obs=share)

    def guide(height, shop, visits, share):
        columns = torch.stack([10 * (height - 1.7), visits.log1p(), share.logit()], -1)
        loc, raw = encoder(torch.cat([columns, one_hot(shop, 3)], -1)).chunk(2, -1)
        with pyro.plate("data", len(height)):
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 1e-4).to_event(1))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))
