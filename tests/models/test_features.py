"""A density of features of images: against the pixels' Gaussian, and what every output calls it."""

import copy
import json
import math

import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae.errors import InputError
from pyro_vae.evaluation.results import what_is_bounded
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE, FeatureVAE
from pyro_vae.networks import EfficientNetLite0Features
from pyro_vae.reports.compare import _warnings as comparison_warnings
from pyro_vae.reports.report_page import _tiles, likelihood_table

SHAPE = (1, 4, 4)
NATS = "these nats are of a density of features 0 of x, and not of x: no log p(x)"


class Rotated(nn.Module):
    """Images times an orthogonal matrix, in parts of several shapes."""

    def __init__(self, parts=1):
        super().__init__()
        size = math.prod(SHAPE)
        self.matrix = nn.Parameter(torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q.float())
        self.parts = parts

    def forward(self, x):
        return (x.flatten(1) @ self.matrix).chunk(self.parts, -1)


class Decoder(nn.Module):
    """An image before the sigmoid, or after it."""

    def __init__(self, linear, after):
        super().__init__()
        self.linear, self.after = linear, after

    def forward(self, z):
        h = self.linear(z).unflatten(-1, SHAPE)
        return torch.sigmoid(h) if self.after else h


def pair(features, scale=0.3):
    linear = nn.Linear(2, math.prod(SHAPE))
    model = FeatureVAE(SHAPE, features, 2, Decoder(linear, False), scale=scale)
    pixels = VAE(SHAPE, 2, pyro_vae.likelihoods.Gaussian(scale), Decoder(linear, True))
    guide = GaussianGuide(model, hidden_dims=(8,), activation="tanh")
    return model, pixels, guide


@pytest.mark.parametrize("parts", [1, 4])
def test_of_orthonormal_features_it_is_the_pixels_gaussian(parts):
    torch.manual_seed(0)
    model, pixels, guide = pair(Rotated(parts))
    x = torch.rand(7, *SHAPE)
    ours, theirs = (pyro_vae.log_likelihood(p, guide, x, num_particles=50, progress=False) for p in (model, pixels))
    torch.testing.assert_close(ours.per_datum, theirs.per_datum, rtol=1e-5, atol=1e-4)
    ours, theirs = (pyro_vae.elbo(p, guide, x) for p in (model, pixels))
    torch.testing.assert_close(ours.per_datum, theirs.per_datum, rtol=1e-5, atol=1e-4)
    assert [*ours.log_likelihood] == [f"features_{i}" for i in range(parts)]


def test_every_output_says_what_it_is_a_density_of():
    torch.manual_seed(0)
    model, _, guide = pair(Rotated())
    x = torch.rand(4, *SHAPE)
    few = {"num_temperatures": 4, "num_leapfrog": 1, "num_chains": 2}
    likelihood = pyro_vae.log_likelihood(model, guide, x, num_particles=30, progress=False)
    annealed = pyro_vae.ais(model, guide, x, **few)
    for found in (likelihood, annealed, pyro_vae.score(model, guide, x, num_particles=30, progress=False)):
        assert any(NATS in sentence for sentence in found.warnings)
        assert any(label.startswith("log-likelihood of features 0 of x") for label in found.rows)
        assert found.rows["bits per dimension"] == "none: the nats are of a density of features 0 of x"
        assert found.to_dict()["density_of"] == "features 0 of x" and math.isnan(found.to_dict()["bits_per_dim"])
        assert "log p(x)" not in " ".join([*found.rows, *found.rows.values()])
    assert sum(NATS in sentence for sentence in likelihood.warnings) == 1
    for found in (pyro_vae.elbo(model, guide, x), pyro_vae.refine(model, guide, x, num_steps=2, num_particles=5)):
        assert any(NATS in sentence for sentence in found.warnings)
    assert likelihood.sites["features_0"].dimensions == 16 and likelihood.density
    assert what_is_bounded(likelihood.to_dict()) == "log p(features 0 of x)"
    with pytest.raises(InputError, match="draws features of its data and no data that have them"):
        pyro_vae.bidirectional(model, guide, 3, **few)


