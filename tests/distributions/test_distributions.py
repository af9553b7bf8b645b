"""The custom distributions against direct evaluation, enumeration and finite differences."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyro_vae.distributions import DiscretizedCategorical, DiscretizedLogisticMixture, GreyLevels


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def mixture(*batch, components=3, levels=256, dtype=torch.float64, spread=1.0):
    logits, loc, log_scale = torch.randn(3, *batch, components, dtype=dtype) * spread
    return DiscretizedLogisticMixture(logits, loc, log_scale - 2, levels)


def categorical(*batch, levels=256, dtype=torch.float64):
    return DiscretizedCategorical(torch.randn(*batch, levels, dtype=dtype))


BOTH = pytest.mark.parametrize("make", [mixture, categorical])


def grid(levels, dtype=torch.float64):
    return torch.arange(levels, dtype=dtype) / (levels - 1)


def table(d, levels):
    """Probabilities of all levels, ``(levels, *batch_shape)``."""
    return d.log_prob(grid(levels, d.mean.dtype).reshape(-1, *[1] * len(d.batch_shape))).exp()


def test_levels_accept_their_own_and_no_others():
    good = torch.tensor([0.0, 1.0, 17 / 255])
    bad = torch.tensor([17.5 / 255, 17.02 / 255, -1 / 255, 256 / 255, 300.0, math.nan, math.inf])
    assert GreyLevels(256).check(good).all() and not GreyLevels(256).check(bad).any()
    bytes_as_floats = torch.arange(256, dtype=torch.uint8) / 255
    assert GreyLevels(256).check(bytes_as_floats).all()
    assert GreyLevels(256).check((bytes_as_floats - 0.5) * 2 / 2 + 0.5).all()  # rounding errors are forgiven
    assert not GreyLevels(2).check(bytes_as_floats[1:-1]).any()


@BOTH
@pytest.mark.parametrize("levels", [2, 5, 256])
def test_probabilities_sum_to_one(make, levels):
    d = make(40, levels=levels)
    total = table(d, levels).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@pytest.mark.parametrize("log_scale", [-30.0, -7.0, -4.0, 0.0, 5.0])
def test_mixture_sums_to_one_in_float32_at_any_scale(log_scale):
    loc = torch.tensor([-5.0, -1.0, -0.3, 0.0, 1 / 255, 1.0, 4.0]).unsqueeze(-1)
    d = DiscretizedLogisticMixture(torch.zeros(7, 1), loc, torch.full((7, 1), log_scale))
    torch.testing.assert_close(table(d, 256).sum(0), torch.ones(7), rtol=0, atol=2e-4)


@BOTH
def test_moments_and_mode_against_enumeration(make):
    for levels in (2, 7, 256):
        d = make(6, 2, levels=levels)
        p, x = table(d, levels), grid(levels)
        torch.testing.assert_close(d.mean, torch.einsum("kab,k->ab", p, x))
        torch.testing.assert_close(d.mode, x[p.argmax(0)])
        if isinstance(d, DiscretizedCategorical):
            second = torch.einsum("kab,k->ab", p, x**2)
            torch.testing.assert_close(d.variance, second - d.mean**2)


def direct(d, value):
    """The textbook formula, in float64: good where no bin's mass is lost to cancellation."""
    h, u = 1 / (d.num_levels - 1), (2 * value.double() - 1).unsqueeze(-1)
    s = d.log_scale.double().clamp(min=-7).exp()
    upper, lower = torch.sigmoid((u + h - d.loc.double()) / s), torch.sigmoid((u - h - d.loc.double()) / s)
    upper = torch.where(u > 1 - h, torch.ones_like(upper), upper)
    lower = torch.where(u < h - 1, torch.zeros_like(lower), lower)
    return ((upper - lower) * d.logits.double().softmax(-1)).sum(-1).log()


def test_float32_mixture_against_the_formula_in_float64():
    d = mixture(500, dtype=torch.float32)
    value = grid(256, torch.float32)[torch.randint(256, (500,))]
    expected = direct(d, value)
    good = expected > -25  # elsewhere the formula itself has no digits left
    assert good.sum() > 300
    torch.testing.assert_close(d.log_prob(value).double()[good], expected[good], rtol=1e-4, atol=1e-4)


def test_tiny_masses_keep_their_digits_in_float32():
    """Far in a tail, log p -> log of the tail mass: -(distance/s) + log(1 - exp(-2h/s)), in closed form."""
    s, h = 0.01, 1 / 255
    d = DiscretizedLogisticMixture(torch.zeros(1), torch.tensor([-0.8]), torch.tensor([math.log(s)]))
    x = 250 / 255  # the lower edge is 176 s away: e^-176 is no float32
    distance = (2 * x - 1 - h + 0.8) / s
    expected = -distance + math.log1p(-math.exp(-2 * h / s))
    value = torch.tensor(x)
    assert d.log_prob(value).item() == pytest.approx(expected, rel=1e-5)
    mirrored = DiscretizedLogisticMixture(torch.zeros(1), torch.tensor([0.8]), d.log_scale)
    assert mirrored.log_prob(torch.tensor(5 / 255)).item() == pytest.approx(expected, rel=1e-5)
    loc = torch.tensor([-0.8], requires_grad=True)
    lost = DiscretizedLogisticMixture(torch.zeros(1), loc, d.log_scale).log_prob(value)
    (slope,) = torch.autograd.grad(lost, loc)
    assert slope.item() == pytest.approx(1 / s, rel=1e-4)  # and the gradient still points to the data


