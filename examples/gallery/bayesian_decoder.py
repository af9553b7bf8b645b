"""A linear decoder whose weights have a prior: w ~ N(0, 1) once for all data, z ~ N(0, 1), x | z, w ~ N(z w, s^2).

q(w) is a Gaussian of its own, q(z | x) an encoder's. `elbo` bounds log p of all data together, with KL(q(w) || p(w));
`log_likelihood` averages bounds on log p(x | w) over draws of q(w).
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn
from torch.nn.functional import softplus

import pyro_vae

EPOCHS, LEARNING_RATE = 40, 1e-2


def data(num_data=1000, seed=0):
    """Points along a line in five dimensions, with noise."""
    draws = torch.Generator().manual_seed(seed)
    direction = torch.tensor([[1.0, -2.0, 0.5, 0.0, 1.5]])
    return torch.randn(num_data, 1, generator=draws) @ direction + 0.5 * torch.randn(num_data, 5, generator=draws)


class Model(PyroModule):
    def __init__(self):
        super().__init__()
        self.noise = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)
        self.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 5]).to_event(2))

    def forward(self, x=None, num_samples=1):
        weight = self.weight  # drawn here, outside the plate: one for all data
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z @ weight, self.noise).to_event(1), obs=x)


def pair():
    encoder = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 2))

    def guide(x):
        loc = pyro.param("weight_loc", 0.1 * torch.randn(1, 5))
        scale = pyro.param("weight_scale", torch.full((1, 5), 0.1), constraint=dist.constraints.positive)
        pyro.sample("weight", dist.Normal(loc, scale).to_event(2))
        loc, raw = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 1e-4).to_event(1))

    return Model(), guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))
