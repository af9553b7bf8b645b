"""Logit-Laplace against torch's own transforms, quadrature, finite differences and its samples."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Laplace, SigmoidTransform, TransformedDistribution

from pyro_vae import likelihoods
from pyro_vae.distributions import LogitLaplace
from pyro_vae.distributions.logit_laplace import MAX_LOG_SCALE, MIN_LOG_SCALE, into_unit, out_of_unit
from pyro_vae.errors import InputError

LOC = torch.tensor([-3.0, -0.4, 0.0, 1.7, 9.0], dtype=torch.float64)
LOG_SCALE = torch.tensor([-1.0, 0.3, 0.0, -2.0, 0.9], dtype=torch.float64)


def test_it_is_torchs_transformed_laplace():
    x = torch.linspace(0.001, 0.999, 333, dtype=torch.float64).unsqueeze(1)
    ours = LogitLaplace(LOC, LOG_SCALE).log_prob(x)  # (333, 5)
    theirs = TransformedDistribution(Laplace(LOC, LOG_SCALE.exp()), SigmoidTransform()).log_prob(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_it_integrates_to_one():
    """Over x itself, with Gauss-Legendre rules between points that crowd at the ends and at the median."""
    nodes, weights = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(40))
    for loc, log_scale in zip(LOC.tolist(), LOG_SCALE.tolist(), strict=True):
        steps = torch.linspace(-34, 16, 400, dtype=torch.float64).sigmoid()
        edges = torch.cat([steps, torch.tensor([1 / (1 + math.exp(-loc))], dtype=torch.float64)]).sort().values
        half, centre = edges.diff() / 2, (edges[1:] + edges[:-1]) / 2
        x = centre[:, None] + half[:, None] * nodes
        f = LogitLaplace(*torch.tensor([loc, log_scale], dtype=torch.float64)).log_prob(x).exp()
        inside = ((f * weights).sum(1) * half).sum()
        beyond = 0.5 * sum(math.exp(-d / math.exp(log_scale)) for d in (34 + loc, 16 - loc))  # the Laplace's tails
        assert inside + beyond == pytest.approx(1, abs=1e-7)


def test_scales_count_within_their_bounds():
    x = torch.tensor(0.3)
    for given, counted in ((-50.0, MIN_LOG_SCALE), (50.0, MAX_LOG_SCALE)):
        a, b = (
            LogitLaplace(torch.tensor(0.1), torch.tensor(given)),
            LogitLaplace(torch.tensor(0.1), torch.tensor(counted)),
        )
        assert a.log_prob(x) == b.log_prob(x) and a.mean == b.mean and a.scale == b.scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends(dtype):
    """Finite values and gradients at 0 and 1, where the logit is infinite; and the limit from inside."""
    loc = torch.tensor([-2.0, 0.0, 5.0], dtype=dtype, requires_grad=True)
    log_scale = torch.tensor([0.5, -6.0, 2.0], dtype=dtype, requires_grad=True)
    for end in (0.0, 1.0):
        x = torch.full((3,), end, dtype=dtype, requires_grad=True)
        value = LogitLaplace(loc, log_scale).log_prob(x)
        gradients = torch.autograd.grad(value.sum(), [x, loc, log_scale])
        assert value.isfinite().all() and all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("x", [0.0, 1.0, 1 / 255, 254 / 255, 0.5])
def test_gradients_of_data_at_the_ends(x):
    """Of mu and ln b (by finite differences in float64), in float32, for the extreme grey levels."""
    likelihood = likelihoods.LogitLaplace(0.1)
    features = torch.tensor([0.7, -1.5, 3.0, -0.5, 0.2, 1.0], dtype=torch.float64)  # 3 mu, 3 ln b
    data = torch.full((3,), x, dtype=torch.float64)

    def value(f):
        return likelihood(f, 1).log_prob(data.to(f.dtype))

    step, expected = 1e-6, []
    for i in range(6):
        moved = torch.zeros(6, dtype=torch.float64)
        moved[i] = step
        expected.append((value(features + moved) - value(features - moved)) / (2 * step))
    single = features.float().requires_grad_()
    (gradient,) = torch.autograd.grad(value(single), single)
    torch.testing.assert_close(gradient.double(), torch.stack(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(value(single).double(), value(features), rtol=1e-6, atol=1e-6)


def test_the_density_of_data_is_the_change_of_variables():
    likelihood, torch_x = likelihoods.LogitLaplace(0.1), torch.linspace(0, 1, 256, dtype=torch.float64)
    features = torch.tensor([[0.3], [-0.8]], dtype=torch.float64)  # mu; ln b
    ours = likelihood(features.expand(2, 256).reshape(512), 1).log_prob(torch_x)
    base = Laplace(torch.tensor(0.3, dtype=torch.float64), math.exp(-0.8))
    back = torch.distributions.AffineTransform(-0.1 / 0.8, 1 / 0.8)
    theirs = TransformedDistribution(base, [SigmoidTransform(), back], validate_args=False).log_prob(torch_x).sum()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("log_scale", [-6.0, -1.0, 0.0, 0.7, 2.0, 6.0])
@pytest.mark.parametrize("loc", [-40.0, -9.0, -1.2, 0.0, 0.3, 5.0, 25.0])
def test_the_mean(loc, log_scale):
    """Against the mean over 2 million quantiles of the Laplace distribution."""
    u = (torch.arange(2_000_000, dtype=torch.float64) + 0.5) / 2_000_000
    t = torch.where(u < 0.5, (2 * u).log(), -(2 - 2 * u).log())
    expected = torch.sigmoid(loc + math.exp(log_scale) * t).mean()
    double = LogitLaplace(torch.tensor(loc).double(), torch.tensor(log_scale).double()).mean
    torch.testing.assert_close(double, expected, rtol=0, atol=2e-6)
    single = LogitLaplace(torch.tensor(loc), torch.tensor(log_scale)).mean
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=3e-6)


def test_samples_have_the_moments():
    torch.manual_seed(1)
    d = LogitLaplace(LOC, LOG_SCALE)
    x = d.sample((200_000,))
    assert x.shape == (200_000, 5) and ((x > 0) & (x < 1)).all()
    torch.testing.assert_close(x.mean(0), d.mean, rtol=0, atol=4 * 0.3 / math.sqrt(200_000))
    logit = x.logit()
    torch.testing.assert_close(logit.mean(0), LOC, rtol=0, atol=0.04)
    torch.testing.assert_close((logit - LOC).abs().mean(0), LOG_SCALE.exp(), rtol=0.01, atol=0)
    torch.testing.assert_close((x < d.median).double().mean(0), torch.full((5,), 0.5).double(), rtol=0, atol=0.005)


def test_single_precision_samples_stay_inside():
    torch.manual_seed(1)
    d = LogitLaplace(torch.tensor([-200.0, 200.0]), torch.tensor([3.0, 3.0]))
    x = d.sample((1000,))
    assert ((x > 0) & (x < 1)).all() and d.log_prob(x).isfinite().all()


def test_samples_are_reparameterized():
    """d x / d mu = x (1 - x), d x / d ln b = x (1 - x) (logit x - mu), with the noise held."""
    loc, log_scale = LOC[:4].clone().requires_grad_(), LOG_SCALE[:4].clone().requires_grad_()
    torch.manual_seed(2)
    x = LogitLaplace(loc, log_scale).rsample()
    by_loc, by_scale = torch.autograd.grad(x.sum(), [loc, log_scale])
    slope = (x * (1 - x)).detach()
    torch.testing.assert_close(by_loc, slope)
    torch.testing.assert_close(by_scale, slope * (x.logit() - LOC[:4]).detach())


def test_shapes_and_expansion():
    d = LogitLaplace(torch.zeros(3, 1), torch.zeros(4)).expand((2, 3, 4))
    assert d.batch_shape == (2, 3, 4) and d.event_shape == ()
    assert d.sample((5,)).shape == (5, 2, 3, 4) and d.mean.shape == d.mode.shape == (2, 3, 4)
    assert isinstance(d.to_event(2), dist.Independent) and d.to_event(2).log_prob(d.sample()).shape == (2,)


def test_the_map_and_its_inverse():
    x = torch.linspace(0, 1, 11)
    torch.testing.assert_close(into_unit(x, 0.1), torch.linspace(0.1, 0.9, 11))
    torch.testing.assert_close(out_of_unit(into_unit(x, 0.1), 0.1), x)


def test_what_is_shown():
    """phi^{-1}(sigma(mu)), in [0, 1] whatever mu."""
    d = likelihoods.LogitLaplace(0.1)(torch.tensor([-50.0, 0.0, 1.0, 50.0, *[0.0] * 4]), 1)
    expected = torch.tensor([0.0, 0.5, (1 / (1 + math.exp(-1)) - 0.1) / 0.8, 1.0])
    torch.testing.assert_close(d.mean, expected)
    assert torch.equal(d.mean, d.mode)


@pytest.mark.parametrize("epsilon", [-0.1, 0.5, math.nan])
def test_bad_margins(epsilon):
    with pytest.raises(InputError, match="epsilon must be at least 0 and less than 1/2"):
        likelihoods.LogitLaplace(epsilon)


def test_the_floor_and_the_ceiling_of_the_scale_are_where_they_are_said_to_be():
    """ln b counts as at least -6 and at most 6: in density, samples, scale and gradient."""
    x, loc = torch.tensor([0.2, 0.5, 0.50001, 0.9], dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    logit = x.logit()
    for given, counted in ((-6.5, -6.0), (-5.9, -5.9), (-20.0, -6.0), (6.5, 6.0), (5.9, 5.9)):
        log_scale = torch.tensor(given, dtype=torch.float64, requires_grad=True)
        distribution = LogitLaplace(loc, log_scale)
        b = math.exp(counted)
        by_hand = -(logit - loc).abs() / b - math.log(2 * b) - (x * (1 - x)).log()
        torch.testing.assert_close(distribution.log_prob(x).detach(), by_hand, rtol=1e-9, atol=1e-9)
        assert distribution.scale.item() == pytest.approx(b)
        distribution.log_prob(x).sum().backward()
        assert (log_scale.grad == 0) == (given != counted)
