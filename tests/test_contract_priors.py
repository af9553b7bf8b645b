"""Pairs with learned priors over their latents under the shared contract."""

import pytest
import torch
from contract import PairContract

from pyro_vae.guides import ConditionalGuide, FlowGuide, GaussianGuide, LadderGuide
from pyro_vae.models import VAE, ClassPriorVAE, ConditionalVAE, HierarchicalVAE
from pyro_vae.networks import OneHot
from pyro_vae.priors import (
    AutoregressiveGaussianPrior,
    FlowPrior,
    MixtureDensityPrior,
    MixturePrior,
    PinwheelPrior,
    SwissRollPrior,
    VampPrior,
)
from pyro_vae.programs.inside import connect

SHAPE = (1, 6, 5)


def images(n=16):
    """Binary images with structure: a bright half, left or right."""
    x = torch.rand(n, *SHAPE) * 0.3
    x[: n // 2, ..., :3] += 0.6
    x[n // 2 :, ..., 3:] += 0.6
    return {"x": (x > 0.5).float()}


class PriorContract(PairContract):
    """A VAE with the prior that :meth:`prior` makes."""

    def prior(self):
        raise NotImplementedError

    def make_pair(self):
        model = VAE(SHAPE, latent_dim=3, hidden_dims=(16,), prior=self.prior())
        guide = GaussianGuide(model, hidden_dims=(16,))
        connect(model, guide)  # for Pyro's own SVI, which does not; all else would by itself
        return model, guide, images()


@pytest.mark.slow  # the default run has others of the family
class TestMixturePrior(PriorContract):
    def prior(self):
        return MixturePrior((3,), 5)


class TestVampPrior(PriorContract):
    def prior(self):
        return VampPrior((3,), SHAPE, 8)


@pytest.mark.slow  # the default run has others of the family
class TestSplinePrior(PriorContract):
    def prior(self):
        return FlowPrior((3,), num_layers=2, hidden_dims=(8,))


@pytest.mark.slow  # the default run has others of the family
class TestCouplingPrior(PriorContract):
    def prior(self):
        return FlowPrior((3,), kind="realnvp", num_layers=2, hidden_dims=(8,))


@pytest.mark.slow  # the default run has others of the family
class TestAutoregressivePrior(PriorContract):
    def prior(self):
        return AutoregressiveGaussianPrior((3,), hidden_dims=(8,))


@pytest.mark.slow  # the default run has others of the family
class TestVampPriorOfALadder(PairContract):
    """The guide runs the model, and the model's prior runs the guide."""

    def make_pair(self):
        sizes = {"hidden_dims": (16, 8), "num_hidden": 1}
        model = HierarchicalVAE(SHAPE, (4, 2), **sizes, prior=VampPrior((2,), SHAPE, 8))
        guide = LadderGuide(model, **sizes)
        connect(model, guide)
        return model, guide, images()


class TestMixtureDensityPrior(PairContract):
    def make_pair(self):
        prior = MixtureDensityPrior((3,), OneHot(3), num_components=4, hidden_dims=(8,))
        model = ConditionalVAE(SHAPE, OneHot(3), latent_dim=3, hidden_dims=(16,), prior=prior)
        return model, ConditionalGuide(model, hidden_dims=(16,)), images() | {"y": torch.arange(16) % 3}


class TestClassPrior(PairContract):
    """Labels of some data, -1 where one is not known."""

    def make_pair(self):
        model = ClassPriorVAE(SHAPE, PinwheelPrior(3, tangential_scale=0.3), hidden_dims=(16,))
        return model, GaussianGuide(model, hidden_dims=(16,)), images() | {"y": torch.arange(16) % 4 - 1}


@pytest.mark.slow  # the default run has labels
class TestClassPriorWithoutLabels(PairContract):
    """A VAE of the whole mixture, whatever labels the data carry."""

    def make_pair(self):
        model = VAE(SHAPE, latent_dim=2, hidden_dims=(16,), prior=SwissRollPrior(3, 0.3, 5))
        return model, GaussianGuide(model, hidden_dims=(16,)), images() | {"y": torch.arange(16) % 3}


@pytest.mark.slow  # the default run has its parts
class TestVampPriorOfSplines(PairContract):
    def make_pair(self):
        model = VAE(SHAPE, latent_dim=3, hidden_dims=(16,), prior=VampPrior((3,), SHAPE, 8))
        guide = FlowGuide(model, flow_dim=8, context_dim=4, hidden_dims=(16,), flow="spline")
        connect(model, guide)
        return model, guide, images()
