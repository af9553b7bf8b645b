"""A guide that is nearly a point mass, as those of adversarial autoencoders: what is wrong, and what is right."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA
from torch import nn

import pyro_vae

SCALE = 1.5e-3  # what such guides' deviations come to


@pytest.fixture(scope="module")
def known():
    """A linear-Gaussian model with its exact log p(x), and a guide at the posterior's mean, of tiny scales."""
    ppca = PPCA(data_dim=6, latent_dim=2, dtype=torch.float32)
    return ppca, ppca.sample(25, seed=5), ppca.log_prob(ppca.sample(25, seed=5))


class Affine(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.log_scale = nn.Linear(6, 2), nn.Parameter(torch.zeros(2))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.mean(x), self.log_scale.exp()).to_event(1))


def degenerate(ppca):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(ppca.posterior_mean(x), SCALE).to_event(1))

    return guide


def test_its_own_weights_are_far_off_and_the_warning_names_what_is_right(known):
    ppca, x, exact = known
    found = pyro_vae.log_likelihood(ppca.model, degenerate(ppca), x, num_particles=2000, progress=False)
    assert bool((found.per_datum < exact - 3).all()) and found.pareto_k_above > 0.9
    (words,) = found.warnings
    assert "pyro-vae ais DIR --start prior" in words and "pyro-vae refit-guide DIR --out NEW" in words


def test_annealing_from_the_prior_is_right(known):
    """With the same guide, which it only asks which sites there are."""
    ppca, x, exact = known
    how = {"num_chains": 24, "num_temperatures": 1200, "start": "prior", "device": "cpu", "progress": False}
    found = pyro_vae.ais(ppca.model, degenerate(ppca), x, **how)
    assert (found.per_datum - exact).abs().max() < 0.4
    assert found.mean == pytest.approx(exact.mean().item(), abs=0.05)


def test_a_refitted_guides_weights_are_right(known):
    ppca, x, exact = known
    torch.manual_seed(0)
    how = {"epochs": 20, "learning_rate": pyro_vae.training.Cosine(0.05, 1e-3, 20), "device": "cpu", "progress": False}
    result = pyro_vae.refit_guide(ppca.model, ppca.sample(2000), Affine(), **how)
    found = pyro_vae.log_likelihood(result.model, result.guide, x, num_particles=1000, progress=False)
    torch.testing.assert_close(found.per_datum, exact, atol=0.1, rtol=0)
    assert found.mean == pytest.approx(exact.mean().item(), abs=0.02)
