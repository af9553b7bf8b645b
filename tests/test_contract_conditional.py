"""Pairs with context under the shared contract: labels, attributes, observed parts, and one that a user might write."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from contract import PairContract
from torch import nn

from pyro_vae import likelihoods
from pyro_vae.guides import CompletionGuide, ConditionalGuide, EmptyGuide
from pyro_vae.models import CompletionBaseline, CompletionVAE, ConditionalVAE
from pyro_vae.networks import Attributes, OneHot

SHAPE = (1, 6, 5)


def labelled(n=16):
    """Binary images, a bright half left (y = 0) or right (y = 1, 2)."""
    x = torch.rand(n, *SHAPE) * 0.3
    y = torch.arange(n) % 3
    x[y == 0, ..., :3] += 0.6
    x[y != 0, ..., 3:] += 0.6
    return {"x": (x > 0.5).float(), "y": y}


def parts(shared=True, n=16):
    """Binary images, the observed left part, and its mask (or one that differs between data)."""
    x = labelled(n)["x"]
    mask = torch.zeros(n, *SHAPE, dtype=torch.bool)
    mask[..., :2] = True
    if not shared:
        mask = mask ^ (torch.rand(n, *SHAPE) < 0.2)
    return {"x": x, "y": x * mask, "mask": mask}


class TestConditional(PairContract):
    def make_pair(self):
        model = ConditionalVAE(SHAPE, OneHot(3), latent_dim=3, hidden_dims=(16,))
        return model, ConditionalGuide(model, hidden_dims=(16,)), labelled()


class TestConditionalConv(PairContract):
    learning_rate = 0.02

    def make_pair(self):
        sizes = {"hidden_dims": (8, 4), "prior_hidden_dims": (6,), "activation": "relu"}
        model = ConditionalVAE(SHAPE, OneHot(3), 3, decoder="conv", **sizes)
        return model, ConditionalGuide(model, "conv", hidden_dims=(4, 8), activation="relu"), labelled()


class TestAttributes(PairContract):
    def make_pair(self):
        y = torch.randn(16, 2)
        x = torch.randn(16, 2) @ torch.randn(2, 7) + y @ torch.randn(2, 7)
        model = ConditionalVAE((7,), Attributes(2), 2, likelihoods.Gaussian(0.5), hidden_dims=())
        return model, ConditionalGuide(model, hidden_dims=()), {"x": x, "y": y}


class TestCompletion(PairContract):
    def make_pair(self):
        sizes = {"hidden_dims": (16,), "prior_hidden_dims": (16,), "baseline_hidden_dims": (16,)}
        model = CompletionVAE(SHAPE, 3, **sizes)
        return model, CompletionGuide(model, hidden_dims=(16,)), parts()


@pytest.mark.slow  # the default run has others of the family
class TestCompletionGrey(PairContract):
    """A mask for each datum, another likelihood, convolutional networks."""

    learning_rate = 0.01

    def make_pair(self):
        batch = parts(shared=False)
        model = CompletionVAE(
            SHAPE,
            3,
            likelihoods.Gaussian("per_pixel"),
            decoder="conv",
            hidden_dims=(8, 4),
            prior="conv",
            prior_hidden_dims=(4, 8),
            baseline_hidden_dims=(16,),
        )
        return model, CompletionGuide(model, "conv", hidden_dims=(4, 8)), batch


class TestCompletionBaseline(PairContract):
    has_latents = False
    has_continuous_latents = False

    def make_pair(self):
        return CompletionBaseline(SHAPE, baseline_hidden_dims=(16,)), EmptyGuide(), parts()


class TestPlainFunctionsWithContext(PairContract):
    """A regression with a latent shift, its context undeclared."""

    def make_pair(self):
        slope, encoder, decoder = nn.Linear(2, 7), nn.Linear(9, 4), nn.Linear(2, 7)

        def model(x=None, *, y):
            pyro.module("slope", slope)
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(y), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(slope(y) + decoder(z), 0.7).to_event(1), obs=x)

        def guide(x, y):
            pyro.module("encoder", encoder)
            loc, raw = encoder(torch.cat([x, y], -1)).chunk(2, -1)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1))

        y = torch.randn(16, 2)
        return model, guide, {"x": torch.randn(16, 2) @ torch.randn(2, 7) + y @ torch.randn(2, 7), "y": y}
