"""Likelihoods of counts, classes, bounded numbers, bags of words and tables, against hand-written formulas."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.distributions import BagOfWords
from pyro_vae.errors import InputError
from pyro_vae.likelihoods import (
    Bernoulli,
    Beta,
    ClassLabels,
    ContinuousBernoulli,
    Gaussian,
    Laplace,
    Mixed,
    Multinomial,
    NegativeBinomial,
    ZeroInflated,
)

TABLE = {
    "real": lambda: Gaussian("per_pixel"),
    "class": lambda: ClassLabels(3),
    "count": lambda: NegativeBinomial("per_pixel"),
    "zeros": lambda: ZeroInflated(NegativeBinomial(0.5)),
    "bounded": Beta,
    "binary": Bernoulli,
}
CASES = {
    "negative binomial fixed": lambda: NegativeBinomial(0.5),
    "negative binomial learned": NegativeBinomial,
    "negative binomial per element": lambda: NegativeBinomial("per_pixel"),
    "zero inflated": ZeroInflated,
    "zero inflated per element": lambda: ZeroInflated(NegativeBinomial("per_pixel")),
    "multinomial": lambda: Multinomial(7),
    "classes": lambda: ClassLabels(5),
    "beta": Beta,
    "continuous Bernoulli": ContinuousBernoulli,
    "mixed": lambda: Mixed({name: make() for name, make in TABLE.items()}),
}
every = pytest.mark.parametrize("name", CASES)
SIZE = len(TABLE)  # numbers of a datum


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@every
@pytest.mark.parametrize("leading", [(), (3,), (5, 3)])
def test_shapes_and_support(name, leading):
    likelihood = CASES[name]()
    d = likelihood(torch.randn(*leading, *likelihood.feature_shape((SIZE,))), event_dim=1)
    assert d.batch_shape == leading and d.event_shape == (SIZE,)
    x = d.sample((50,))
    assert x.shape == (50, *leading, SIZE) and d.log_prob(x).shape == (50, *leading)
    assert likelihood.support.check(x).all() and d.support.check(x).all() and d.log_prob(x).isfinite().all()
    wide = d.expand((4, *leading))
    torch.testing.assert_close(wide.log_prob(x[:4]), d.log_prob(x[:4]))
    assert wide.sample().shape == (4, *leading, SIZE)


@every
def test_means_are_those_of_draws(name):
    likelihood = CASES[name]()
    d = likelihood(0.5 * torch.randn(likelihood.feature_shape((SIZE,))), event_dim=1)
    drawn = d.sample((100_000,)).double()
    if name == "classes":
        return  # names have no mean
    error = drawn.std(0) / len(drawn) ** 0.5
    apart = (d.mean.double() - drawn.mean(0)).abs() / error.clamp(min=1e-9)
    if name == "mixed":
        column = list(TABLE).index("class")
        assert d.mean[column] == drawn[:, column].mode().values  # the likeliest
        apart[column] = 0
    assert apart.max() < 4.5


@every
def test_gradients_reach_features_and_parameters(name):
    likelihood = CASES[name]()
    features = torch.randn(likelihood.feature_shape((SIZE,)), requires_grad=True)
    d = likelihood(features, event_dim=1)
    gradients = torch.autograd.grad(d.log_prob(d.sample()), [features, *likelihood.parameters()])
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)


@every
def test_half_precision_features_are_summed_in_single(name):
    likelihood = CASES[name]()
    features = torch.randn(likelihood.feature_shape((SIZE,))).bfloat16()
    exact = likelihood(features.float(), event_dim=1)
    x = exact.sample()
    torch.testing.assert_close(likelihood(features, event_dim=1).log_prob(x), exact.log_prob(x))


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("classes", "mixed", "multinomial")])
def test_the_initial_bias_has_the_mean(name):
    likelihood = CASES[name]()
    mean = torch.tensor([0.03, 0.13, 0.5, 0.9, 0.2, 0.7])
    d = likelihood(likelihood.initial_bias(mean), event_dim=1)
    torch.testing.assert_close(d.mean, mean, rtol=0, atol=1e-4)


# ------------------------------------------------------------------ formulas
def log_of_counts(x, mean, a):
    """log p of one count under the negative binomial, by products: its rate is gamma distributed."""
    r = 1 / a
    ways = math.prod((r + k) / (k + 1) for k in range(int(x)))  # Gamma(x + r) / (x! Gamma(r))
    return math.log(ways) + r * math.log(r / (r + mean)) + x * math.log(mean / (r + mean))


def test_negative_binomial():
    mean, a = torch.rand(200).double() * 30 + 0.1, torch.rand(200).double() + 0.05
    x = torch.randint(0, 60, (200,)).double()
    expected = torch.tensor(
        [log_of_counts(*each) for each in zip(x.tolist(), mean.tolist(), a.tolist(), strict=True)], dtype=torch.float64
    )
    likelihood = NegativeBinomial("per_pixel")
    raw = (a - likelihood.min_overdispersion).expm1().log()
    found = likelihood(torch.cat([mean.log(), raw]), 1).base_dist
    torch.testing.assert_close(found.log_prob(x), expected, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.variance, mean + a * mean.square())


def test_a_library_size_shares_its_counts_out():
    logits, library = torch.randn(4, 6), torch.tensor([10.0, 100.0, 1000.0, 5.0])
    for likelihood in (NegativeBinomial(0.2), ZeroInflated(NegativeBinomial(0.2))):
        features = torch.cat([logits, torch.full_like(logits, -100.0)], 1)[:, : 6 * likelihood.num_parameters]
        found = likelihood(features, 1, library=library).base_dist.mean
        torch.testing.assert_close(found, library[:, None] * logits.softmax(1))
        torch.testing.assert_close(found.sum(1), library)


def test_zero_inflated():
    mean, logit = torch.rand(50).double() * 5, torch.randn(50).double()
    x = torch.randint(0, 4, (50,)).double()
    d = ZeroInflated(NegativeBinomial(0.5))(torch.cat([mean.log(), logit]), 1).base_dist
    each = zip(x.tolist(), mean.tolist(), strict=True)
    counts = torch.tensor([log_of_counts(*pair, 0.5) for pair in each], dtype=torch.float64).exp()
    g = logit.sigmoid()
    torch.testing.assert_close(d.log_prob(x), (g * (x == 0) + (1 - g) * counts).log(), atol=1e-8, rtol=1e-8)


def test_multinomial_with_totals_of_their_own():
    logits = torch.randn(5, 4).double()
    x = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [2, 3, 0, 1], [10, 20, 0, 5], [0, 0, 7, 0]]).double()
    d = Multinomial()(logits, 1)
    for i in range(5):
        counts = [int(c) for c in x[i]]
        ways = math.factorial(sum(counts)) / math.prod(map(math.factorial, counts))
        expected = math.log(ways) + sum(c * math.log(p) for c, p in zip(counts, logits[i].softmax(0), strict=True))
        assert d.log_prob(x)[i].item() == pytest.approx(expected, abs=1e-8)
    every_x = [x for x in itertools.product(range(8), repeat=4) if sum(x) == 7]
    total = d.expand((len(every_x), 5)).log_prob(torch.tensor(every_x).double()[:, None]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(5, dtype=torch.float64))
    assert (BagOfWords(logits, 9).sample((20,)).sum(-1) == 9).all()
    torch.testing.assert_close(
        BagOfWords(logits, 9).sample((40_000,)).var(0), BagOfWords(logits, 9).variance, rtol=0.1, atol=0.02
    )


def test_beta_and_continuous_bernoulli():
    x = torch.rand(50).double() * 0.98 + 0.01
    logit, raw = torch.randn(50).double(), torch.randn(50).double()
    c = 0.01 + raw.exp().log1p()
    a, b = (c * logit.sigmoid()).tolist(), (c * (-logit).sigmoid()).tolist()
    constants = [math.lgamma(i + j) - math.lgamma(i) - math.lgamma(j) for i, j in zip(a, b, strict=True)]
    a, b, constants = (torch.tensor(t, dtype=torch.float64) for t in (a, b, constants))
    found = Beta()(torch.cat([logit, raw]), 1).base_dist.log_prob(x)
    expected = (a - 1) * x.log() + (b - 1) * (1 - x).log() + constants
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-8)
    p = (3 * logit).sigmoid()
    constant = 2 * torch.atanh(1 - 2 * p) / (1 - 2 * p)
    expected = constant.log() + x * p.log() + (1 - x) * (1 - p).log()
    found = ContinuousBernoulli()(3 * logit, 1).base_dist.log_prob(x)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


# ------------------------------------------------------------------ normalization
@pytest.mark.parametrize("name", ["negative binomial fixed", "zero inflated per element", "classes"])
def test_probabilities_add_up_to_one(name):
    likelihood = CASES[name]().double()
    d = likelihood(torch.randn(likelihood.num_parameters, 8).double().flatten(), 1).base_dist
    values = torch.arange(5 if name == "classes" else 3000).double()
    total = d.log_prob(values[:, None]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(8, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["beta", "continuous Bernoulli"])
def test_densities_integrate_to_one(name):
    likelihood = CASES[name]().double()
    features = torch.randn(likelihood.num_parameters * 8).double()
    features[8:] += 3  # concentrations that leave nothing nearer to the ends than numbers can be
    d = likelihood(features, 1).base_dist
    logit = torch.linspace(-300, 300, 400_001).double()  # ends of a beta are steep
    x = logit.sigmoid().clamp(torch.finfo(torch.float64).tiny, 1 - 1e-16)
    slope = logit.sigmoid() * (-logit).sigmoid()
    total = torch.trapezoid(d.log_prob(x[:, None]).exp() * slope[:, None], logit, dim=0)
    torch.testing.assert_close(total, torch.ones(8, dtype=torch.float64), atol=1e-4, rtol=0)


def test_the_continuous_bernoulli_of_large_and_small_logits():
    """Its density integrates to one, and its mean is right, where probabilities are no float32."""
    logits = torch.tensor([-200.0, -33.0, -3.0, -0.11, -0.09, -1e-4, 0.0, 0.09, 0.11, 17.0, 500.0]).double()
    x = torch.linspace(0, 1, 1_000_001).double()[:, None]
    for dtype, atol in ((torch.float64, 1e-7), (torch.float32, 1e-5)):
        d = ContinuousBernoulli()(logits.to(dtype), 1).base_dist
        density = d.log_prob(x.to(dtype)).double().exp()
        total, mean = (torch.trapezoid(y, x, dim=0) for y in (density, density * x))
        torch.testing.assert_close(total, torch.ones_like(total), atol=10 * atol, rtol=0)
        torch.testing.assert_close(d.mean.double(), mean, atol=10 * atol, rtol=0)
    drawn = d.sample((200_000,)).double()
    apart = (drawn.mean(0) - mean).abs() / (drawn.std(0) / len(drawn) ** 0.5)
    assert apart.max() < 4


# ------------------------------------------------------------------ tables
def test_a_row_is_the_sum_of_its_columns():
    likelihood = CASES["mixed"]()
    features = torch.randn(9, *likelihood.feature_shape((SIZE,)))
    d = likelihood(features, 1)
    x = d.sample()
    places = [0, *itertools.accumulate(make().num_parameters for make in TABLE.values())]
    parts = [
        make()(features[:, a:b], 1).log_prob(x[:, i : i + 1])
        for i, (make, (a, b)) in enumerate(zip(TABLE.values(), itertools.pairwise(places), strict=True))
    ]
    torch.testing.assert_close(d.log_prob(x), torch.stack(parts).sum(0))


def test_a_row_starts_where_its_columns_do():
    likelihood = Mixed({"a": Gaussian(1.0), "b": ClassLabels(3), "c": NegativeBinomial(0.5)})
    bias = likelihood.initial_bias(torch.tensor([0.7, 1.1, 4.0]))
    torch.testing.assert_close(bias, torch.tensor([0.7, 0.0, 0.0, 0.0, math.log(4.0)]))


def test_what_a_column_has_not_is_refused():
    d = CASES["mixed"]()(torch.zeros(CASES["mixed"]().feature_shape((SIZE,))), 1)
    good = torch.tensor([0.3, 2.0, 7.0, 0.0, 0.5, 1.0])
    assert d.support.check(good)
    for column, value in enumerate((math.nan, 3.0, 0.5, -1.0, 1.0, 0.5)):
        x = good.clone()
        x[column] = value
        assert not d.support.check(x)
        with pytest.raises(ValueError, match="within the support"):
            d.log_prob(x)


def test_masked_entries_do_not_count():
    likelihood = Mixed({"a": Gaussian(1.0), "b": ClassLabels(3)})
    features, mask = torch.randn(4, 4), torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]]).bool()
    x = torch.tensor([[0.1, 2.0], [0.2, 0.0], [0.0, 1.0], [0.0, 0.0]])
    found = likelihood(features, 1).base_dist.mask(mask).to_event(1).log_prob(x)
    real = dist.Normal(features[:, 0], 1.0).log_prob(x[:, 0])
    of_class = dist.Categorical(logits=features[:, 1:]).log_prob(x[:, 1])
    torch.testing.assert_close(found, mask[:, 0] * real + mask[:, 1] * of_class)


def test_kinds():
    assert not Mixed({"a": ClassLabels(2), "b": Laplace()})(torch.zeros(3), 1).support.base_constraint.is_discrete
    assert Mixed({"a": ClassLabels(2), "b": NegativeBinomial()})(torch.zeros(3), 1).support.base_constraint.is_discrete


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match="overdispersion: must be a positive number"):
        NegativeBinomial(0.0)
    with pytest.raises(InputError, match=r"unknown overdispersion 'lerned'\. Did you mean 'learned'"):
        NegativeBinomial("lerned")
    with pytest.raises(InputError, match="min_overdispersion"):
        NegativeBinomial(min_overdispersion=2.0)
    with pytest.raises(InputError, match=r"zeros are added to a likelihood of counts .*, not to Gaussian"):
        ZeroInflated(Gaussian())
    with pytest.raises(InputError, match="num_classes: labels need at least 2"):
        ClassLabels(1)
    with pytest.raises(InputError, match="total_count must be a positive integer"):
        Multinomial(0)
    with pytest.raises(InputError, match="event_dim 1, got 3"):
        Multinomial()(torch.zeros(3, 4, 5), 3)
    with pytest.raises(InputError, match="a table needs at least one column"):
        Mixed({})
    with pytest.raises(InputError, match="'words' is Multinomial, which is of several numbers together"):
        Mixed({"words": Multinomial()})
    with pytest.raises(InputError, match=r"the likelihood has 1 \(a\), the data have shape \(2,\)"):
        Mixed({"a": Gaussian()}).feature_shape((2,))
    with pytest.raises(InputError, match="Mixed needs 3 features of 2 columns"):
        Mixed({"a": Gaussian(), "b": ClassLabels(2)})(torch.zeros(4), 1)
