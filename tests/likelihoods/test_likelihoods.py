"""Every likelihood keeps the same promises: shapes, normalization, support, mean, plates."""

import math

import pyro
import pytest
import torch
from torch.nn.functional import logsigmoid

from pyro_vae import likelihoods
from pyro_vae.errors import InputError
from pyro_vae.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Gaussian,
    Laplace,
    LogitLaplace,
)
from pyro_vae.likelihoods.bernoulli import log_sigmoid

GREY = torch.arange(256) / 255
CASES = {
    "bernoulli": Bernoulli,
    "gaussian fixed": lambda: Gaussian(0.3),
    "gaussian learned": lambda: Gaussian("learned"),
    "gaussian per pixel": lambda: Gaussian("per_pixel"),
    "laplace fixed": lambda: Laplace(2),
    "laplace learned": lambda: Laplace("learned"),
    "laplace per pixel": lambda: Laplace("per_pixel"),
    "logit-laplace": LogitLaplace,
    "logit-laplace, narrow margin": lambda: LogitLaplace(0.02),
    "categorical 256": Categorical,
    "categorical 5": lambda: Categorical(5),
    "mixture of 1": lambda: DiscretizedLogisticMixture(1),
    "mixture of 10": DiscretizedLogisticMixture,
    "mixture of 2, 16 levels": lambda: DiscretizedLogisticMixture(2, 16),
}
PARAMETERS = {name: count for name, count in zip(CASES, (1, 1, 1, 2, 1, 1, 2, 2, 2, 256, 5, 3, 30, 6), strict=True)}
every = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def outcomes(likelihood):
    """All values of one element that a discrete likelihood knows."""
    levels = 2 if isinstance(likelihood, Bernoulli) else likelihood.num_levels
    return torch.arange(levels) / (levels - 1)


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, -1e30), (torch.float64, -1e300)])
def test_the_log_of_the_sigmoid_is_right_to_rounding_everywhere(dtype, least):
    """As torch's log1p gives it in float64, and its derivative 1 - sigmoid, also where a sigmoid is 0 or 1."""
    t = torch.cat([torch.linspace(-200, 200, 40_001, dtype=dtype), torch.tensor([least, -least, 0.0], dtype=dtype)])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(log_sigmoid(t).double(), logsigmoid(t.double()), rtol=4 * eps, atol=4 * eps)
    t.requires_grad_()
    found = log_sigmoid(t)
    torch.testing.assert_close(found.double(), logsigmoid(t.double()), rtol=4 * eps, atol=4 * eps)
    (slope,) = torch.autograd.grad(found.sum(), t)
    torch.testing.assert_close(slope.double(), (-t).double().sigmoid(), rtol=4 * eps, atol=4 * eps)
    ends = log_sigmoid(torch.tensor([-torch.inf, torch.inf, torch.nan], dtype=dtype))
    assert ends[0] == -torch.inf and ends[1] == 0 and ends[2].isnan()


@every
@pytest.mark.parametrize("leading", [(), (3,), (5, 3)])
@pytest.mark.parametrize("shape", [(2, 4, 3), (6,)])
def test_shapes(name, leading, shape):
    likelihood = CASES[name]()
    count = likelihood.num_parameters
    assert count == PARAMETERS[name]
    d = likelihood(torch.randn(*leading, count * shape[0], *shape[1:]), event_dim=len(shape))
    assert d.batch_shape == leading
    assert d.event_shape == shape
    assert d.mean.shape == d.mode.shape == (*leading, *shape)
    x = d.sample()
    assert x.shape == (*leading, *shape)
    assert d.log_prob(x).shape == leading
    assert likelihood.support.check(x).all()
    assert d.support.check(x).all()
    assert likelihood.support.check(d.mode).all()
    assert d.has_rsample == isinstance(likelihood, Gaussian | Laplace | LogitLaplace)


@every
def test_features_are_read_parameter_by_parameter(name):
    """Channel c, row i of the datum is governed by features[..., p * C + c, i] for p < P, and by no others."""
    likelihood = CASES[name]()
    count = likelihood.num_parameters
    features = torch.randn(count * 3, 2, 2)
    x = likelihood(features).sample()
    whole = likelihood(features).base_dist.log_prob(x)  # (3, 2, 2)
    for channel in range(3):
        mine = features[channel::3, 1, 0].reshape(count, 1, 1)
        alone = likelihood(mine).log_prob(x[channel, 1, 0].reshape(1, 1, 1))
        torch.testing.assert_close(alone, whole[channel, 1, 0])


