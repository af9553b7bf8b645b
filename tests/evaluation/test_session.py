"""What every estimator does first: a warning where plain functions' parameters are not the trained ones."""

import logging

import pyro
import pyro.distributions as dist
import torch

from pyro_vae.evaluation import log_likelihood
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE
from pyro_vae.training import fit


def model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z + pyro.param("shift", torch.zeros(1)), 0.5).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, pyro.param("width", torch.ones(1)).exp()).to_event(1))


def test_initial_values_of_plain_functions_are_said_and_trained_ones_are_used(caplog):
    x = torch.randn(50, 1) + 3.0
    result = fit(model, guide, x, epochs=40, batch_size=50, learning_rate=0.1, progress=False)
    with caplog.at_level(logging.WARNING):
        trained = log_likelihood(result.model, result.guide, x, num_particles=200)
        assert not caplog.records
        initial = log_likelihood(model, guide, x, num_particles=200)
    assert "pyro.param shift, width: evaluated at initial values" in caplog.text
    assert trained.mean > initial.mean + 1.0


def test_a_decoder_with_batch_norm_can_be_given_a_gaussian_guide():
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4))
    model = VAE((4,), latent_dim=2, decoder=decoder)
    before = decoder[1].running_mean.clone()
    guide = GaussianGuide(model)
    assert guide.latent_shapes == {"z": (2,)}
    assert decoder[1].training and torch.equal(decoder[1].running_mean, before)
