"""Errors of reconstructions in features and pixels, written by hand."""

import math

import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae.errors import InputError
from pyro_vae.evaluation import feature_error
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE, FeatureVAE

SHAPE = (1, 6, 6)


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, x):
        return {"conv": self.conv(x), "mean": x.mean((1, 2, 3))[:, None]}


def pair(model):
    return model, GaussianGuide(model, hidden_dims=(8,), min_scale=1e-4)


def certain(guide):
    """A guide whose draws are its means, to rounding."""
    with torch.no_grad():
        guide.encoder.mlp.out.bias[2:] = -40.0
        guide.encoder.mlp.out.weight[2:] = 0.0
    guide.min_scale = 1e-9
    return guide


@pytest.mark.parametrize("kind", ["pixels", "features"])
def test_they_are_mean_squares_of_reconstructions(kind):
    torch.manual_seed(0)
    phi, x = Layers(), torch.rand(7, *SHAPE)
    if kind == "pixels":
        model, guide = pair(VAE(SHAPE, 2, pyro_vae.likelihoods.Gaussian(), hidden_dims=(8,)))
    else:
        model, guide = pair(FeatureVAE(SHAPE, Layers(), 2, "mlp", (8,)))
    certain(guide)
    found = feature_error(model, guide, x, phi, batch_size=3)
    with torch.no_grad():
        mean = model.decoder(guide.encoder(x)[:, :2])
        mean = torch.sigmoid(mean) if kind == "features" else mean
        wanted = {layer: (phi(mean)[layer] - value).square().flatten(1).mean(1) for layer, value in phi(x).items()}
    torch.testing.assert_close(found.pixels, (mean - x).square().flatten(1).mean(1).double(), rtol=1e-4, atol=1e-6)
    for layer, value in wanted.items():
        torch.testing.assert_close(found.features[layer], value.double(), rtol=1e-4, atol=1e-6)
    assert sorted(found.arrays()) == ["features.conv", "features.mean", "pixels"]
    assert [*found.rows] == [
        "squared error of pixels",
        "squared error of conv (Layers)",
        "squared error of mean (Layers)",
    ]
    summary = found.to_dict()
    assert summary["pixels"] == pytest.approx(found.pixels.mean().item()) and summary["num_data"] == 7
    assert summary["features_standard_error"]["conv"] == pytest.approx(
        found.features["conv"].std().item() / math.sqrt(7)
    )


def test_what_cannot_be_measured_is_refused():
    model, guide = pair(VAE((7,), 2, pyro_vae.likelihoods.Gaussian(), hidden_dims=(8,)))
    with pytest.raises(InputError, match=r"features are of images.*a datum has shape \(7,\)"):
        feature_error(model, guide, torch.rand(4, 7), Layers())
    model, guide = pair(VAE(SHAPE, 2, pyro_vae.likelihoods.Gaussian(), hidden_dims=(8,)))
    with pytest.raises(InputError, match="features must be a module"):
        feature_error(model, guide, torch.rand(4, *SHAPE), torch.tanh)
    with pytest.raises(InputError, match="batch_size"):
        feature_error(model, guide, torch.rand(4, *SHAPE), Layers(), batch_size=0)
