"""Image and label in one joint model: z ~ N(0, I), x | z ~ Bernoulli, y | z ~ Categorical, q(z | x, y) Gaussian.

Both sites are data: log p(x, y) is bounded by importance weights over z, and the nats of each site are told apart.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import one_hot, softplus

import pyro_vae

EPOCHS, LEARNING_RATE = 60, 1e-2


def data(num_data=1000, seed=0):
    """Bars on 6x6 pixels, y = 0 horizontal or 1 vertical, of which each pixel is flipped with probability 0.05."""
    draws = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (num_data,), generator=draws)
    bars = one_hot(torch.randint(6, (num_data,), generator=draws), 6).bool()[:, None].expand(-1, 6, -1)
    x = torch.where((y == 1)[:, None, None], bars, bars.mT)
    flipped = torch.rand(x.shape, generator=draws) < 0.05
    return {"x": (x ^ flipped).float()[:, None], "y": y}


def pair():
    encoder = nn.Sequential(nn.Linear(36 + 2, 64), nn.ReLU(), nn.Linear(64, 4))
    image = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 36))
    label = nn.Linear(2, 2)

    def model(x=None, y=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = image(z).unflatten(-1, (1, 6, 6))
            x = pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)
            y = pyro.sample("y", dist.Categorical(logits=label(z)), obs=y)
        return x, y

    def guide(x, y):
        loc, raw = encoder(torch.cat([x.flatten(1), one_hot(y, 2)], -1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 1e-4).to_event(1))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))