@every
def test_it_is_normalized(name):
    likelihood = CASES[name]().double()
    features = torch.randn(8, likelihood.num_parameters, dtype=torch.float64)
    d = likelihood(features, event_dim=1)
    if isinstance(likelihood, Gaussian | Laplace):
        x = torch.linspace(-60, 60, 1_200_001, dtype=torch.float64).reshape(-1, 1, 1)
        total = d.log_prob(x).exp().sum(0) * 1e-4
        atol = 1e-5
    elif isinstance(likelihood, LogitLaplace):
        margin = likelihood.epsilon / (1 - 2 * likelihood.epsilon)
        d = likelihood(features / 4, event_dim=1)  # of scales that leave nothing beyond the grid
        logit = torch.linspace(-30, 30, 400_001, dtype=torch.float64)  # f has steep ends: x is not taken evenly
        x = (1 + 2 * margin) * logit.sigmoid() - margin
        slope = (1 + 2 * margin) * logit.sigmoid() * (-logit).sigmoid()
        density = d.log_prob(x.reshape(-1, 1, 1)).exp()
        total = (density * slope[:, None]).sum(0) * 60 / 400_000
        atol = 1e-5
    else:
        total = d.log_prob(outcomes(likelihood).double().reshape(-1, 1, 1)).exp().sum(0)
        atol = 1e-6
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=atol)


@every
def test_the_initial_bias_has_the_mean(name):
    likelihood = CASES[name]()
    mean = torch.tensor([0.03, 0.1306, 0.5, 0.9, 0.2, 0.7]).reshape(3, 2, 1)
    bias = likelihood.initial_bias(mean)
    assert bias.shape == (3 * likelihood.num_parameters, 2, 1)
    d = likelihood(bias)
    torch.testing.assert_close(d.mean, mean, rtol=0, atol=0.002 if likelihood.support.is_discrete else 1e-6)


@every
def test_the_initial_bias_of_constant_pixels_stays_finite(name):
    likelihood = CASES[name]()
    mean = torch.tensor([0.0, 1.0]).reshape(1, 2, 1)
    d = likelihood(likelihood.initial_bias(mean))
    torch.testing.assert_close(d.mean, mean, rtol=0, atol=0.06)
    surprise = d.log_prob(1 - mean.round())
    assert -500 < surprise / 2 < 0  # a pixel that breaks the habit costs nats, not infinity


@every
def test_the_support_refuses_what_has_no_probability(name):
    likelihood = CASES[name]()
    d = likelihood(torch.zeros(likelihood.num_parameters, 2, 1))
    bad = [math.nan]
    if likelihood.support.is_discrete:
        bad += [-1.0, 0.3, 1.1, 255.0]
    for value in bad:
        x = torch.tensor([1.0, value]).reshape(1, 2, 1)
        assert likelihood.support.check(x).flatten().tolist() == [True, False]
        assert not d.support.check(x)
        with pytest.raises(ValueError, match="within the support"):
            d.log_prob(x)


def test_grey_data_are_not_binary():
    d = Bernoulli()(torch.zeros(5, 1, 16, 16))
    grey = GREY.reshape(1, 16, 16).expand(5, 1, 16, 16)
    assert not d.support.check(grey).any()
    assert d.support.check((grey > 0.5).float()).all()
    assert Categorical()(torch.zeros(5, 256, 16, 16)).support.check(grey).all()
    assert DiscretizedLogisticMixture()(torch.zeros(5, 30, 16, 16)).support.check(grey).all()


@every
def test_under_a_plate_of_particles(name):
    likelihood = CASES[name]()
    features = torch.randn(3, likelihood.num_parameters * 2, 2, 2)

    def model(x=None):
        with pyro.plate("particles", 4, dim=-2), pyro.plate("data", 3, dim=-1):
            return pyro.sample("x", likelihood(features), obs=x)

    drawn = model()
    assert drawn.shape == (4, 3, 2, 2, 2)
    assert not torch.equal(drawn[0], drawn[1])
    x = drawn[0]
    trace = pyro.poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    site = trace.nodes["x"]
    assert site["log_prob"].shape == (4, 3)
    torch.testing.assert_close(site["log_prob"], likelihood(features).log_prob(x).expand(4, 3))


