"""Simulated data of programs as users write them: what is refused, by name, and what is right."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae


def test_simulated_data_that_lack_what_a_guide_needs():
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, lengths):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))

    how = {"num_data": 4, "num_chains": 2, "num_temperatures": 5}
    with pytest.raises(pyro_vae.errors.InputError, match="the guide needs lengths of simulated data"):
        pyro_vae.bidirectional(model, guide, **how)
    found = pyro_vae.bidirectional(model, guide, batch={"lengths": torch.ones(4)}, **how)
    assert found.rows


def test_simulated_data_that_share_a_latent():
    def model(x=None, num_samples=1):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z + w, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(0.3, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))

    how = {"num_data": 4, "num_chains": 2, "num_temperatures": 5}
    with pytest.raises(pyro_vae.errors.InputError, match=r"site 'w' is outside the data plate: all data share it"):
        pyro_vae.bidirectional(model, guide, **how)
    held = pyro_vae.evaluation.given_shared(model, guide, torch.randn(4, 2))
    assert pyro_vae.bidirectional(*held, **how).rows  # which the sentence says
