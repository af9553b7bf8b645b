"""Small pairs for matching of the aggregated posterior, and how they are run with nothing left in Pyro's store."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae
from pyro_vae.programs.pair import examine
from pyro_vae.programs.parameters import module_parameters
from pyro_vae.programs.program import as_programs

QUIET = {"device": "cpu", "progress": False}


class Given(nn.Module):
    """z ~ N(m, S) whatever x is, S of a lower triangle; beside it one weight that is trained."""

    def __init__(self, loc, tril):
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("tril", tril)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.MultivariateNormal(self.loc, scale_tril=self.tril))


class Idle(nn.Module):
    """z ~ N(0, I); x of no consequence for z."""

    def __init__(self, size):
        super().__init__()
        self.size, self.level = size, nn.Parameter(torch.zeros(()))

    def forward(self, x=None, *, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(self.size), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.level, 1.0).expand([1]).to_event(1), obs=x)


def examined(model, guide, batch, **options):
    return examine(*as_programs(model, guide), batch, **options)


def traces_of(pair, batch, num_particles=1):
    with module_parameters(pair.model, pair.guide):
        return pair.traces(batch, num_particles)


def terms_of(objective, model, guide, x):
    """The terms of a batch, with nothing left in Pyro's store."""
    with module_parameters(model, guide):
        return objective.terms(model, guide, x=x)


def small(latent_dim=3):
    torch.manual_seed(0)
    model = pyro_vae.models.VAE((6,), latent_dim=latent_dim, hidden_dims=[8])
    return model, pyro_vae.guides.GaussianGuide(model, hidden_dims=[8])


def digits(n=40):
    return (torch.rand(n, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()