def test_extreme_features_stay_finite():
    features = torch.tensor([-80.0, -10.0, 0.0, 10.0, 30.0])
    loc, log_scale = torch.meshgrid(features, features, indexing="ij")
    loc, log_scale = loc.clone().requires_grad_(), log_scale.clone().requires_grad_()
    d = DiscretizedLogisticMixture(torch.zeros(5, 5, 1), loc[..., None], log_scale[..., None])
    log_prob = d.log_prob(grid(256, torch.float32).reshape(-1, 1, 1))
    gradients = torch.autograd.grad(log_prob.sum(), [loc, log_scale])
    assert log_prob.isfinite().all() and (log_prob <= 1e-6).all()
    assert all(g.isfinite().all() for g in gradients)


def test_log_scale_is_clamped():
    zero = torch.zeros(1)
    at, below = (DiscretizedLogisticMixture(zero, zero, torch.tensor([v])) for v in (-7.0, -20.0))
    torch.testing.assert_close(table(at, 256), table(below, 256))


def test_gradients_against_finite_differences():
    value = grid(256)[torch.tensor([0, 1, 100, 254, 255])]
    arguments = [a.clone().requires_grad_() for a in torch.randn(3, 5, 3, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda a, b, c: DiscretizedLogisticMixture(a, b, c - 2).log_prob(value), arguments)
    logits = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    levels = grid(6)[[0, 1, 3, 4, 5]]
    assert torch.autograd.gradcheck(lambda a: DiscretizedCategorical(a).log_prob(levels), logits)


@BOTH
@pytest.mark.parametrize("batch", [(), (4,), (2, 4)])
@pytest.mark.parametrize("extra", [(), (3,), (3, 1)])
def test_shapes_and_broadcasting_as_element_by_element(make, batch, extra):
    d = make(*batch, levels=5)
    assert d.batch_shape == batch and d.event_shape == ()
    x = grid(5)[torch.randint(5, (*extra, *batch))]
    log_prob = d.log_prob(x)
    assert log_prob.shape == torch.broadcast_shapes(x.shape, batch)
    probabilities = table(d, 5).movedim(0, -1).expand(*log_prob.shape, 5)  # (..., 5)
    index = (x * 4).round().long().expand(log_prob.shape).unsqueeze(-1)
    torch.testing.assert_close(log_prob, probabilities.gather(-1, index).squeeze(-1).log())
    assert d.sample(extra).shape == (*extra, *batch)


@BOTH
def test_sample_frequencies(make):
    d = make(2, levels=6)
    x = d.sample((20_000,))
    assert d.support.check(x).all()
    counted = torch.stack([(x - level).abs().lt(1e-6).double().mean(0) for level in grid(6)])
    p = table(d, 6)
    assert ((counted - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt() + 1e-4).all()


def test_mixture_samples_at_256_levels():
    d = mixture(3)
    x = d.sample((20_000,))
    assert d.support.check(x).all()
    p = table(d, 256)
    deviation = (torch.einsum("ka,k->a", p, grid(256) ** 2) - d.mean**2).sqrt()
    assert ((x.mean(0) - d.mean).abs() < 5 * deviation / math.sqrt(20_000)).all()


@BOTH
def test_expand_is_the_same_distribution(make):
    d = make(1, 4, levels=5)
    e = d.expand((3, 2, 4))
    assert type(e) is type(d) and e.batch_shape == (3, 2, 4)
    x = grid(5)[torch.randint(5, (3, 2, 4))]
    torch.testing.assert_close(e.log_prob(x), d.log_prob(x))
    assert e.sample().shape == (3, 2, 4)
    assert len(e.sample().unique()) > 1
    assert e.to_event(2).log_prob(x).shape == (3,)


@BOTH
def test_values_off_the_levels_are_refused(make):
    d = make(3, levels=5)
    for bad in (0.3, 1.25, -0.25, math.nan):
        assert not d.support.check(torch.tensor(bad))
        with pytest.raises(ValueError, match="within the support"):
            d.log_prob(torch.tensor(bad))


@BOTH
def test_in_pyro(make):
    d = make(4, 2, levels=5).to_event(1)

    def model(x=None):
        with pyro.plate("particles", 3, dim=-2), pyro.plate("data", 4, dim=-1):
            return pyro.sample("x", d, obs=x)

    assert model().shape == (3, 4, 2)
    x = d.sample()
    trace = pyro.poutine.trace(model).get_trace(x)
    torch.testing.assert_close(trace.log_prob_sum(), 3 * d.log_prob(x).sum())
    assert isinstance(d.base_dist, dist.TorchDistribution) and not d.has_rsample
    assert constraints.is_dependent(type(d.base_dist).support)
