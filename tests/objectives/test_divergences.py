"""Divergences of the aggregated posterior: closed forms, finite differences, sums written out, matched moments."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from matching_pairs import QUIET, Given, Idle, examined, traces_of
from torch import nn

from pyro_vae import fit
from pyro_vae.data import Split
from pyro_vae.objectives import (
    GAN,
    MMD,
    DensityRatio,
    Matching,
    TotalCorrelation,
    WeightedTotalCorrelation,
)
from pyro_vae.objectives.mmd import inverse_multiquadratic, mmd_squared, rbf
from pyro_vae.training import Cosine


class Quadratic(nn.Module):
    """Logits of z that are quadratic, as the log density ratio of two Gaussians is."""

    def __init__(self, size):
        super().__init__()
        self.linear = nn.Linear(size + size * size, 1)
        nn.init.zeros_(self.linear.weight)

    def forward(self, z):
        pairs = (z[..., :, None] * z[..., None, :]).flatten(-2)
        return self.linear(torch.cat([z, pairs], -1)).squeeze(-1)


def gaussian(size, seed, correlation=0.3):
    generator = torch.Generator().manual_seed(seed)
    loc = 0.4 * torch.randn(size, generator=generator)
    tril = torch.eye(size) + correlation * torch.tril(torch.randn(size, size, generator=generator), -1)
    return loc, tril


def ratio_of(divergence, loc, tril, steps):
    """What a discriminator tells of given codes: D at many fresh ones."""
    options = {"objective": Matching(divergence, weight=0.0), "epochs": 2, "batch_size": 10_000, "compile": "graph"}
    options["learning_rate"] = Cosine(1e-3, 1e-5, 2)
    result = fit(Idle(len(loc)), Given(loc, tril), torch.zeros(5_000 * steps, 1), **options, **QUIET)
    z = dist.MultivariateNormal(loc, scale_tril=tril).sample((200_000,))
    with torch.no_grad():
        return -result.networks["discriminator"](z).mean().item()


def test_density_ratio_estimates_the_kl_of_two_gaussians():
    torch.manual_seed(0)
    loc, tril = gaussian(8, seed=1)
    exact = torch.distributions.kl_divergence(
        dist.MultivariateNormal(loc, scale_tril=tril), dist.MultivariateNormal(torch.zeros(8), torch.eye(8))
    ).item()
    told = ratio_of(DensityRatio(discriminator=Quadratic(8), learning_rate=0.1), loc, tril, steps=300)
    assert told == pytest.approx(exact, rel=0.02), (told, exact)


def test_total_correlation_estimates_that_of_a_correlated_gaussian():
    torch.manual_seed(0)
    loc, tril = gaussian(4, seed=2, correlation=0.5)
    covariance = tril @ tril.T
    exact = 0.5 * (covariance.diagonal().log().sum() - torch.logdet(covariance)).item()
    told = ratio_of(TotalCorrelation(discriminator=Quadratic(4), learning_rate=0.1), loc, tril, steps=300)
    assert told == pytest.approx(exact, rel=0.04), (told, exact)


def pair_of_normals(locs, scales):
    """A pair whose guide draws z_i ~ N(locs_i, scales_i) for the datum i, and the model N(0, I)."""

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            i = x[..., 0].long()
            pyro.sample("z", dist.Normal(locs[i], scales[i]).to_event(1))

    return Idle(locs.shape[1]), guide


@pytest.mark.parametrize("num_particles", [1, 3])
def test_weighted_sums_are_those_written_out(num_particles):
    """For every datum as one batch: stratified weights are 1/N, and the estimate is the average over draws by hand."""
    torch.manual_seed(1)
    n, size = 6, 3
    locs, scales = torch.randn(n, size), 0.3 + torch.rand(n, size)
    model, guide = pair_of_normals(locs, scales)
    x = torch.arange(n).float()[:, None]
    pair = examined(model, guide, {"x": x}, num_data=n)
    for weights, shift in (("stratified", 0.0), ("weighted", (size - 1) * math.log(n))):
        objective = Matching(WeightedTotalCorrelation(weights), num_particles=num_particles).prepare(
            pair, Split({"x": x})
        )
        traces = traces_of(pair, {"x": x}, num_particles)
        value = objective.pair_terms(traces).divergence["total_correlation"].item()
        z = traces.guide.nodes["z"]["value"].reshape(-1, n, size)
        by_hand = []
        for k in range(len(z)):
            for i in range(n):
                each = torch.stack([dist.Normal(locs[j], scales[j]).log_prob(z[k, i]) for j in range(n)])  # (N, size)
                whole = each.sum(1).logsumexp(0) - math.log(n)
                by_hand.append(whole - (each.logsumexp(0) - math.log(n)).sum())
        assert value == pytest.approx(torch.stack(by_hand).mean().item() + shift, abs=1e-4)


def rbf_between(mean, variance_a, variance_b, width):
    """E exp(-|a - b|^2 / (2 w^2)) of independent Gaussians whose means differ by ``mean``, in each dimension alike."""
    spread = width**2 + variance_a + variance_b
    return (width**2 / spread) ** (len(mean) / 2) * torch.exp(-mean.square().sum() / (2 * spread))


def test_mmd_equals_its_closed_form_within_its_error():
    generator = torch.Generator().manual_seed(3)
    mean, variance, widths = torch.tensor([0.5, -0.3, 0.2]), 0.49, [0.7, 2.0]
    exact = sum(
        rbf_between(torch.zeros(3), variance, variance, w)
        + rbf_between(torch.zeros(3), 1.0, 1.0, w)
        - 2 * rbf_between(mean, variance, 1.0, w)
        for w in widths
    )
    a = mean + math.sqrt(variance) * torch.randn(400, 50, 3, generator=generator)
    found = mmd_squared(a, torch.randn(400, 60, 3, generator=generator), rbf(widths))  # 400 estimates
    assert (found.mean() - exact).abs() < 3 * found.std() / math.sqrt(400)
    assert found.std() / math.sqrt(400) < 0.05 * exact


@pytest.mark.parametrize("kernel", [inverse_multiquadratic(3, 2.0), rbf([0.5, 1.0])])
def test_mmd_is_the_sum_over_pairs_and_its_gradient_finite_differences(kernel):
    generator = torch.Generator().manual_seed(4)
    a, b = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    k = lambda u, v: kernel((u - v).square().sum())  # noqa: E731
    n = len(a)
    pairs = [(i, j) for i in range(n) for j in range(n)]
    by_hand = sum(k(a[i], a[j]) + k(b[i], b[j]) for i, j in pairs if i != j) / (n * (n - 1))
    by_hand = by_hand - 2 * sum(k(a[i], b[j]) for i, j in pairs) / n**2
    assert mmd_squared(a, b, kernel).item() == pytest.approx(by_hand.item(), rel=1e-12)
    assert torch.autograd.gradcheck(lambda z: mmd_squared(z, b, kernel), (a.requires_grad_(),))


def test_mmd_with_labels_compares_within_each_label():
    generator = torch.Generator().manual_seed(5)
    a, b = (torch.randn(6, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    y = torch.tensor([0, 0, 1, 1, 1, 0])
    alike = (y[:, None] == y).double()
    k = lambda u, v: torch.exp(-(u - v).square().sum() / 2)  # noqa: E731
    same = [(i, j) for i in range(6) for j in range(6) if y[i] == y[j]]
    by_hand = (
        sum(k(a[i], a[j]) + k(b[i], b[j]) for i, j in same if i != j) / 30
        - 2 * sum(k(a[i], b[j]) for i, j in same) / 36
    )
    assert mmd_squared(a, b, rbf([1.0]), alike).item() == pytest.approx(by_hand.item(), rel=1e-12)


LINEAR = [
    pytest.param(MMD(variance=1.0), 200.0, 120, marks=pytest.mark.slow),
    (GAN([32, 32], learning_rate=5e-3), 5.0, 200),
    pytest.param(DensityRatio([32, 32], learning_rate=2e-3, updates=3), 20.0, 200, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("divergence", "weight", "epochs"), LINEAR, ids=lambda v: type(v).__name__)
def test_a_linear_pair_ends_with_matched_moments(divergence, weight, epochs):
    """x of two dimensions with unequal variances, encoded linearly: q(z) ends with mean 0 and covariance I."""
    torch.manual_seed(0)
    x = torch.randn(2000, 2) * torch.tensor([1.5, 1.0]) + torch.tensor([1.0, -1.0])

    class Decoded(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x=None, *, num_samples=1):
            with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.linear(z), 0.5).to_event(1), obs=x)

    class Encoded(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.linear(x), 0.1).to_event(1))

    guide = Encoded()
    rate = Cosine(1e-2, 2e-4, epochs)
    options = {"epochs": epochs, "batch_size": 200, "learning_rate": rate, "compile": "graph", "ema_decay": 0.99}
    fit(Decoded(), guide, x, objective=Matching(divergence, weight=weight), **options, **QUIET)
    with torch.no_grad():
        z = guide.linear(x) + 0.1 * torch.randn(2000, 2)
    assert z.mean(0).abs().max() < 0.1
    assert (z.T.cov() - torch.eye(2)).abs().max() < 0.15
