"""Classes of one's own for ``pyro-vae train examples/my.yaml --trust --out runs/mine``."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn


class MixturePriorVAE(PyroModule):
    """z ~ mixture of Gaussians with learned centres;  x | z ~ Bernoulli(decoder(z))."""

    def __init__(self, data_shape: tuple[int, ...], latent_dim: int = 10, num_components: int = 10):
        super().__init__()
        self.data_shape = tuple(data_shape)
        size = torch.Size(self.data_shape).numel()
        self.centres = nn.Parameter(torch.randn(num_components, latent_dim))
        self.decoder = nn.Sequential(nn.Linear(latent_dim, 200), nn.ReLU(), nn.Linear(200, size))

    def forward(self, x=None, *, num_samples: int = 1):
        components = dist.Normal(self.centres, torch.ones_like(self.centres)).to_event(1)
        prior = dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(len(self.centres))), components)
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", prior)
            logits = self.decoder(z).unflatten(-1, self.data_shape)
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(len(self.data_shape)), obs=x)
