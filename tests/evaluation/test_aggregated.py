"""The aggregated posterior against the prior: closed forms of the discrepancy, its error, and what it sees."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA

import pyro_vae
from pyro_vae.data import Split
from pyro_vae.errors import NotApplicable
from pyro_vae.evaluation import aggregated_posterior
from pyro_vae.evaluation.aggregated import draws_of_both, mmd_with_error
from pyro_vae.guides import ConditionalGuide, GaussianGuide, LadderGuide
from pyro_vae.models import VAE, VQVAE, ConditionalVAE, HierarchicalVAE
from pyro_vae.networks import OneHot
from pyro_vae.objectives.mmd import FACTORS, inverse_multiquadratic, mmd_squared
from pyro_vae.runs.measurements import measure

IMAGE = (1, 8, 8)


def images(n, seed=0):
    return (torch.rand(n, *IMAGE, generator=torch.Generator().manual_seed(seed)) > 0.6).float()


def expected_kernel(mean, variance, size, prior_variance):
    """E k(a, b) of a - b ~ N(mean, variance I), by a quadrature of C / (C + d) = C int_0^inf exp(-t (C + d)) dt."""
    u = torch.linspace(-30, 12, 20_001, dtype=torch.float64)  # log t
    t = u.exp()
    found = 0.0
    for factor in FACTORS:
        c = 2 * size * prior_variance * factor
        spread = 1 + 2 * t * variance
        inner = spread ** (-size / 2) * (-t * mean.square().sum() / spread).exp() * (-t * c).exp()
        found += (c * torch.trapezoid(inner * t, u)).item()
    return found


def exact_mmd(mean, variance, size, prior_variance=1.0):
    """Of N(mean, variance I) against N(0, prior_variance I)."""
    zero = torch.zeros_like(mean)
    terms = (zero, 2 * variance), (zero, 2 * prior_variance), (mean, variance + prior_variance)
    own, prior, cross = (expected_kernel(*term, size, prior_variance) for term in terms)
    return own + prior - 2 * cross


def gaussian_pair(mean, scale, size=3):
    """A guide that has forgotten its data: q(z) is known."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(size), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.full((size,), mean), scale).to_event(1))

    return model, guide, torch.zeros(800, size)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (0.5, 1.0), (0.0, 0.5), (2.0, 1e-3)])
def test_it_is_the_closed_form_of_gaussians(mean, scale):
    model, guide, x = gaussian_pair(mean, scale)
    found = aggregated_posterior(model, guide, x).sites["z"]
    exact = exact_mmd(torch.full((3,), mean, dtype=torch.float64), scale**2, 3)
    assert found.mmd == pytest.approx(exact, abs=4 * found.standard_error + 0.03 * abs(exact))  # sigma^2 is estimated
    assert found.variance == pytest.approx(1.0, abs=0.1)
    low, high = found.interval
    assert low < found.mmd < high and (low > 0) == (abs(exact) > 1e-6)
    assert found.mean.tolist() == pytest.approx([mean] * 3, abs=0.1)
    assert found.scale.tolist() == pytest.approx([scale] * 3, abs=0.06)
    assert found.prior_scale.tolist() == pytest.approx([1.0] * 3, abs=0.06)


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_its_error_is_that_of_many_repetitions(shift):
    """Also where both are one distribution, and the first-order variance is 0."""
    generator, kernel, found = torch.Generator().manual_seed(0), inverse_multiquadratic(2), []
    for _ in range(400):
        a, b = (torch.randn(60, 2, generator=generator, dtype=torch.float64) for _ in range(2))
        found.append(mmd_with_error(a + shift, b, kernel, rows=25))
    values, errors = torch.tensor(found).T
    exact = exact_mmd(torch.full((2,), shift, dtype=torch.float64), 1.0, 2)
    assert values.mean().item() == pytest.approx(exact, abs=4 * values.std().item() / 20)
    told = errors.square().mean().sqrt().item() / values.std().item()
    assert 0.88 < told < (1.12 if shift else 1.4)  # what cannot be negative is not, which is too much on average
    covered = ((values - exact).abs() < 1.96 * errors).double().mean().item()
    assert covered > 0.88


