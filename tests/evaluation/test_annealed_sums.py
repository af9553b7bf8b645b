"""Annealing over the continuous latents of programs with discrete ones: the sum is inside the density."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import config_enumerate
from unbiased import check_unbiased

from pyro_vae.evaluation import bidirectional
from pyro_vae.evaluation.annealing.chains import backwards, temperatures, tune
from pyro_vae.evaluation.annealing.path import AnnealedPath
from pyro_vae.programs.session import evaluating

WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64)
OFFSETS = torch.tensor([[0.0, 1.0, -1.0], [0.5, 0.0, 1.0], [1.0, -1.0, 0.0]], dtype=torch.float64)  # (c, values of x)
Z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
X = torch.tensor([[0.3, -1.2, 0.4], [2.0, 1.0, 1.5], [-2.0, -1.0, -3.0]], dtype=torch.float64)


def model(x=None, num_samples=1):
    """c ~ Categorical, z | c ~ N(mean_c, 0.5^2), x_d | z, c ~ N(z + offset_cd, 1)."""
    with pyro.plate("data", num_samples if x is None else len(x)):
        c = pyro.sample("c", dist.Categorical(WEIGHTS))
        z = pyro.sample("z", dist.Normal(MEANS[c], 0.5))
        return pyro.sample("x", dist.Normal(z[..., None] + OFFSETS[c], 1.0).to_event(1), obs=x)


def log_joint(x):
    """log p(x, z, c) on the grid Z, ``(N, 3, points)``."""
    log_x = dist.Normal(Z[:, None] + OFFSETS[:, None], 1.0).log_prob(x[:, None, None]).sum(-1)
    return WEIGHTS.log()[:, None] + dist.Normal(MEANS[:, None], 0.5).log_prob(Z) + log_x


def exact(x):
    """log p(x) by quadrature over z, ``(N,)``."""
    return log_joint(x).logsumexp((1, 2)) + math.log(Z[1] - Z[0])


def rough(x):
    """A guide without c, too wide, and beside the posterior's mean."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x.mean(-1), 1.2))


@config_enumerate
def rough_with_values(x):
    """A guide with all values of c."""
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.ones(len(x), 3, dtype=torch.float64) / 3))
        pyro.sample("z", dist.Normal(0.5 * x.mean(-1) + 0.2 * c, 1.2))


@pytest.mark.parametrize(
    ("guide", "start"), [(rough, "guide"), (rough, "prior"), (rough_with_values, "prior")], ids=["q", "p", "marked"]
)
@pytest.mark.parametrize("vectorize", [True, False])
def test_the_mean_weight_is_the_likelihood(guide, start, vectorize):
    check_unbiased(model, guide, X, exact(X), start=start, vectorize=vectorize)


@pytest.mark.parametrize(("start", "steps"), [("guide", 6), ("prior", 60)])
def test_the_mean_of_one_over_the_backward_weight_is_one_over_the_likelihood(start, steps):
    """From exact draws of the posterior of z, with c summed over (Crooks' equality).

    From the prior, which is wider than the posterior, 1 / w has a variance only with more temperatures.
    """

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mode, 0.35))

    x = X[:1].expand(4000, 3)
    p_z = log_joint(X[:1]).logsumexp(1).softmax(-1)[0]  # (points,)
    mode = Z[p_z.argmax()]
    generator = torch.Generator().manual_seed(0)
    z = Z[torch.multinomial(p_z, len(x), replacement=True, generator=generator)]
    beta = temperatures(steps).tolist()
    with evaluating(model, guide, x, 0) as (pair, split):
        densities = AnnealedPath(pair, start, 1).on(split.batch(slice(None)))
        sizes = tune(densities, beta[1:], 2, lambda: None)
        log_w = backwards(densities, densities.at_values({"z": z}), beta, sizes, 2, lambda: None).log_w
    ratio = (exact(X[:1]) - log_w).exp().mean(0)  # (4000,), of mean one
    error = (ratio.std() / math.sqrt(len(ratio))).item()
    assert abs(ratio.mean() - 1) < 4 * error and error < 0.05


def test_several_sums_of_which_one_is_in_an_inner_plate():
    """w ~ N, one switch a datum and one a part of it: as the closed sum at every w, integrated."""

    def switched(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
            w = pyro.sample("w", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))
            with pyro.plate("parts", 2, dim=-2):
                b = pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))
                return pyro.sample("x", dist.Normal(w + 2 * b, 0.5), obs=None if x is None else x.T)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(torch.zeros(len(x), dtype=torch.float64), 1.5))

    x = torch.tensor([[0.1, 2.2], [-1.0, 1.4]], dtype=torch.float64)
    log_a = torch.tensor([0.7, 0.3], dtype=torch.float64).log()
    p_b = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)  # (a, b)
    log_x = dist.Normal(Z + 2 * torch.arange(2)[:, None], 0.5).log_prob(x[:, :, None, None])  # (N, parts, b, points)
    parts = (p_b.log()[:, None, :, None] + log_x[:, None]).logsumexp(3).sum(2)  # (N, a, points)
    log_w = dist.Normal(torch.tensor(0.0).double(), 1.0).log_prob(Z)
    log_p = (log_a[:, None] + parts + log_w).logsumexp((1, 2)) + math.log(Z[1] - Z[0])
    check_unbiased(switched, guide, x, log_p, start="guide")
    check_unbiased(switched, guide, x, log_p, start="prior")


def test_bounds_from_both_sides_close_on_the_likelihood():
    result = bidirectional(model, rough, 30, num_chains=16, num_temperatures=400, seed=4)
    gap = (result.upper - result.lower).mean()
    assert 0 <= gap < 0.05
