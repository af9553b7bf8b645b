"""Batches as users have them: names of their own, integers, steps that are sites, data that are not observed."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae.errors import InputError

FIT = {"epochs": 2, "batch_size": 10, "device": "cpu", "progress": False}


def table():
    """Two columns, neither of them called x."""
    encoder, decoder = nn.Linear(2, 2), nn.Linear(1, 2)

    def model(height=None, visits=None, num_samples=1):
        with pyro.plate("data", num_samples if height is None else len(height)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            loc, rate = decoder(z).unbind(-1)
            pyro.sample("height", dist.Normal(loc, 1.0), obs=height)
            pyro.sample("visits", dist.Poisson(rate.exp()), obs=visits)

    def guide(height, visits):
        loc, raw = encoder(torch.stack([height, visits], -1)).chunk(2, -1)
        with pyro.plate("data", len(height)):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return model, guide


def test_a_batch_may_have_the_programs_own_names():
    model, guide = table()
    batch = {"height": torch.randn(20), "visits": torch.poisson(torch.ones(20))}
    called_x = {"x": batch["height"], "visits": batch["visits"]}
    results = [pyro_vae.log_likelihood(model, guide, b, num_particles=30).per_datum for b in (batch, called_x)]
    assert torch.equal(*results)
    result = pyro_vae.fit(model, guide, batch, **FIT)
    assert set(pyro_vae.sample(result.model, 3)) == {"z", "height", "visits", "height.mean"}
    assert pyro_vae.encode(result.model, result.guide, batch)["z"].shape == (20, 1)
    with pytest.raises(InputError, match=r"data need a tensor 'x', got only: height, weight"):
        pyro_vae.fit(model, guide, {"height": batch["height"], "weight": batch["visits"]}, **FIT)


@pytest.mark.parametrize("kind", ["tensor", "dict", "numpy"])
def test_integers_are_trained_on_as_they_are_measured(kind):
    decoder = nn.Linear(1, 4)

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.Categorical(logits=decoder(z)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.1 * x[..., None].float(), 1.0).to_event(1))

    x = torch.arange(20) % 4
    data = {"tensor": x, "dict": {"x": x}, "numpy": x.numpy()}[kind]
    result = pyro_vae.fit(model, guide, data, **FIT)
    assert pyro_vae.elbo(result.model, result.guide, x).per_datum.shape == (20,)
    with pytest.raises(InputError, match="support"):  # integers that are no classes are no data
        pyro_vae.fit(model, guide, x + 1, **FIT)


@pytest.mark.parametrize("returns", [False, True])
def test_steps_that_are_sites_are_found_without_what_the_model_returns(returns):
    """As in Pyro's tutorials, where a model of sequences returns nothing."""
    decoder, lowest = nn.Linear(1, 2), torch.zeros(1)

    def model(x=None, lengths=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(lowest, 1.0).to_event(1))
            seen = []
            for t in range(3):
                z = pyro.sample(f"z_{t}", dist.Normal(z, 1.0).to_event(1))
                with pyro.poutine.mask(mask=True if lengths is None else t < lengths):
                    step = dist.Normal(decoder(z), 1.0).to_event(1)
                    seen.append(pyro.sample(f"x_{t}", step, obs=None if x is None else x[:, t]))
        return torch.stack(seen, 1) if returns else None

    drawn = pyro_vae.sample(model, 4)
    assert drawn["x"].shape == drawn["x.mean"].shape == (4, 3, 2)
    assert [name for name in drawn if name.startswith("z")] == ["z", "z_0", "z_1", "z_2"]


def test_a_model_that_does_not_observe_x_says_what_it_observes():
    """Regression as in Pyro's tutorial: x is given, y is observed."""

    def model(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("y", dist.Normal(z + x, 1.0).to_event(1), obs=y)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((y - x) / 2, 0.7).to_event(1))

    batch = {"x": torch.randn(6, 1), "y": torch.randn(6, 1)}
    exact = dist.Normal(batch["x"], 2**0.5).log_prob(batch["y"])[:, 0].double()
    torch.testing.assert_close(  # which changes no number
        pyro_vae.log_likelihood(model, guide, batch, num_particles=5000).per_datum, exact, atol=0.01, rtol=0
    )
    with pytest.raises(
        InputError, match=r"given x and does not observe it, but y: in a batch, call what is observed x"
    ):
        pyro_vae.reconstruct(model, guide, batch)
    with pytest.raises(InputError, match=r"given x and does not observe it: in a batch, call what is observed x"):
        pyro_vae.sample(model, 6, batch={"x": batch["x"]})
