"""Fields given an image, under the shared contract."""

import pytest
import torch
from contract import PairContract

import pyro_vae
from pyro_vae import likelihoods
from pyro_vae.errors import InputError
from pyro_vae.evaluation import posterior_moments
from pyro_vae.guides import EmptyGuide, FieldGuide
from pyro_vae.models import FieldRegressor, FieldVAE
from pyro_vae.networks import ContextEncoder
from pyro_vae.priors import MixtureDensityPrior

SIZES = {"channels": (6, 8), "context_dim": 7}


def fields(n=16, sides=(6, 5)):
    """Two channels over an image, one of two that the image leaves open."""
    image = torch.rand(n, 1, 6, 5)
    sign = torch.randint(2, (n, 1, 1, 1)) * 2.0 - 1.0
    level = torch.nn.functional.adaptive_avg_pool2d(image, sides)
    x = torch.cat([sign * level, level], 1) + 0.1 * torch.randn(n, 2, *sides)
    return {"x": x, "image": image}


class TestField(PairContract):
    learning_rate = 0.01

    def make_pair(self):
        model = FieldVAE((2, 6, 5), (1, 6, 5), 3, **SIZES)
        return model, FieldGuide(model, **SIZES), fields()


@pytest.mark.slow
class TestCoarserField(PairContract):
    """x on a coarser grid than the image, z of a standard prior."""

    learning_rate = 0.01

    def make_pair(self):
        model = FieldVAE((2, 3, 3), (1, 6, 5), 3, likelihoods.Laplace("learned"), prior_hidden_dims=None, **SIZES)
        return model, FieldGuide(model, channels=(6,), context_dim=7), fields(sides=(3, 3))


class TestFieldWithMixturePrior(PairContract):
    learning_rate = 0.01

    def make_pair(self):
        prior = MixtureDensityPrior((3,), ContextEncoder((1, 6, 5), (6,), 5), num_components=2, argument="image")
        model = FieldVAE((2, 6, 5), (1, 6, 5), 3, prior=prior, **SIZES)
        return model, FieldGuide(model, **SIZES), fields()


@pytest.mark.slow
class TestFieldWithCorrelatedErrors(PairContract):
    learning_rate = 0.01

    def make_pair(self):
        likelihood = likelihoods.GaussianField((2, 6, 5), num_components=3)
        model = FieldVAE((2, 6, 5), (1, 6, 5), 3, likelihood, prior_hidden_dims=None, **SIZES)
        return model, FieldGuide(model, **SIZES), fields()


class TestRegressor(PairContract):
    learning_rate = 0.01
    has_latents = False
    has_continuous_latents = False

    def make_pair(self):
        return FieldRegressor((2, 6, 5), (1, 6, 5), **SIZES), EmptyGuide(), fields()


def test_a_guide_starts_as_narrow_as_it_is_said():
    model = FieldVAE((2, 6, 5), (1, 6, 5), 3, **SIZES)
    for scale in (0.01, 0.1, 1.0):
        guide = FieldGuide(model, initial_scale=scale, **SIZES)
        sigma = posterior_moments(model, guide, fields())["z.scale"]
        assert 0.5 * scale < sigma.mean().item() < 2 * scale
    with pytest.raises(InputError, match="initial_scale"):
        FieldGuide(model, initial_scale=0.0, **SIZES)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="sides of a scale"):
        FieldVAE((2, 4, 4), (1, 6, 5), 3, **SIZES)
    with pytest.raises(InputError, match="data_shape must be"):
        FieldVAE((2,), (1, 6, 5), 3, **SIZES)
    with pytest.raises(InputError, match="images"):
        ContextEncoder((1, 6, 5), (6, 8))(torch.rand(2, 1, 6, 6))


def test_what_images_have_in_common_drowns_no_difference():
    """A mixture's weights behind features of a large mean once were the same for every image."""
    encoder = ContextEncoder((1, 8, 8), (4,), 5)
    with torch.no_grad():
        encoder.head[2].bias.add_(1000.0)
    image = 0.4 + 0.4 * torch.rand(50, 1, 8, 8)
    assert (encoder(image).std(0) > 0.9).all()
    plain = ContextEncoder((1, 8, 8), (4,), 5, normalized=False)
    torch.testing.assert_close(plain(image), plain.head[2](plain.grids(image)[-1].relu().flatten(1)).relu())


def test_images_are_standardized_by_the_first_training_data():
    """Grey shapes of little contrast on a bright ground: what differs has deviation 1 before the first layer."""
    image = 0.7 + 0.03 * torch.randn(20, 1, 8, 8).clamp(-3, 3)
    model = FieldVAE((2, 8, 8), (1, 8, 8), 3, **SIZES)
    guide = FieldGuide(model, **SIZES)
    standardize = model.encoder.standardize
    assert torch.equal(standardize(image), image)  # nothing is known of the data yet
    data = {"x": torch.randn(20, 2, 8, 8), "image": image}
    pyro_vae.fit(model, guide, data, epochs=1, batch_size=10, progress=False, device="cpu")
    torch.testing.assert_close(standardize.mean.squeeze(), image.mean())
    torch.testing.assert_close(standardize.deviation.squeeze(), image.std(correction=0))
    torch.testing.assert_close(standardize(image).std(correction=0), torch.tensor(1.0))
    assert guide.encoder.both.standardize.mean.shape == (3, 1, 1)  # the field's channels and the image's
    flat = torch.full((4, 1, 8, 8), 0.5)
    standardize.initialize(flat)
    assert torch.equal(standardize(flat), torch.zeros(4, 1, 8, 8))
