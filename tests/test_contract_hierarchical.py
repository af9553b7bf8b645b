"""The hierarchical pairs under the shared contract."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from contract import PairContract
from pyro.nn import PyroModule
from torch import nn

from pyro_vae import likelihoods
from pyro_vae.guides import BIVAGuide, ConvLadderGuide, HierarchicalGuide, LadderGuide
from pyro_vae.models import BIVA, ConvHierarchicalVAE, HierarchicalVAE

SHAPE = (1, 6, 5)
SIZES = {"hidden_dims": (16, 12, 8), "num_hidden": 1}


def images(n=16):
    """Binary images with structure: a bright half, left or right."""
    x = torch.rand(n, *SHAPE) * 0.3
    x[: n // 2, ..., :3] += 0.6
    x[n // 2 :, ..., 3:] += 0.6
    return {"x": (x > 0.5).float()}


class TestHierarchicalVAE(PairContract):
    def make_pair(self):
        model = HierarchicalVAE(SHAPE, (4, 3, 2), **SIZES)
        return model, HierarchicalGuide(model, **SIZES), images()


@pytest.mark.slow  # the default run has others of the family
class TestTwoLayers(PairContract):
    """The sizes' scheme of IWAE's two-layer model, on vectors."""

    def make_pair(self):
        model = HierarchicalVAE((7,), (3, 2), (8, 6), 2, likelihood=likelihoods.Gaussian(0.5), activation="tanh")
        x = torch.randn(16, 2) @ torch.randn(2, 7)
        return model, HierarchicalGuide(model, (8, 6), activation="tanh"), {"x": x}


class TestLadderVAE(PairContract):
    def make_pair(self):
        model = HierarchicalVAE(SHAPE, (4, 3, 2), **SIZES)
        return model, LadderGuide(model, **SIZES), images()


@pytest.mark.slow  # the default run has the others of the family
class TestLadderVAEWithBatchNorm(PairContract):
    def make_pair(self):
        model = HierarchicalVAE(SHAPE, (4, 3, 2), **SIZES, batch_norm=True)
        return model, LadderGuide(model, **SIZES, batch_norm=True), images(64)  # batch statistics need a batch


@pytest.mark.slow
class TestConvolutionalLadderVAE(PairContract):
    def make_pair(self):
        sizes = {**SIZES, "channels": (4, 6)}
        model = HierarchicalVAE(SHAPE, (4, 3, 2), **sizes)
        return model, LadderGuide(model, **sizes), images()


@pytest.mark.slow
class TestLadderVAEResidual(PairContract):
    def make_pair(self):
        model = HierarchicalVAE(SHAPE, (4, 3, 2), **SIZES)
        return model, LadderGuide(model, **SIZES, merge="residual"), images()


class TestBIVA(PairContract):
    def make_pair(self):
        model = BIVA(SHAPE, (3, 2), (8, 6), None, num_blocks=1)
        return model, BIVAGuide(model, num_blocks=1), images()


@pytest.mark.slow
class TestDeepBIVA(PairContract):
    def make_pair(self):
        model = BIVA(SHAPE, (3, 2, 2), (8, 6, 6), None, num_blocks=1)
        return model, BIVAGuide(model, num_blocks=1), images()


@pytest.mark.slow
class TestConvolutionalBIVA(PairContract):
    def make_pair(self):
        model = BIVA(SHAPE, (3, 2, 2), (4, 4, 4), (2, 1, 2), num_blocks=1)
        return model, BIVAGuide(model, num_blocks=1), images()


@pytest.mark.slow
class TestResidualBIVA(PairContract):
    def make_pair(self):
        model = BIVA(SHAPE, (3, 2, 2), (8, 6, 6), None, num_blocks=1)
        return model, BIVAGuide(model, num_blocks=1, parameterization="residual"), images()


class TestConvHierarchicalVAE(PairContract):
    """Two scales, of which the finer has odd sides."""

    def make_pair(self):
        model = ConvHierarchicalVAE(SHAPE, 2, (6, 4), (1, 1), (1, 2))
        return model, ConvLadderGuide(model), images()


class TestPatches(PairContract):
    """A likelihood whose features lie on a coarser grid than the pixels."""

    def make_pair(self):
        x = images()["x"][..., :4]
        likelihood = likelihoods.PatchMixture(num_components=3, side=2)
        model = ConvHierarchicalVAE(x.shape[1:], 2, (6,), (1,), (1,), likelihood=likelihood, data_mean=x.mean(0))
        return model, ConvLadderGuide(model), {"x": x}


@pytest.mark.slow
class TestConvHierarchicalVAEByPrecision(PairContract):
    def make_pair(self):
        model = ConvHierarchicalVAE(SHAPE, 2, (4,), (2,), (1,))
        return model, ConvLadderGuide(model, (6,), merge="precision"), images()


class OwnHierarchy(PyroModule):
    """A user's model of this morning: two layers, heavy use of one network, no base class."""

    def __init__(self):
        super().__init__()
        self.middle, self.bottom = nn.Linear(2, 6), nn.Linear(3, 7)

    def forward(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc, raw = self.middle(top).chunk(2, -1)
            low = pyro.sample("low", dist.Normal(loc, nn.functional.softplus(raw) + 0.1).to_event(1))
            return pyro.sample("x", dist.Normal(self.bottom(low), 0.7).to_event(1), obs=x)


class TestLadderForOnesOwnModel(PairContract):
    def make_pair(self):
        model = OwnHierarchy()
        return model, LadderGuide(model, (8, 6), 1), {"x": torch.randn(16, 2) @ torch.randn(2, 7)}


class TestLadderForPlainFunctions(PairContract):
    def make_pair(self):
        middle, bottom = nn.Linear(2, 3), nn.Linear(3, 7)

        def model(x=None, num_samples=1):
            noise = pyro.param("noise", torch.tensor(0.8), constraint=dist.constraints.positive)
            pyro.module("middle", middle), pyro.module("bottom", bottom)
            with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
                top = pyro.sample("top", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                low = pyro.sample("low", dist.Normal(middle(top), 0.5).to_event(1))
                return pyro.sample("x", dist.Normal(bottom(low), noise).to_event(1), obs=x)

        return model, LadderGuide(model, (8, 6), 1), {"x": torch.randn(16, 2) @ torch.randn(2, 7)}
