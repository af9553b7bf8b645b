"""Programs of the gallery against log p(x) by hand: quadrature, enumeration, recursion, closed forms."""

import itertools

import pytest
import torch
from gallery import truths_b

import pyro_vae

PROGRAMS = [
    *("bayesian_decoder", "conditional", "dirichlet", "hidden_markov", "hyperspherical", "probabilistic_pca"),
    *("sigmoid_belief", "student_t", "tabular", "text", "two_sites"),
]
PARTICLES = 2000


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_estimate_is_log_p_by_hand_and_the_elbo_is_below(name, trained):
    module, result, _ = trained(name)
    batch = module.data(20, seed=1)
    rows = batch if isinstance(batch, dict) else {"x": batch}
    with torch.no_grad():
        truth = getattr(truths_b, name)(result.model, result.guide, rows).double()
    shared = {"num_global": 400} if name == "bayesian_decoder" else {}
    particles = 200 if shared else PARTICLES
    found = pyro_vae.log_likelihood(result.model, result.guide, batch, num_particles=particles, **shared)
    # of a datum: variance 1/ESS - 1/K, half of it below log p(x) on average; draws of weights have an error beside
    variance = (1 / found.effective_sample_size - 1 / found.num_particles).clamp(min=0)
    error = variance.sum().sqrt().item() / len(truth)
    error += 0.0 if found.shared is None else (found.shared.means.std() / len(found.shared.means) ** 0.5).item()
    difference = (found.per_datum - truth).mean().item()
    assert -4 * error - variance.mean().item() - 1e-4 < difference < 4 * error + 1e-4
    assert error < 0.03  # else it says nothing
    bound = pyro_vae.elbo(result.model, result.guide, batch, num_particles=200)
    mean = bound.given_shared.mean() if shared else bound.mean
    assert mean < truth.mean().item() + 0.05


def test_the_probabilities_of_all_strings_sum_to_one(trained):
    _, result, _ = trained("text")
    strings = [(*s, 0)[:4] for n in range(5) for s in itertools.product((1, 2, 3), repeat=n)]
    x = torch.tensor([(*s, 0, 0, 0)[:4] for s in strings])  # 1 + 3 + 9 + 27 that end, 81 that are cut
    batch = {"x": x, "lengths": ((x != 0).sum(-1) + 1).clamp(max=4)}
    with torch.no_grad():
        truth = truths_b.text(result.model, result.guide, batch)
    assert len(x) == 121 and truth.exp().sum().item() == pytest.approx(1, abs=1e-5)
    found = pyro_vae.log_likelihood(result.model, result.guide, batch, num_particles=PARTICLES)
    assert found.per_datum.exp().sum().item() == pytest.approx(1, abs=0.01)


def test_the_guide_of_probabilistic_pca_is_the_posterior(load):
    """In the end the ELBO is log p(x): no gap, and weights that are all equal."""
    module = load("probabilistic_pca")
    model, guide = module.pair()
    result = pyro_vae.fit(model, guide, module.data(400), epochs=150, learning_rate=1e-2, device="cpu", progress=False)
    batch = module.data(200, seed=1)
    with torch.no_grad():
        truth = truths_b.probabilistic_pca(result.model, result.guide, {"x": batch}).mean().item()
    bound = pyro_vae.elbo(result.model, result.guide, batch, num_particles=200).mean
    assert truth - 0.03 < bound < truth + 0.01  # nats
