"""The dVAE's bounds against enumeration over all grids of codes; its two modes; its shapes and errors."""

import itertools
import math

import pyro
import pytest
import torch
from pyro import poutine

from pyro_vae import likelihoods
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo, log_likelihood
from pyro_vae.evaluation.codes import code_statistics
from pyro_vae.evaluation.generate import decode
from pyro_vae.guides import DVAEGuide
from pyro_vae.models import DVAE
from pyro_vae.networks.pyramid import PyramidDecoder, PyramidEncoder
from pyro_vae.objectives import ELBO
from pyro_vae.priors import GatedPixelCNN
from pyro_vae.programs.program import Program
from pyro_vae.runs.codes import extract_codes


@pytest.fixture(autouse=True)
def own_parameters():
    """Modules called directly use their own parameters, not Pyro's global store."""
    with pyro.settings.context(module_local_params=True):
        yield


K, GRID = 3, (2, 2)
GRIDS = torch.tensor(list(itertools.product(range(K), repeat=4))).reshape(-1, *GRID)  # (81, 2, 2)


def toy(straight_through=False):
    """A dVAE of 3 codes on a 2x2 grid, away from its start, and a few data."""
    torch.manual_seed(3)
    model = DVAE((1, 4, 4), K, code_dim=2, halvings=1, channels=8, num_blocks=1, likelihood=likelihoods.Gaussian(1.0))
    guide = DVAEGuide(model, straight_through=straight_through)
    with torch.no_grad():
        for parameter in (*model.decoder.parameters(), *guide.encoder.parameters()):
            parameter.add_(0.4 * torch.randn_like(parameter))
        for parameter in guide.encoder.last.parameters():
            parameter.mul_(0.3)  # a guide that is likely to draw every grid in a few thousand particles
    return model.eval(), guide.eval(), torch.randn(5, 1, 4, 4)


@torch.no_grad()
def enumerated(model, guide, x, prior=None):
    """log p(x) and the ELBO with hard codes by sums over all 81 grids, and the standard deviations of their estimates.

    ``(5,)`` each; of one particle, to first order.
    """
    log_x = torch.stack(
        [model.likelihood(model.decoder(model.embed(c.expand(len(x), *GRID)))).log_prob(x) for c in GRIDS], 1
    )  # (5, 81)
    log_p = torch.full((81,), -4 * math.log(K)) if prior is None else prior().log_prob(GRIDS)
    log_q = guide.encoder(x).log_softmax(1)  # (5, K, 2, 2)
    chosen = torch.nn.functional.one_hot(GRIDS, K).movedim(-1, 1).float()  # (81, K, 2, 2)
    log_q = torch.einsum("bkhw,gkhw->bg", log_q, chosen)
    q, kl = log_q.exp(), (log_q.exp() * (log_q - log_p)).sum(1)
    exact, mean = (log_x + log_p).logsumexp(1), (q * log_x).sum(1)
    spread = (q * (log_x - mean[:, None]).square()).sum(1).sqrt()
    weights = (log_x + log_p - log_q - exact[:, None]).exp()
    return exact, mean - kl, (q * (weights - 1).square()).sum(1).sqrt(), spread


def test_the_hard_bound_is_the_enumerated_one():
    model, guide, x = toy()
    exact, bound, of_weights, spread = enumerated(model, guide, x)
    measured = elbo(model, guide, x, num_particles=4000).per_datum
    assert ((measured - bound).abs() < 4 * spread / 4000**0.5).all()
    assert (exact > bound).all()
    weighted = log_likelihood(model, guide, x, num_particles=4000).per_datum
    assert ((weighted - exact).abs() < 4 * of_weights / 4000**0.5).all()
    assert (4 * of_weights / 4000**0.5 < 0.5).all()  # so that the line above says something


def test_the_kl_term_is_exact():
    """One particle is enough: N log K minus the entropy of the logits."""
    model, guide, x = toy()
    with torch.no_grad():
        log_q = guide.encoder(x).log_softmax(1)
    expected = 4 * math.log(K) + (log_q.exp() * log_q).sum((1, 2, 3))
    torch.testing.assert_close(elbo(model, guide, x, num_particles=1).kl["codes"].float(), expected)
    model.train(), guide.train()
    terms = ELBO().terms(model, guide, x=x)
    torch.testing.assert_close(terms.kl["codes"], expected.mean())


