"""Pairs with discrete latents that are summed over, under the shared contract."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from contract import PairContract
from test_contract_conditional import SHAPE, labelled
from torch import nn

from pyro_vae.guides import GaussianGuide, SemiSupervisedGuide, StackedSemiSupervisedGuide
from pyro_vae.models import GaussianMixtureVAE, SemiSupervisedVAE, StackedSemiSupervisedVAE


class TestGaussianMixture(PairContract):
    def make_pair(self):
        model = GaussianMixtureVAE(SHAPE, num_components=3, latent_dim=2, hidden_dims=(16,))
        return model, GaussianGuide(model, hidden_dims=(16,)), {"x": labelled()["x"]}


class TestSemiSupervised(PairContract):
    start = "prior"

    def make_pair(self):
        model = SemiSupervisedVAE(SHAPE, num_classes=3, latent_dim=2, hidden_dims=(16,))
        batch = labelled()
        batch["y"] = torch.where(torch.arange(16) % 2 == 0, batch["y"], -1)
        return model, SemiSupervisedGuide(model, hidden_dims=(16,)), batch


class UserMixture(nn.Module):
    """What a user might write: experts in an inner plate, and a guide that enumerates one of two discrete latents."""

    def __init__(self) -> None:
        super().__init__()
        self.rates, self.encoder = nn.Parameter(torch.randn(2, 3, 7)), nn.Linear(7, 2)

    def model(self, x=None, *, num_samples=1):
        pyro.module("mixture", self)
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            kind = pyro.sample("kind", dist.Bernoulli(torch.tensor(0.4)))
            with pyro.plate("parts", 7, dim=-2):
                expert = pyro.sample("expert", dist.Categorical(torch.ones(3) / 3))
                part = torch.arange(7)[:, None]
                loc = self.rates[kind.long(), expert, part]
                obs = None if x is None else x.T
                return pyro.sample("x", dist.Normal(loc, 0.5), obs=obs).movedim(-2, -1)

    def guide(self, x):
        pyro.module("mixture", self)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("kind", dist.Bernoulli(logits=self.encoder(x)[:, 0]), infer={"enumerate": "parallel"})


class TestUserMixture(PairContract):
    has_randomness = False
    has_continuous_latents = False
    start = "prior"
    nesting = 2

    def make_pair(self):
        pair = UserMixture()
        return pair.model, pair.guide, {"x": torch.randn(16, 1) + torch.randn(16, 7) * 0.3}


@pytest.mark.slow  # the default run has others of the family
class TestStackedSemiSupervised(PairContract):
    start = "prior"

    def make_pair(self):
        model = StackedSemiSupervisedVAE(SHAPE, 3, 3, 2, hidden_dims=(16,), latent_hidden_dims=(8,))
        batch = labelled()
        batch["y"] = torch.where(torch.arange(16) % 2 == 0, batch["y"], -1)
        return model, StackedSemiSupervisedGuide(model, hidden_dims=(16,), latent_hidden_dims=(8,)), batch
