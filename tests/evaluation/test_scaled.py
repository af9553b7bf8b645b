"""Samples with scaled priors: the same noise, exactly so many times farther from the location."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.errors import InputError
from pyro_vae.evaluation.generate import sample
from pyro_vae.programs.handlers import scaled

LOC = torch.tensor([3.0, -1.0])


def three_layers(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
        z3 = pyro.sample("z3", dist.Normal(LOC, torch.tensor([1.0, 2.0])).to_event(1))
        z2 = pyro.sample("z2", dist.Laplace(2 * z3, 0.5).to_event(1))
        code = pyro.sample("code", dist.Categorical(torch.ones(4)))
        return pyro.sample("x", dist.Normal(z2 + code[:, None], 1.0).to_event(1), obs=x)


def test_the_noise_is_the_same_and_the_spread_exactly_scaled():
    plain = sample(three_layers, 50, seed=3, batch_size=20)
    small = sample(three_layers, 50, seed=3, batch_size=20, scales={"z3": 0.25})
    torch.testing.assert_close(small["z3"] - LOC, 0.25 * (plain["z3"] - LOC))
    torch.testing.assert_close(small["z3"].std(0), 0.25 * plain["z3"].std(0))
    torch.testing.assert_close(small["z2"] - 2 * small["z3"], plain["z2"] - 2 * plain["z3"])  # z2's own is untouched
    both = sample(three_layers, 50, seed=3, batch_size=20, scales={"z3": 0.5, "z2": 2.0})
    torch.testing.assert_close(both["z3"] - LOC, 0.5 * (plain["z3"] - LOC))
    torch.testing.assert_close(both["z2"] - 2 * both["z3"], 2 * (plain["z2"] - 2 * plain["z3"]))
    assert torch.equal(both["code"], plain["code"])
    one = sample(three_layers, 50, seed=3, batch_size=20, scales={"z3": 1.0, "z2": 1.0})
    assert all(torch.equal(one[name], value) for name, value in plain.items())
    assert all(torch.equal(sample(three_layers, 50, seed=3, batch_size=20)[n], v) for n, v in plain.items())  # put back


@pytest.mark.parametrize(
    "fn",
    [
        dist.Normal(LOC, 2.0),
        dist.Laplace(LOC, 2.0).to_event(1),
        dist.StudentT(3.0, LOC, 2.0).expand([4, 2]).to_event(1),
        dist.Cauchy(LOC, 2.0),
        dist.Gumbel(LOC, 2.0),
        dist.Logistic(LOC, torch.tensor(2.0)),
        dist.MultivariateNormal(LOC, torch.tensor([[2.0, 0.3], [0.3, 1.0]])),
        dist.Normal(LOC.expand(3, 2), 1.0).to_event(1).to_event(1),
        dist.Normal(LOC, 2.0).mask(torch.tensor([True, True])).to_event(1),
    ],
    ids=lambda fn: type(fn).__name__,
)
def test_every_family_with_location_and_scale(fn):
    narrow = scaled(fn, 0.3)
    assert (narrow.batch_shape, narrow.event_shape) == (fn.batch_shape, fn.event_shape)
    torch.manual_seed(1)
    wide_draw = fn.sample()
    torch.manual_seed(1)
    torch.testing.assert_close(narrow.sample() - LOC, 0.3 * (wide_draw - LOC))
    # the density is that of the scaled draw: p(mu + u) = p_wide(mu + u / s) / s^d
    value = LOC + torch.ones(fn.batch_shape + fn.event_shape)
    size = fn.event_shape.numel()
    expected = fn.log_prob(LOC + (value - LOC) / 0.3) - size * torch.tensor(0.3).log()
    torch.testing.assert_close(narrow.log_prob(value), expected)


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        ({"z4": 0.5}, "unknown latent site 'z4'.*Did you mean 'z[23]'.*Known: code, z2, z3"),
        ({"x": 0.5}, "unknown latent site 'x'.*Known: code, z2, z3"),
        ({"code": 0.5}, r"'code' \(Categorical\) has no location and scale"),
        ({"z3": 0.0}, "the factor of 'z3' must be a positive number, got 0"),
        ({"z2": -1.0}, "the factor of 'z2' must be a positive number"),
        ({"z2": float("nan")}, "the factor of 'z2' must be a positive number"),
        ({"z2": float("inf")}, "the factor of 'z2' must be a positive number"),
    ],
)
def test_what_cannot_be_scaled_is_refused(scales, words):
    with pytest.raises(InputError, match=words):
        sample(three_layers, 3, scales=scales)
    pyro.sample("z2", dist.Categorical(torch.ones(2)))  # no handler is left on


def test_distributions_that_only_look_like_it_are_refused():
    for fn in (dist.LogNormal(0.0, 1.0), dist.HalfNormal(1.0), dist.Uniform(0.0, 1.0), dist.Gamma(1.0, 1.0)):
        assert scaled(fn, 0.5) is None and scaled(fn.expand([2]).to_event(1), 0.5) is None