@pytest.mark.parametrize("straight_through", [False, True])
def test_the_relaxed_bound_approaches_the_hard_one(straight_through):
    """As the temperature falls; with one-hot draws the bound of the objective is the hard one at any temperature."""
    model, guide, x = toy(straight_through)
    _, bound, _, spread = enumerated(model, guide, x)
    model.train(), guide.train()
    gaps, particles = [], 3000
    for temperature in (1.0, 0.3, 0.01):
        guide.temperature.fill_(temperature)
        torch.manual_seed(5)
        with torch.no_grad():
            gaps.append(-ELBO(particles).terms(model, guide, x=x).loss.item() - bound.mean().item())
    error = 4 * spread.square().sum().sqrt().item() / 5 / particles**0.5  # four standard errors
    assert abs(gaps[2]) < error
    if straight_through:
        assert max(map(abs, gaps)) < error
    else:
        assert abs(gaps[0]) > abs(gaps[1]) > 2 * error


def test_the_monte_carlo_bound_of_the_relaxed_densities():
    """Its KL is greater than the categorical one, and the same at all temperatures.

    The codes are the largest entries of y, so the KL of y is no less than theirs; the y of two temperatures are
    functions of one another, so that theirs is the same.
    """
    model, guide, x = toy()
    model.train(), guide.train()
    closed = ELBO().terms(model, guide, x=x).kl["codes"].item()
    monte_carlo = []
    for temperature in (2.0, 0.5, 0.03):
        for program in (model, guide):
            program.temperature.fill_(temperature)
        torch.manual_seed(5)
        with torch.no_grad():
            monte_carlo.append(ELBO(3000, analytic_kl=False).terms(model, guide, x=x).kl["codes"].item())
    assert monte_carlo == pytest.approx([monte_carlo[0]] * 3, rel=1e-5)  # of the same noise; in single precision
    assert monte_carlo[0] > closed + 0.05


def test_the_learned_prior_takes_part_in_evaluation_only():
    model, guide, x = toy()
    prior = model.priors["codes"] = GatedPixelCNN(K, GRID, channels=8, num_layers=2).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    exact, _, of_weights, _ = enumerated(model, guide, x, prior)
    weighted = log_likelihood(model, guide, x, num_particles=4000).per_datum
    assert ((weighted - exact).abs() < 4 * of_weights / 4000**0.5).all()
    with pytest.raises(InputError, match="trained with the uniform prior"):
        model.train()(x)


def test_mixtures_and_integers_are_embedded_alike():
    model, _, _ = toy()
    codes = torch.randint(K, (4, 7, *GRID))
    one_hot = torch.nn.functional.one_hot(codes, K).movedim(-1, -3).float()
    assert model.embed(codes).shape == (4, 7, 2, *GRID)
    torch.testing.assert_close(model.embed(one_hot), model.embed(codes))


def test_sites_in_both_modes():
    model, guide, x = toy()
    for training, shape, dtype in ((True, (5, K, *GRID), torch.float32), (False, (5, *GRID), torch.int64)):
        model.train(training), guide.train(training)
        for program, arguments in ((guide, {"x": x}), (model, {"num_samples": 5})):
            codes = poutine.trace(program).get_trace(**arguments).nodes["codes"]["value"]
            assert codes.shape == shape and codes.dtype == dtype
    told = poutine.trace(guide).get_trace(x=x).nodes["codes"]["infer"]["report"]["perplexity"]
    assert 1 < told < K
    mean = guide.encoder(x).softmax(1).mean((0, 2, 3))
    torch.testing.assert_close(told, torch.distributions.Categorical(mean).entropy().exp())


def test_the_bound_is_computed_in_single_precision_under_autocast():
    """The KL of the encoder's logits, as they come out in half precision, by hand in double precision."""
    model, guide, x = toy()
    for training in (False, True):
        model.train(training), guide.train(training)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            log_q = guide.encoder(x).double().log_softmax(1)
            found = ELBO().for_validation().terms(model, guide, x=x).kl["codes"]
        expected = 4 * math.log(K) + (log_q.exp() * log_q).sum((1, 2, 3)).mean()
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_modes_must_agree():
    for training in (True, False):
        model, guide, x = toy()
        model.train(training), guide.train(not training)
        with pytest.raises(InputError, match="mode and was given the codes of a guide in"):
            ELBO().loss(model, guide, x=x)


