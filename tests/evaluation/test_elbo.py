"""evaluation.elbo: parts that sum, against the closed form."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA

from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo


@pytest.fixture
def ppca():
    return PPCA(dtype=torch.float32)


def known_guide(ppca, scale):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(ppca.posterior_mean(x) + 0.2, scale).to_event(1))

    return guide


@pytest.mark.parametrize("analytic_kl", [True, False])
def test_equals_the_closed_form_with_its_parts(ppca, analytic_kl):
    x, scale = ppca.sample(40), torch.tensor([0.3, 0.5, 0.4])
    total, log_likelihood, kl = ppca.elbo(x, ppca.posterior_mean(x) + 0.2, scale)
    k = 4000
    found = elbo(ppca.model, known_guide(ppca, scale), x, num_particles=k, analytic_kl=analytic_kl)
    torch.testing.assert_close(found.per_datum, found.log_likelihood["x"] - found.kl["z"])
    assert set(found.log_likelihood) == {"x"} and set(found.kl) == {"z"}
    # standard deviations of one draw are a few nats at most: 4 * 5 / sqrt(4000) = 0.3
    assert (found.log_likelihood["x"] - log_likelihood).abs().max() < 0.4
    assert (found.log_likelihood["x"] - log_likelihood).mean().abs() < 0.05
    if analytic_kl:
        torch.testing.assert_close(found.kl["z"].float(), kl, rtol=1e-4, atol=1e-4)
    else:
        assert 1e-4 < (found.kl["z"] - kl).abs().max() < 0.15
    assert found.mean == pytest.approx(total.mean().item(), abs=0.06)
    assert found.mean < ppca.log_prob(x).mean()


def test_equals_log_p_where_the_guide_is_the_posterior(ppca):
    x = ppca.sample(20)
    found = elbo(ppca.model, ppca.exact_guide, x, num_particles=3, analytic_kl=False)
    torch.testing.assert_close(found.per_datum, ppca.log_prob(x), rtol=1e-4, atol=1e-4)


def test_kl_in_closed_form_only_where_it_is_unbiased():
    """Model z2 -> z1 -> x, guide x -> z1 -> z2: KL of z1 given the *drawn* z2 would not be the ELBO's."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(()), 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 0.5))
            pyro.sample("x", dist.Normal(z1, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(0.6 * x, 0.7))
            pyro.sample("z2", dist.Normal(0.8 * z1, 0.6))

    x = torch.tensor([1.5])
    # moments under q: z1 ~ N(.6 x, .49), z2 - z1 = -.2 z1 + .6 e
    m, v = 0.6 * 1.5, 0.49
    expected_x = dist.Normal(m, 0.5).log_prob(x).item() - 0.5 * v / 0.25
    expected_z1 = (dist.Normal(0.0, 0.5).log_prob(torch.zeros(())).item()) - 0.5 * (0.04 * (m * m + v) + 0.36) / 0.25
    expected_z2 = dist.Normal(0.0, 1.0).log_prob(torch.zeros(())).item() - 0.5 * (0.64 * (m * m + v) + 0.36)
    entropy = dist.Normal(0.0, 0.7).entropy().item() + dist.Normal(0.0, 0.6).entropy().item()
    found = elbo(model, guide, x, num_particles=200_000)
    assert found.mean == pytest.approx(expected_x + expected_z1 + expected_z2 + entropy, abs=0.02)


def test_summary_seed_random_state_and_mode(ppca):
    x = ppca.sample(10)
    state = torch.get_rng_state()
    net = torch.nn.BatchNorm1d(8)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(net(x)[:, :3], 0.5).to_event(1))

    one, again = (elbo(ppca.model, guide, x, num_particles=2, seed=3) for _ in range(2))
    assert torch.equal(one.per_datum, again.per_datum)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training and net.num_batches_tracked == 0
    assert not torch.equal(elbo(ppca.model, guide, x, num_particles=2, seed=4).per_datum, one.per_datum)
    summary = one.to_dict()
    assert summary["elbo"] == pytest.approx(summary["reconstruction"]["x"] - summary["kl"]["z"])
    assert summary["standard_error"] == pytest.approx(one.per_datum.std().item() / 10**0.5)
    assert (summary["num_data"], summary["num_particles"], summary["split"]) == (10, 2, "data")


def test_bad_particles_are_named(ppca):
    for bad in (0, -1, True):
        with pytest.raises(InputError, match="num_particles must be a positive integer"):
            elbo(ppca.model, ppca.exact_guide, ppca.sample(2), num_particles=bad)


def test_the_kl_of_a_latent_outside_its_support_is_infinite():
    """Beside the ELBO, which is -inf: the parts must not look better than the whole. Inside of it: the closed form."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Uniform(torch.zeros(()), 1.0, validate_args=False))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 0.01))

    found = elbo(model, guide, torch.tensor([0.5, 7.0]), num_particles=50, analytic_kl=False)
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.01**2)
    assert found.kl["z"][0].item() == pytest.approx(-entropy, abs=0.5) and found.kl["z"][1] == torch.inf
    assert found.per_datum[1] == -torch.inf and found.per_datum[0].isfinite()
