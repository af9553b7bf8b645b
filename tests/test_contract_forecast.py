"""Forecasts given an image, under the shared contract."""

import pytest
import torch
from contract import PairContract

from pyro_vae import likelihoods
from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, bidirectional
from pyro_vae.guides import EmptyGuide, ForecastGuide
from pyro_vae.models import ForecastRegressor, ForecastVAE
from pyro_vae.networks import ContextEncoder, ContextPlaces
from pyro_vae.priors import MixtureDensityPrior

SIZES = {"channels": (6, 8), "context_dim": 7}
FRAMES = 3


def motions(n=16):
    """What is bright moves to the right or to the left, by speeds that vary."""
    image = torch.rand(n, 3, 8, 8)
    bright = torch.nn.functional.adaptive_avg_pool2d(image, 4)[:, :1]
    sign = (torch.randint(2, (n, 1, 1, 1)) * 2.0 - 1.0) * (1 + 0.3 * torch.randn(n, 1, 1, 1))
    right = sign * bright * torch.arange(1, FRAMES + 1).view(1, -1, 1, 1)
    x = torch.cat([right, torch.zeros_like(right)], 1)
    return {"x": x + 0.1 * torch.randn_like(x), "image": image}


@pytest.mark.slow  # the default run has others of the family
class TestForecast(PairContract):
    learning_rate = 0.01

    def make_pair(self):
        model = ForecastVAE((2 * FRAMES, 4, 4), (3, 8, 8), 3, 2, **SIZES)
        return model, ForecastGuide(model, **SIZES), motions()


class TestForecastOfFewCoefficients(PairContract):
    """A mixture as prior of directions, a Laplace with scales of the network's, and the paper's losses beside."""

    learning_rate = 0.01

    def make_pair(self):
        prior = MixtureDensityPrior((3,), ContextEncoder((3, 8, 8), (6,), 5), num_components=2, argument="image")
        model = ForecastVAE(
            (2 * FRAMES, 4, 4), (3, 8, 8), 3, 2, likelihoods.Laplace("per_pixel"), coefficients=2, prior=prior, **SIZES
        )
        return model, ForecastGuide(model, direction_penalty=0.1, magnitude_penalty=0.1, **SIZES), motions()

    def test_prior_samples_have_the_shape_of_data(self):
        model, _, batch = self.programs()
        drawn = model(image=batch["image"][:5])  # the trajectories of the coefficients' mean
        assert drawn.shape == (5, *batch["x"].shape[1:]) and drawn.isfinite().all()

    def test_annealing_bounds_the_likelihood_from_both_sides(self):
        """From one side: what it draws are coefficients, and no data that have them."""
        model, guide, batch = self.pair()
        few = {"num_temperatures": 12, "num_leapfrog": 2, "num_chains": 4}
        assert ais(model, guide, batch, **few).per_datum.isfinite().all()
        with pytest.raises(InputError, match="draws features of its data and no data"):
            bidirectional(model, guide, len(batch["x"]), batch={"image": batch["image"]}, **few)


class TestForecastOfEveryCell(PairContract):
    """Latents at every cell, the directions' prior a mixture of its own at each."""

    learning_rate = 0.01

    def make_pair(self):
        prior = MixtureDensityPrior((4, 4, 2), ContextPlaces((3, 8, 8), (6,)), num_components=2, argument="image")
        model = ForecastVAE((2 * FRAMES, 4, 4), (3, 8, 8), 2, 1, channels=(6,), prior=prior, local=True)
        return model, ForecastGuide(model, **SIZES), motions()


class TestForecastRegressor(PairContract):
    has_latents = has_randomness = has_continuous_latents = False
    learning_rate = 0.01

    def make_pair(self):
        return ForecastRegressor((2 * FRAMES, 4, 4), (3, 8, 8), **SIZES), EmptyGuide(), motions()