def test_codes_are_extracted_at_the_mode():
    """As for a prior's training; drawn codes are others."""
    model, guide, x = toy()
    expected = guide.encoder(x).argmax(1)
    for _ in range(2):
        codes = extract_codes(model, guide, Split({"x": x}), ["codes"])["codes"]
        assert torch.equal(codes, expected)
    counts = code_statistics(model, guide, x).sites["codes"].counts  # of draws
    assert counts.sum() == 20 and counts.shape == (K,)


def test_an_extraction_that_has_no_mode_is_refused():
    model, guide, x = toy()

    class NoMode(pyro.distributions.Categorical):
        @property
        def mode(self):
            raise NotImplementedError

    def other(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("codes", NoMode(logits=guide.encoder(x).movedim(1, -1)).to_event(2))

    with pytest.raises(InputError, match="draws the codes 'codes' from Independent, which has no mode"):
        extract_codes(model, Program(other), Split({"x": x}), ["codes"])


@pytest.mark.parametrize(
    ("shape", "halvings", "grid"),
    [((1, 28, 28), 2, (7, 7)), ((3, 32, 32), 2, (8, 8)), ((3, 64, 32), 3, (8, 4)), ((1, 8, 8), 0, (8, 8))],
)
def test_grids(shape, halvings, grid):
    model = DVAE(shape, 5, code_dim=3, halvings=halvings, channels=4, num_blocks=1)
    assert model.grid == grid
    guide = DVAEGuide(model)
    assert guide.encoder(torch.rand(2, *shape)).shape == (2, 5, *grid)
    assert decode(model.eval(), {"codes": torch.zeros(2, *grid, dtype=torch.int64)}).shape == (2, *shape)


def test_the_published_networks():
    """Widths n, 2n, 4n, 8n in groups of two blocks; the decoder backwards; 2 features per colour."""
    encoder = PyramidEncoder((3, 64, 64), 32, channels=8)
    assert encoder.first.kernel_size == (7, 7) and encoder.out_shape == (32, 8, 8)
    assert [group[-1].branch[-1].out_channels for group in encoder.groups] == [8, 16, 32, 64]
    assert [len(group) for group in encoder.groups] == [2] * 4
    assert [encoder.groups[3][0].branch[i].kernel_size[0] for i in (1, 3, 5, 7)] == [3, 3, 3, 1]
    decoder = PyramidDecoder(16, (6, 64, 64), channels=8)
    assert [group[-1].branch[-1].out_channels for group in decoder.groups] == [64, 32, 16, 8]
    assert decoder(torch.randn(2, 3, 16, 8, 8)).shape == (2, 3, 6, 64, 64)
    decoder.set_output_bias(torch.arange(6.0).reshape(6, 1, 1).expand(6, 64, 64))
    assert decoder.last.bias.tolist() == list(range(6))


def test_the_output_starts_at_the_mean_of_the_data():
    """What is shown of no features is each colour's mean."""
    mean = torch.tensor([0.2, 0.5, 0.9]).reshape(3, 1, 1).expand(3, 8, 8)
    model = DVAE((3, 8, 8), 5, 2, 1, 4, 1, data_mean=mean)
    features = model.decoder.last.bias.reshape(6, 1, 1).expand(6, 8, 8)
    shown = model.likelihood(features).mean
    torch.testing.assert_close(shown, mean)


def test_bad_arguments():
    with pytest.raises(InputError, match="2 halvings need sides that are multiples of 4"):
        DVAE((1, 30, 30), 5, halvings=2)
    with pytest.raises(InputError, match="temperature must be positive"):
        DVAE((1, 8, 8), 5, 2, 1, 4, temperature=0.0)
    with pytest.raises(InputError, match="code_dim must be a positive integer"):
        DVAE((1, 8, 8), 5, 0, 1, 4)
    with pytest.raises(InputError, match="num_blocks must be a positive integer"):
        DVAE((1, 8, 8), 5, 2, 1, 4, num_blocks=0)
    with pytest.raises(InputError, match="channels must be a positive integer"):
        DVAEGuide(DVAE((1, 8, 8), 5, 2, 1, 4), channels=0)
