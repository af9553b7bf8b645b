"""A guide that is a conditional normalizing flow: z ~ N(0, I) in the plane, x | z ~ N(f(z), s^2), f a network.

Of one number x the posterior of two latents is a curved ridge, which no Gaussian guide follows. z has a bound.
"""

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from torch import nn

import pyro_vae

EPOCHS, LEARNING_RATE = 60, 1e-2


def data(num_data=1000, seed=0):  # a sum of a normal and a square
    generator = torch.Generator().manual_seed(seed)
    a, b, noise = torch.randn(3, num_data, 1, generator=generator)
    return a + b**2 + 0.3 * noise


def pair():
    f = nn.Linear(3, 1)
    context = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 8))
    flow = []
    for _ in range(3):
        flow += [T.conditional_affine_autoregressive(2, context_dim=8, hidden_dims=[32])]
        flow += [T.permute(2, torch.tensor([1, 0]))]

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = f(torch.cat([z, z[..., :1] ** 2], -1))  # (..., batch, 1)
            return pyro.sample("x", dist.Normal(mean, 0.3).to_event(1), obs=x)

    def guide(x):
        base = dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.ConditionalTransformedDistribution(base, flow).condition(context(x)))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))
