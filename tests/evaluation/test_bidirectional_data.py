"""What a bidirectional run takes for data of what a model draws, under any names, and whose random numbers it uses.

The guides are exact posteriors: then every weight is the likelihood of what was taken for data, to rounding.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.errors import InputError
from pyro_vae.evaluation import bidirectional, generate

OPTIONS = {"num_temperatures": 3, "num_chains": 2, "seed": 4}


def normal(loc, variance):
    return dist.Normal(loc, math.sqrt(variance))


def chain(x=None, y=None, num_samples=1):
    """y ~ N(0, 1), z ~ N(y, 1), x ~ N(z, 1)."""
    with pyro.plate("data", num_samples if x is None else len(x)):
        y = pyro.sample("y", normal(torch.zeros(()), 1.0), obs=y)
        z = pyro.sample("z", normal(y, 1.0))
        return pyro.sample("x", normal(z, 1.0), obs=x)


def optional(x, y=None):
    with pyro.plate("data", len(x)):
        if y is None:
            y = pyro.sample("y", normal(x / 3, 2 / 3))
        pyro.sample("z", normal((x + y) / 2, 1 / 2))


def of_both(x, y):
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal((x + y) / 2, 1 / 2))


def of_both_by_default(x, y=None):
    of_both(x, torch.zeros(()) if y is None else y)


def check(result, exact):
    for side in (result.lower, result.upper):
        torch.testing.assert_close(side, exact.double(), rtol=1e-4, atol=1e-4)


def test_what_both_programs_sample_where_it_is_not_given_is_a_latent():
    drawn = generate.sample(chain, 20, seed=4)
    check(bidirectional(chain, optional, 20, **OPTIONS), normal(0.0, 3.0).log_prob(drawn["x"]))


@pytest.mark.parametrize("guide", [of_both, of_both_by_default])
def test_what_the_guide_does_not_sample_is_data(guide):
    drawn = generate.sample(chain, 20, seed=4)
    x, y = drawn["x"], drawn["y"]
    check(bidirectional(chain, guide, 20, **OPTIONS), normal(0.0, 1.0).log_prob(y) + normal(y, 2.0).log_prob(x))


def test_what_is_given_is_context():
    y = torch.linspace(-2, 2, 20)
    x = generate.sample(chain, 20, seed=4, batch={"y": y})["x"]
    exact = normal(0.0, 1.0).log_prob(y) + normal(y, 2.0).log_prob(x)  # observed, it counts as data do
    check(bidirectional(chain, optional, 20, batch={"y": y}, **OPTIONS), exact)


def test_required_context():
    def model(x=None, *, m, num_samples=1):
        with pyro.plate("data", len(m)):
            z = pyro.sample("z", normal(m, 1.0))
            return pyro.sample("x", normal(z, 1.0), obs=x)

    def guide(x, *, m):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal((x + m) / 2, 1 / 2))

    m = torch.linspace(-2, 2, 20)
    x = generate.sample(model, 20, seed=4, batch={"m": m})["x"]
    check(bidirectional(model, guide, 20, batch={"m": m}, **OPTIONS), normal(m, 2.0).log_prob(x))


def test_data_under_another_name():
    def model(pixels=None, num_samples=1):
        with pyro.plate("data", num_samples if pixels is None else len(pixels)):
            z = pyro.sample("z", normal(torch.zeros(3), 1.0).to_event(1))
            return pyro.sample("seen", normal(z, 1.0).to_event(1), obs=pixels)

    def guide(pixels):
        with pyro.plate("data", len(pixels)):
            pyro.sample("z", normal(pixels / 2, 1 / 2).to_event(1))

    seen = generate.sample(model, 20, seed=4)["seen"]
    check(bidirectional(model, guide, 20, **OPTIONS), normal(0.0, 2.0).log_prob(seen).sum(-1))


def test_a_latent_that_the_guide_lacks():
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            a = pyro.sample("a", normal(torch.zeros(()), 1.0))
            z = pyro.sample("z", normal(a, 1.0))
            return pyro.sample("x", normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(x / 2, 1.0))

    with pytest.raises(InputError, match="site 'a' is drawn by the model, but neither sampled by the guide"):
        bidirectional(model, guide, 5, **OPTIONS)


def test_a_site_that_only_the_guide_is_without_when_it_is_given_the_data():
    """The model samples c whatever it is given; the guide does only without x."""

    def model(x=None, c=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            c = pyro.sample("c", normal(torch.zeros(()), 1.0))
            return pyro.sample("x", normal(c, 1.0), obs=x)

    def guide(x):
        pass

    with pytest.raises(
        InputError, match=r"site 'c': given .*do not sample the same sites \(the model: c; the guide: none"
    ):
        bidirectional(model, guide, 5, **OPTIONS)


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_the_chains_random_numbers_are_not_those_of_the_data(start):
    """Data and chains from one seed would be a chain that starts where its datum was made."""
    seeds = {"data": set(), "chains": set()}

    def model(x=None, num_samples=1):
        n = num_samples if x is None else len(x)
        if n == 7:
            seeds["data" if x is None else "chains"].add(torch.initial_seed())
        with pyro.plate("data", n):
            z = pyro.sample("z", normal(torch.zeros(()), 1.0))
            return pyro.sample("x", normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(0.5 * x, 1 / 2))

    bidirectional(model, guide, 7, start=start, **OPTIONS)
    assert len(seeds["data"]) == 1 and seeds["chains"] and not seeds["data"] & seeds["chains"]
