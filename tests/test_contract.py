"""The package's pairs, and three that users might write, under the shared contract."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from contract import PairContract
from pyro.nn import PyroModule, PyroParam
from torch import nn

from pyro_vae import likelihoods
from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, bidirectional
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE, FeatureVAE

SHAPE = (1, 6, 5)


def images(n=16, channels=1):
    """Grey images with structure: a bright half, left or right."""
    x = torch.rand(n, channels, *SHAPE[1:]) * 0.3
    x[: n // 2, ..., :3] += 0.6
    x[n // 2 :, ..., 3:] += 0.6
    return x


class TestMLP(PairContract):
    def make_pair(self):
        model = VAE(SHAPE, latent_dim=3, hidden_dims=(16,))
        return model, GaussianGuide(model, hidden_dims=(16,)), {"x": (images() > 0.5).float()}


class TestConv(PairContract):
    learning_rate = 0.02

    def make_pair(self):
        model = VAE(SHAPE, latent_dim=3, decoder="conv", hidden_dims=(8, 4), activation="relu")
        guide = GaussianGuide(model, "conv", hidden_dims=(4, 8), activation="relu")
        return model, guide, {"x": (images() > 0.5).float()}


class TestVectorData(PairContract):
    def make_pair(self):
        model = VAE((7,), latent_dim=2, hidden_dims=(), likelihood=likelihoods.Gaussian(0.5))
        return model, GaussianGuide(model, hidden_dims=()), {"x": torch.randn(16, 2) @ torch.randn(2, 7)}


class TestFeatures(PairContract):
    """Data sites that are features of x."""

    def make_pair(self):
        phi = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3, stride=2), torch.nn.Tanh())
        model = FeatureVAE(SHAPE, phi, latent_dim=3, decoder="mlp", hidden_dims=(16,), activation="tanh")
        return model, GaussianGuide(model, hidden_dims=(16,)), {"x": images()}

    def test_annealing_bounds_the_likelihood_from_both_sides(self):
        model, guide, batch = self.pair()
        options = {"num_temperatures": 12, "num_leapfrog": 2, "num_chains": 4}
        with pytest.raises(InputError, match="draws features of its data"):  # there is no x of these features
            bidirectional(model, guide, 5, **options)
        assert ais(model, guide, batch, **options).per_datum.isfinite().all()


class LikelihoodContract(PairContract):
    """The MLP pair with another likelihood, on colour images of 256 grey levels."""

    likelihood = None

    def make_pair(self):
        x = (images(channels=3) * 255).round() / 255
        model = VAE((3, *SHAPE[1:]), 3, type(self).likelihood(), hidden_dims=(16,), data_mean=x.mean(0))
        return model, GaussianGuide(model, hidden_dims=(16,)), {"x": x}


class TestGaussianFixed(LikelihoodContract):
    likelihood = staticmethod(lambda: likelihoods.Gaussian(0.3))


class TestGaussianLearned(LikelihoodContract):
    likelihood = staticmethod(lambda: likelihoods.Gaussian("learned"))


class TestGaussianPerPixel(LikelihoodContract):
    likelihood = staticmethod(lambda: likelihoods.Gaussian("per_pixel"))


class TestLaplace(LikelihoodContract):
    likelihood = staticmethod(lambda: likelihoods.Laplace("learned"))


class TestCategorical(LikelihoodContract):
    likelihood = staticmethod(lambda: likelihoods.Categorical(256))


class TestDiscretizedLogisticMixture(LikelihoodContract):
    likelihood = staticmethod(lambda: likelihoods.DiscretizedLogisticMixture(3))


class TestPlainFunctions(PairContract):
    """nn.Modules in a closure, and one pyro.param of the model (registered, so that plain SVI finds them too)."""

    def make_pair(self):
        encoder, decoder = nn.Linear(7, 4), nn.Linear(2, 7)

        def model(x=None, num_samples=1):
            pyro.module("decoder", decoder)
            noise = pyro.param("noise", torch.tensor(1.0), constraint=dist.constraints.positive)
            with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(decoder(z), noise).to_event(1), obs=x)

        def guide(x):
            pyro.module("encoder", encoder)
            loc, raw = encoder(x).chunk(2, -1)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1))

        return model, guide, {"x": torch.randn(16, 2) @ torch.randn(2, 7)}


class HierarchicalModel(PyroModule):
    """z2 -> z1 -> x."""

    def __init__(self):
        super().__init__()
        self.top = nn.Linear(2, 3)
        self.bottom = nn.Linear(3, 7)
        self.noise = PyroParam(torch.tensor(0.8), constraint=dist.constraints.positive)

    def forward(self, x=None, *, num_samples=1):
        noise = self.noise
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.top(z2), 0.7).to_event(1))
            return pyro.sample("x", dist.Normal(self.bottom(z1), noise).to_event(1), obs=x)


class BottomUpGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(7, 6), nn.Linear(3, 4)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            loc, raw = self.first(x).chunk(2, -1)
            z1 = pyro.sample("z1", dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1))
            loc, raw = self.second(z1).chunk(2, -1)
            pyro.sample("z2", dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1))


class TestHierarchical(PairContract):
    def make_pair(self):
        return HierarchicalModel(), BottomUpGuide(), {"x": torch.randn(16, 2) @ torch.randn(2, 7)}


class InnerPlateModel(PyroModule):
    """x elementwise under a plate inside the data plate: batch shape (4, N) in the trace."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2, 4)

    def forward(self, x=None, *, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))  # (N, 2), or (K, 1, N, 2)
            loc = self.decoder(z)
            loc = loc.squeeze(-3).mT if loc.dim() > 2 else loc.mT  # (4, N) or (K, 4, N)
            with pyro.plate("parts", 4, dim=-2):
                return pyro.sample("x", dist.Normal(loc, 0.7), obs=None if x is None else x.T).mT


class InnerPlateGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 4)

    def forward(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1))


class TestInnerPlate(PairContract):
    def make_pair(self):
        return InnerPlateModel(), InnerPlateGuide(), {"x": torch.randn(16, 2) @ torch.randn(2, 4)}