@every
def test_gradients_reach_features_and_parameters(name):
    likelihood = CASES[name]()
    features = torch.randn(likelihood.num_parameters, 2, 2, requires_grad=True)
    d = likelihood(features)
    gradients = torch.autograd.grad(d.log_prob(d.sample()), [features, *likelihood.parameters()])
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)


@every
def test_half_precision_features_are_summed_in_single(name):
    likelihood = CASES[name]()
    features = torch.randn(likelihood.num_parameters, 8, 8).bfloat16()
    d, exact = likelihood(features), likelihood(features.float())
    x = exact.mode
    assert d.log_prob(x).dtype == torch.float32
    torch.testing.assert_close(d.log_prob(x), exact.log_prob(x))


@every
def test_it_can_be_recorded(name):
    likelihood = CASES[name]()

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.likelihood = likelihood

        def forward(self, features, x):
            return self.likelihood(features).log_prob(x)

    features = torch.randn(2, likelihood.num_parameters, 2, 2)
    x = likelihood(features).sample()
    with pyro.validation_enabled(False):
        recorded = torch.export.export(Loss(), (features, x), strict=False).module()
        torch.testing.assert_close(recorded(features, x), likelihood(features).log_prob(x))


def test_closed_forms():
    x, mu = torch.tensor([[[0.25]]]), torch.tensor([[[1.0]]])
    gaussian = -(0.75**2) / (2 * 0.5**2) - math.log(0.5) - 0.5 * math.log(2 * math.pi)
    assert Gaussian(0.5)(mu).log_prob(x).item() == pytest.approx(gaussian, rel=1e-6)
    assert Laplace(0.5)(mu).log_prob(x).item() == pytest.approx(-1.5 - math.log(1.0), rel=1e-6)
    logit = torch.tensor([[[-200.0]]])
    assert Bernoulli()(logit).log_prob(torch.ones(1, 1, 1)).item() == -200  # log p, where p is no float32
    assert Bernoulli()(logit * 0).mode.item() == 1  # torch's own is NaN


@pytest.mark.parametrize("kind", [Gaussian, Laplace])
def test_scales(kind):
    fixed, learned, per_pixel = kind(0.25), kind("learned"), kind("per_pixel", min_scale=0.01)
    zeros = torch.zeros(1, 2, 2)
    assert fixed(zeros).base_dist.scale.unique().tolist() == [0.25]
    assert not list(fixed.parameters()) and len(list(learned.parameters())) == 1
    torch.testing.assert_close(learned(zeros).base_dist.scale, torch.ones(1, 2, 2))
    start = per_pixel(per_pixel.initial_bias(zeros))
    torch.testing.assert_close(start.base_dist.scale, torch.ones(1, 2, 2))
    raw = torch.tensor([-1e4, 0.0, 3.0, 50.0]).reshape(1, 2, 2)
    scale = per_pixel(torch.cat([zeros, raw])).base_dist.scale.flatten()
    expected = [0.01, 0.01 + math.log(2), 0.01 + math.log1p(math.exp(3)), 50.01]
    torch.testing.assert_close(scale, torch.tensor(expected))


def test_a_learned_scale_is_learned():
    likelihood = Gaussian("learned")
    x = 0.2 * torch.randn(500, 1, 4, 4)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (-likelihood(torch.zeros(1, 4, 4)).log_prob(x).mean()).backward()
        optimizer.step()
    found = likelihood(torch.zeros(1, 1, 1)).base_dist.scale.item()
    assert found == pytest.approx(x.square().mean().sqrt().item(), rel=0.01)


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match=r"unknown scale 'per_pixl'\. Did you mean 'per_pixel'"):
        Gaussian("per_pixl")
    with pytest.raises(InputError, match="scale: must be a positive number"):
        Laplace(0.0)
    with pytest.raises(InputError, match="scale: must be a positive number"):
        Gaussian(math.nan)
    with pytest.raises(InputError, match="min_scale: must be between 0 and 1"):
        Gaussian("learned", min_scale=0.0)
    with pytest.raises(InputError, match="num_levels"):
        Categorical(1)
    with pytest.raises(InputError, match="num_components"):
        DiscretizedLogisticMixture(0)
    with pytest.raises(InputError, match=r"needs 30 features per channel.*gave 31"):
        DiscretizedLogisticMixture()(torch.zeros(2, 31, 4, 4))
    with pytest.raises(InputError, match="event_dim"):
        Bernoulli()(torch.zeros(4), event_dim=3)


def test_every_public_name_exists():
    assert all(hasattr(likelihoods, name) for name in likelihoods.__all__)
