"""The pairs with discrete codes, and one that a user might write, under the shared contract."""

from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from contract import PairContract
from torch import nn

from pyro_vae import likelihoods
from pyro_vae.distributions import UniformCodes
from pyro_vae.guides import DVAEGuide, VQ2Guide, VQGuide
from pyro_vae.models import DVAE, VQVAE, VQVAE2
from pyro_vae.networks import VectorQuantizer
from pyro_vae.priors import TransformerPrior
from pyro_vae.programs.handlers import penalty

TINY = {"code_dim": 4, "halvings": 2, "channels": 16, "num_blocks": 1}
SMALL = {"channels": 16, "block_channels": 8, "code_dim": 4}


def images(n=16, side=8, channels=1):
    """Grey images on 256 levels with structure: a bright half, left or right."""
    x = torch.rand(n, channels, side, side) * 0.3
    x[: n // 2, ..., : side // 2] += 0.6
    x[n // 2 :, ..., side // 2 :] += 0.6
    return (x * 255).round() / 255


class CodesContract(PairContract):
    """Guides of codes are point masses: every particle has the same weight."""

    has_randomness = False
    has_continuous_latents = False
    learning_rate = 0.01


class TestVQVAE(CodesContract):
    def make_pair(self):
        model = VQVAE((1, 8, 8), num_codes=6, **SMALL)
        return model, VQGuide(model), {"x": images()}


@pytest.mark.slow
class TestGradientCodebook(CodesContract):
    def make_pair(self):
        model = VQVAE((1, 8, 8), 6, quantizer={"update": "gradient", "rotation_trick": True}, **SMALL)
        return model, VQGuide(model), {"x": images()}


@pytest.mark.slow
class TestColour(CodesContract):
    def make_pair(self):
        model = VQVAE((3, 8, 12), 6, halvings=1, likelihood=likelihoods.Gaussian("learned"), **SMALL)
        x = torch.cat([images(channels=3), images(channels=3)[..., :4]], -1)
        return model, VQGuide(model), {"x": x}


@pytest.mark.slow  # the default run has others of the family
class TestSignal(CodesContract):
    def make_pair(self):
        model = VQVAE((1, 32), 6, halvings=3, likelihood=likelihoods.Gaussian(0.2), **SMALL)
        phase = torch.rand(16, 1, 1) * 6
        return model, VQGuide(model), {"x": torch.sin(torch.linspace(0, 9, 32) + phase)}


class TestVQVAE2(CodesContract):
    def make_pair(self):
        model = VQVAE2((1, 8, 8), (6, 5), **SMALL)
        return model, VQ2Guide(model), {"x": images()}


@pytest.mark.slow  # the default run has two levels
class TestThreeLevels(CodesContract):
    def make_pair(self):
        model = VQVAE2((1, 8, 8), (6, 5, 4), halvings=(1, 1, 1), likelihood=likelihoods.Gaussian(0.3), **SMALL)
        return model, VQ2Guide(model), {"x": images()}


class TestTextAndCodes(CodesContract):
    """A prior over texts and codes makes the model one of both."""

    def make_pair(self):
        model = VQVAE((1, 8, 8), num_codes=6, **SMALL)
        model.priors["codes"] = TransformerPrior(
            6, model.grid, text_length=3, num_words=4, width=8, num_layers=2, heads=2
        )
        text = torch.tensor([[1, 2, 3], [3, 0, 0], [0, 0, 0], [2, 2, 0]]).repeat(4, 1)
        return model, VQGuide(model), {"x": images(), "text": text}


class TestDVAE(PairContract):
    """Codes with a random guide: mixtures in training mode, integers in evaluation mode."""

    learning_rate = 0.01
    has_continuous_latents = False
    options: ClassVar[dict] = {}

    def make_pair(self):
        model = DVAE((1, 8, 8), 6, **TINY)
        return model, DVAEGuide(model, temperature=0.7, **self.options), {"x": images()}

    def test_particles_broadcast_in_training_mode(self):
        model, guide, batch = self.programs()
        self.check_particles(model.train(), guide.train(), batch)


@pytest.mark.slow  # the default run has others of the family
class TestDVAEOfSignals(TestDVAE):
    def make_pair(self):
        model = DVAE((1, 32), 5, likelihood=likelihoods.Gaussian(0.2), **TINY)
        phase = torch.rand(16, 1, 1) * 6
        return model, DVAEGuide(model, channels=12), {"x": torch.sin(torch.linspace(0, 9, 32) + phase)}


@pytest.mark.slow  # the default run has others of the family
class TestStraightThrough(TestDVAE):
    options: ClassVar[dict] = {"straight_through": True}

    test_particles_broadcast_in_training_mode = None  # the density is known for the very tensor that was drawn only


class TestPlainFunctions(CodesContract):
    """A user's own: dense networks, two codes a datum."""

    def make_pair(self):
        encoder, decoder = nn.Linear(7, 2 * 3), nn.Linear(2 * 3, 7)
        quantizer = VectorQuantizer(5, 3, 1)

        def model(x=None, num_samples=1):
            pyro.module("decoder", decoder)
            with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
                codes = pyro.sample("codes", UniformCodes(5, (2,)))
                z = pyro.sample("z", dist.Delta(quantizer.embed(codes), event_dim=2))
                return pyro.sample("x", dist.Normal(decoder(z.flatten(-2)), 1.0).to_event(1), obs=x)

        def guide(x):
            pyro.module("encoder", encoder)
            pyro.module("quantizer", quantizer)
            quantized = quantizer(encoder(x).unflatten(-1, (3, 2)))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("codes", dist.Delta(quantized.codes, event_dim=1))
                pyro.sample("z", dist.Delta(quantized.z, event_dim=2))
                penalty("quantization", quantized.penalty)

        return model, guide, {"x": torch.randn(16, 2) @ torch.randn(2, 7)}
