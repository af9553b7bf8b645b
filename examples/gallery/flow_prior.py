"""A VAE whose prior is a normalizing flow: z = flow(e), e ~ N(0, I), x | z ~ N(W z + b, s^2).

The flow's density is exact, by its inverse and Jacobian; z has a bound.
"""

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from torch import nn
from torch.nn.functional import softplus

import pyro_vae

EPOCHS, LEARNING_RATE = 60, 3e-3


def data(num_data=1000, seed=0):  # two moons in a plane, seen in four dimensions
    generator = torch.Generator().manual_seed(seed)
    angle, side = torch.rand(2, num_data, generator=generator)
    sign = 1 - 2 * (side < 0.5).float()
    moon = torch.stack([(torch.pi * angle).cos() + sign / 2, sign * (torch.pi * angle).sin() - sign / 4], -1)
    axes = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, -1.0]])
    return 1.5 * moon @ axes + 0.3 * torch.randn(num_data, 4, generator=generator)


def pair():
    decoder = nn.Linear(2, 4)
    encoder = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 4))
    spline, coupling, last = T.spline_coupling(2, hidden_dims=[32]), T.affine_coupling(2), T.spline_coupling(2)
    flow = [spline, T.permute(2, torch.tensor([1, 0])), coupling, last]

    def model(x=None, num_samples=1):
        sd = pyro.param("sd", torch.tensor(0.5), constraint=dist.constraints.positive)
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.TransformedDistribution(base, flow))
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