def test_it_is_the_u_statistic_by_hand():
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(12, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    kernel = inverse_multiquadratic(3, 0.7)

    def k(u, v):
        return sum(2 * 3 * 0.7 * s / (2 * 3 * 0.7 * s + (u - v).square().sum().item()) for s in FACTORS)

    h = {(i, j): k(a[i], a[j]) + k(b[i], b[j]) - k(a[i], b[j]) - k(a[j], b[i]) for i in range(12) for j in range(12)}
    by_hand = sum(v for (i, j), v in h.items() if i != j) / (12 * 11)
    four = [(i, j, p, q) for i in range(12) for j in range(12) for p in range(12) for q in range(12)]
    apart = [h[i, j] * h[p, q] for i, j, p, q in four if len({i, j, p, q}) == 4]
    three = [h[i, j] * h[i, p] for i, j, p, q in four if q == 0 and len({i, j, p}) == 3]
    two = [v * v for (i, j), v in h.items() if i != j]
    of_mean, of_three, of_two = (sum(v) / len(v) for v in (apart, three, two))
    variance = (4 * 10 * max(of_three - of_mean, 0.0) + 2 * (of_two - of_mean)) / (12 * 11)
    for rows in (1, 5, 100):
        value, error = mmd_with_error(a, b, kernel, rows)
        assert value == pytest.approx(by_hand, abs=1e-12) and error**2 == pytest.approx(variance, abs=1e-12)
    diagonal = 2 * sum(k(a[i], b[i]) for i in range(12)) / 12  # which the other estimate has beside the pairs
    whole = mmd_squared(a, b, kernel).item()
    cross = 2 * sum(k(a[i], b[j]) for i in range(12) for j in range(12) if i != j) / (12 * 11)
    assert whole + (11 * cross + diagonal) / 12 - cross == pytest.approx(value, abs=1e-12)


def test_the_exact_posterior_of_the_models_own_data_is_the_prior():
    ppca = PPCA(data_dim=5, latent_dim=2)
    own = aggregated_posterior(ppca.model, ppca.exact_guide, ppca.sample(1000)).sites["z"]
    other = aggregated_posterior(ppca.model, ppca.exact_guide, 2 * ppca.sample(1000) + 1).sites["z"]
    assert abs(own.mmd) < 4 * own.standard_error and other.mmd > 10 * other.standard_error
    wide = aggregated_posterior(ppca.model, ppca.exact_guide, ppca.sample(1000), memory_budget=200_000).sites["z"]
    assert wide.mmd == pytest.approx(own.mmd, abs=1e-12)


def test_a_hierarchy_is_compared_by_site_and_together():
    """Marginals that agree while the sites together do not: z1 is drawn without a look at z2."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(0.8 * z2, 0.6).to_event(1))
            return pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            for name in ("z1", "z2"):
                pyro.sample(name, dist.Normal(torch.zeros(1), 1.0).to_event(1))

    found = aggregated_posterior(model, guide, torch.zeros(1000, 1))
    assert list(found.sites) == ["z2", "z1"]
    assert all(abs(site.mmd) < 4 * site.standard_error for site in found.sites.values())
    assert found.together.mmd > 5 * found.together.standard_error and found.together.mean is None
    assert "MMD² of q and p of z2, z1 together" in found.rows
    ladder = HierarchicalVAE(IMAGE, (4, 2), (16, 8))
    assert set(aggregated_posterior(ladder, LadderGuide(ladder, (16, 8)), images(50)).sites) == {"z1", "z2"}


def test_a_conditional_models_prior_is_given_the_datas_context():
    torch.manual_seed(0)
    model = ConditionalVAE(IMAGE, OneHot(3), latent_dim=2, hidden_dims=(8,))
    data = {"x": images(30), "y": torch.arange(30) % 3}
    guide = ConditionalGuide(model, hidden_dims=(8,))
    found = aggregated_posterior(model, guide, data)
    assert found.num_data == 30 and set(found.sites) == {"z"}
    q, p = draws_of_both(model, guide, Split(data), ["z"], 0)
    assert len(q["z"]) == len(p["z"]) == 30


def test_where_it_does_not_apply():
    vae = VAE(IMAGE, latent_dim=2, hidden_dims=(8,))
    with pytest.raises(NotApplicable, match="3 data are too few"):
        aggregated_posterior(vae, GaussianGuide(vae, hidden_dims=(8,)), images(3))
    codes = VQVAE(IMAGE, num_codes=4, code_dim=2, halvings=1, channels=4, num_blocks=1, block_channels=4)
    with pytest.raises(NotApplicable, match="no latent site has real values"):
        aggregated_posterior(codes, pyro_vae.guides.VQGuide(codes), images(10))


def test_any_seed_will_do():
    model = VAE(IMAGE, latent_dim=2, hidden_dims=(8,))
    guide = GaussianGuide(model, hidden_dims=(8,))
    last = aggregated_posterior(model, guide, images(20), seed=2**64 - 1)
    assert last.sites["z"].mmd != aggregated_posterior(model, guide, images(20), seed=0).sites["z"].mmd


def test_evaluate_shows_it():
    torch.manual_seed(0)
    vae = VAE(IMAGE, latent_dim=2, hidden_dims=(8,))
    guide, data = (
        GaussianGuide(vae, hidden_dims=(8,)),
        pyro_vae.data.Data(*(Split({"x": images(20, s)}) for s in (1, 2, 3))),
    )
    found = measure(vae, guide, data, particles=30)
    entry = found.result["metrics"]["posterior_against_prior"]
    assert "MMD² of q(z) and p(z)" in entry["rows"] and "MMD² of q(z) and p(z)" in found.rows
    same = aggregated_posterior(vae, guide, data.test)
    assert entry["summary"]["sites"]["z"]["mmd_squared"] == pytest.approx(same.sites["z"].mmd, abs=1e-9)
    assert math.isfinite(entry["summary"]["sites"]["z"]["standard_error"])
