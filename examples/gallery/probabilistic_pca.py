"""Probabilistic PCA: z ~ N(0, I), x | z ~ N(W z + b, s^2), and a guide that can be the exact posterior.

The posterior is a Gaussian with one full covariance for all data, as is q(z | x): the ELBO itself comes to log p(x).
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints

import pyro_vae

EPOCHS, LEARNING_RATE = 100, 1e-2


def data(num_data=1000, seed=0):
    """Points in five dimensions near a plane."""
    draws = torch.Generator().manual_seed(seed)
    plane = torch.tensor([[1.0, 0.5, 0.0, -1.0, 0.5], [0.0, 1.0, 1.0, 0.5, -0.5]])
    z, noise = torch.randn(num_data, 2, generator=draws), torch.randn(num_data, 5, generator=draws)
    return 1.0 + z @ plane + 0.5 * noise


def pair():
    encoder, decoder = nn.Linear(5, 2), nn.Linear(2, 5)

    def model(x=None, num_samples=1):
        noise = pyro.param("noise", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
            return pyro.sample("x", dist.Normal(decoder(z), noise).to_event(1), obs=x)

    def guide(x):
        scale_tril = pyro.param("scale_tril", torch.eye(2), constraint=constraints.lower_cholesky)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(encoder(x), scale_tril=scale_tril))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))
