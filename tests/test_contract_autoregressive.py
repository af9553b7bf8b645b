"""The shared contract of autoregressive likelihoods, and of pixels without latents."""

import pytest
import torch
from contract import PairContract

from pyro_vae.guides import EmptyGuide, GaussianGuide
from pyro_vae.likelihoods import Categorical, DiscretizedLogisticMixture, PatchPixelCNN, PixelCNN
from pyro_vae.models import VAE, PixelModel

SMALL = {"channels": 6, "kernel": 3, "head_channels": 6}


def images(n=16, channels=1, levels=2):
    """Images of grey levels with structure: a bright half, left or right."""
    x = torch.rand(n, channels, 5, 4) * 0.4
    x[: n // 2, ..., :2] += 0.6
    x[n // 2 :, ..., 2:] += 0.6
    return (x * (levels - 1)).round() / (levels - 1)


class PixelContract(PairContract):
    """A VAE with a PixelCNN as its likelihood."""

    learning_rate = 0.02
    output, channels, levels, in_layers = staticmethod(lambda: None), 1, 2, False

    def make_pair(self):
        x = images(channels=self.channels, levels=self.levels)
        likelihood = PixelCNN(
            self.output(), features=3, data_channels=self.channels, condition_layers=self.in_layers, **SMALL
        )
        model = VAE(x.shape[1:], 3, likelihood, hidden_dims=(16,), data_mean=x.mean(0))
        return model, GaussianGuide(model, hidden_dims=(16,)), {"x": x}


class TestBinary(PixelContract):
    pass


@pytest.mark.slow  # the default run has others of the family
class TestColour(PixelContract):
    output, channels, levels = staticmethod(lambda: Categorical(4)), 3, 4


@pytest.mark.slow  # the default run has others of the family
class TestInAllLayers(PixelContract):
    in_layers = True


@pytest.mark.slow  # the default run has others of the family
class TestMixture(PixelContract):
    output, levels = staticmethod(lambda: DiscretizedLogisticMixture(2, 16)), 16


class TestPatches(PairContract):
    """Patches given those before them; an image is drawn in four steps."""

    learning_rate = 0.02

    def make_pair(self):
        x = images()[..., :4, :]
        likelihood = PatchPixelCNN(num_components=2, side=2, features=3, channels=6, num_layers=1, head_channels=8)
        model = VAE(x.shape[1:], 3, likelihood, hidden_dims=(16,), data_mean=x.mean(0))
        return model, GaussianGuide(model, hidden_dims=(16,)), {"x": x}


@pytest.mark.slow  # the default run has others of the family
class TestPatchesWithoutLatents(PairContract):
    learning_rate = 0.02
    has_latents = has_continuous_latents = False

    def make_pair(self):
        x = images()[..., :4, :]
        likelihood = PatchPixelCNN(num_components=2, side=2, features=0, channels=6, num_layers=1, head_channels=8)
        return PixelModel(x.shape[1:], likelihood, data_mean=x.mean(0)), EmptyGuide(), {"x": x}


class TestWithoutLatents(PairContract):
    learning_rate = 0.02
    has_latents = has_continuous_latents = False

    def make_pair(self):
        x = images()
        return PixelModel(x.shape[1:], PixelCNN(features=0, **SMALL), data_mean=x.mean(0)), EmptyGuide(), {"x": x}
