"""Recorded steps of plain functions: parameters and distributions that live in closures, not in modules."""

import logging

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE

EXPANDED = dist.Normal(0.0, 1.0).expand([2]).to_event(1)  # which checks values for itself


def gaussian():
    """Bare parameters in the model and the guide, in lists too, and priors that were made outside."""
    decoder, (loc, spread), scale = (
        nn.Linear(2, 5),
        (nn.Parameter(torch.zeros(2)) for _ in "ab"),
        nn.Parameter(torch.zeros(5)),
    )
    shifts = [nn.Parameter(torch.zeros(5)), nn.Parameter(torch.ones(1))]

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", EXPANDED)
            mean = decoder(z) + torch.cat([shifts[0][:4], shifts[1]])
            return pyro.sample("x", dist.Normal(mean, scale.exp()).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc + x[..., :2] * 0.1, (spread - 1).exp()).to_event(1))

    return model, guide, [*decoder.parameters(), loc, spread, scale, *shifts]


def binary():
    """A bare parameter that is the whole prior, and score functions."""
    prior, encoder, decoder = nn.Parameter(torch.zeros(3)), nn.Linear(5, 3), nn.Linear(3, 5)

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=prior).to_event(1))
            return pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=encoder(x)).to_event(1))

    return model, guide, [prior, *encoder.parameters(), *decoder.parameters()]


@pytest.mark.parametrize("objective", [ELBO(analytic_kl=False), IWAE(3)], ids=["elbo", "iwae"])
@pytest.mark.parametrize("pair", [gaussian, binary])
def test_bare_parameters_and_outer_distributions_are_recorded_like_the_eager_step(pair, objective, caplog):
    x, ends = torch.randn(40, 5), []
    for mode in ("off", "graph"):
        torch.manual_seed(0)
        model, guide, parameters = pair()
        before = [p.detach().clone() for p in parameters]
        with caplog.at_level(logging.INFO):
            pyro_vae.fit(
                model,
                guide,
                x,
                epochs=5,
                batch_size=20,
                objective=objective,
                compile=mode,
                device="cpu",
                progress=False,
            )
        assert not any(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))  # all are trained
        ends.append([p.detach() for p in parameters])
    assert "training step recorded" in caplog.text and "eagerly" not in caplog.text
    for eager, recorded in zip(*ends, strict=True):
        torch.testing.assert_close(recorded, eager, rtol=1e-4, atol=1e-6)
    assert EXPANDED.base_dist._validate_args  # what recording turned off is on again
