"""VampPrior (Tomczak & Welling 2018): p(z) = 1/K sum_k q(z | u_k), the guide's posteriors at pseudo-inputs u_k.

The mixture is a density, exactly; encoder and pseudo-inputs are trained in model and guide alike. z has a bound.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

import pyro_vae

EPOCHS, LEARNING_RATE = 60, 5e-3


def data(num_data=1000, seed=0):  # 16 pixels in a row, a bright stretch of which starts somewhere
    generator = torch.Generator().manual_seed(seed)
    start, length = torch.randint(12, (num_data, 1), generator=generator), 4
    place = torch.arange(16)
    on = (place >= start) & (place < start + length)
    return torch.bernoulli(0.05 + 0.9 * on.float(), generator=generator)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4))

    def forward(self, x):  # q(z | x)
        loc, raw = self.net(x).chunk(2, -1)
        return dist.Normal(loc, softplus(raw) + 1e-3).to_event(1)


def pair():
    encoder, decoder = Encoder(), nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 16))

    def model(x=None, num_samples=1):
        pseudo = pyro.param("pseudo", lambda: torch.rand(12, 16), constraint=dist.constraints.unit_interval)
        prior = dist.MixtureSameFamily(dist.Categorical(torch.ones(len(pseudo))), encoder(pseudo))
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", prior)
            return pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", encoder(x))

    return model, guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))