def test_pages_say_it_too():
    torch.manual_seed(0)
    model, pixels, guide = pair(Rotated())
    x = torch.rand(4, *SHAPE)
    of_features, of_pixels = (
        {**pyro_vae.log_likelihood(p, guide, x, num_particles=30, progress=False).to_dict(), "split": "test"}
        for p in (model, pixels)
    )
    json.dumps(of_features)
    report = {"made": {"split": "test"}, "parameters": {"all": 1}, "training": {"epochs": 1, "minutes": 1.0}}
    for found, what in ((of_features, "log p(features 0 of x)"), (of_pixels, "log p(x)")):
        page = _tiles({**report, "evaluations": {"test": found}})
        assert what in page and ("bits" in page) == (what == "log p(x)")
    assert "these are nats of a density of" in likelihood_table({"test": of_features})
    assert "these are nats of a density of" not in likelihood_table({"test": of_pixels})

    class Of:
        def __init__(self, result):
            self.result, self.training, self.path = result, self, None

        def warnings(self, path):
            return []

    both = [Of({**of_features, "warnings": []}), Of({**of_pixels, "warnings": []})]
    said = comparison_warnings(both, ["a", "b"], both)
    assert any("What the bounds are of differs (a: features 0 of x; b: the data)" in words for words in said)


def test_what_is_shown_of_it_is_the_image():
    torch.manual_seed(0)
    model, _, guide = pair(Rotated(2))
    drawn = pyro_vae.sample(model, 5)
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {
        "z": (5, 2),
        "features_0": (5, 8),
        "features_1": (5, 8),
        "image.mean": (5, *SHAPE),
    }
    wanted = torch.sigmoid(model.decoder(drawn["z"]))
    torch.testing.assert_close(drawn["image.mean"], wanted)
    x = torch.rand(5, *SHAPE)
    assert pyro_vae.reconstruct(model, guide, x).shape == x.shape
    torch.testing.assert_close(pyro_vae.decode(model, {"z": drawn["z"]}), wanted)
    assert [*pyro_vae.encode(model, guide, x)] == ["z"]


def test_a_model_that_shows_nothing_is_refused():
    import pyro
    import pyro.distributions as dist

    def model(x=None, *, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            said = {"density_of": "twice x"}
            pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=None if x is None else 2 * x, infer=said)

    with pytest.raises(InputError, match=r"observes functions of its data \('y': twice x\) and draws no data"):
        pyro_vae.sample(model, 5)
    assert pyro_vae.sample(model, 5, site="y")["y"].shape == (5, 2)


class Normed(nn.Module):
    """A network whose batch normalization must not move."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh())

    def forward(self, x):
        return {"tanh": self.layers(x)}


def test_features_are_bit_equal_after_training(tmp_path):
    torch.manual_seed(0)
    features = Normed()
    before = copy.deepcopy(features.state_dict())
    model, _, guide = pair(features, scale="learned")
    x = torch.rand(40, *SHAPE)
    pyro_vae.fit(model, guide, x, epochs=30, batch_size=20, learning_rate=0.02, progress=False, device="cpu")
    assert not features.training and all(torch.equal(v, before[k]) for k, v in features.state_dict().items())
    assert not any(p.requires_grad for p in features.parameters())
    assert model.likelihoods["tanh"].raw_scale.item() < math.log(math.expm1(1 - 1e-3))  # sigma is learned
    assert model.train().features.training is False


def test_frozen_weights_of_a_pretrained_network():
    torch.manual_seed(0)
    model = FeatureVAE((3, 16, 16), EfficientNetLite0Features(["stem", "stage1"]), 4, hidden_dims=(8, 4))
    guide = GaussianGuide(model, "conv", hidden_dims=(4, 8), activation="relu")
    before = {k: v.clone() for k, v in model.features.state_dict().items()}
    x = torch.rand(12, 3, 16, 16)
    first = pyro_vae.elbo(model, guide, x)
    pyro_vae.fit(model, guide, x, epochs=20, batch_size=12, learning_rate=0.01, progress=False, device="cpu")
    assert pyro_vae.elbo(model, guide, x).mean > first.mean + 1
    assert before and all(torch.equal(v, before[k]) for k, v in model.features.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"data_shape": (7,), "features": nn.Flatten()}, "data must be images"),
        ({"data_shape": SHAPE, "features": torch.tanh}, "features must be a module"),
        ({"data_shape": SHAPE, "features": nn.Flatten(0)}, "must have features of each image"),
        ({"data_shape": SHAPE, "features": nn.Flatten(), "scale": "per_pixel"}, "a positive number or 'learned'"),
        ({"data_shape": SHAPE, "features": nn.Flatten(), "scale": -1.0}, "scale"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        FeatureVAE(**arguments, latent_dim=2, decoder="mlp", hidden_dims=())
