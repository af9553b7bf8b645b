"""A model of one's own, as two plain Pyro functions: trained, measured and drawn like the package's models."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae
from pyro_vae import plots
from pyro_vae.evaluation import log_likelihood

encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 20))
decoder = nn.Sequential(nn.Linear(10, 200), nn.ReLU(), nn.Linear(200, 784))


def model(x=None, num_samples=1):  # p(x, z): heavy-tailed latents, x | z ~ Bernoulli
    pyro.module("decoder", decoder)
    spread = pyro.param("spread", torch.ones(10), constraint=dist.constraints.positive)
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.StudentT(5.0, torch.zeros(10), spread).to_event(1))
        logits = decoder(z).unflatten(-1, (1, 28, 28))
        return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)


def guide(x):  # q(z | x)
    pyro.module("encoder", encoder)
    loc, raw = encoder(x).chunk(2, dim=-1)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw) + 1e-4).to_event(1))


if __name__ == "__main__":
    data = pyro_vae.load_data("mnist5k", binarization="dynamic")
    result = pyro_vae.fit(model, guide, data, epochs=30, patience=10)
    print(log_likelihood(result.model, result.guide, data, num_particles=1000).to_dict())
    print(*plots.draw_all(result.model, result.guide, data, result.records, "runs/custom"), sep="\n")
