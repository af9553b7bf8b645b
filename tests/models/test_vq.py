"""VQ-VAE and VQ-VAE-2: their bound against enumeration and by hand; shapes, levels and errors."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_vae import likelihoods
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo, log_likelihood
from pyro_vae.evaluation.generate import decode
from pyro_vae.guides import VQ2Guide, VQGuide
from pyro_vae.models import VQVAE, VQVAE2
from pyro_vae.priors import GatedPixelCNN


@pytest.fixture(autouse=True)
def own_parameters():
    """Modules called directly use their own parameters, not Pyro's global store."""
    with pyro.settings.context(module_local_params=True):
        yield


K, N = 3, 2  # codes, positions of the grid (2, 1)
SMALL = {"code_dim": 2, "channels": 4, "block_channels": 3, "num_blocks": 1}


def toy(learned: bool):
    """A VQ-VAE of 3 codes on a grid of two positions, away from its start, and a few data."""
    torch.manual_seed(3)
    model = VQVAE((1, 4, 2), K, halvings=1, likelihood=likelihoods.Gaussian(0.7), **SMALL)
    guide = VQGuide(model)
    if learned:
        model.priors["codes"] = GatedPixelCNN(K, (2, 1), channels=8, num_layers=2)
    with torch.no_grad():
        for parameter in (*model.decoder.parameters(), *model.priors.parameters()):
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model.eval(), guide.eval(), torch.randn(6, 1, 4, 2)


@torch.no_grad()
def joint(model, x, codes):
    """log p(x, codes) of every datum by hand, for one grid of codes."""
    z = model.quantizer.embed(codes.expand(len(x), 2, 1))  # (N, D, 2, 1)
    mean = model.decoder(z)
    log_x = dist.Normal(mean, 0.7).log_prob(x).flatten(1).sum(1)
    return log_x + model.priors["codes"]().log_prob(codes)


def exact(model, x):
    """log p(x), by the sum over all K^N grids."""
    grids = [torch.tensor(c).reshape(2, 1) for c in itertools.product(range(K), repeat=N)]
    return torch.stack([joint(model, x, codes) for codes in grids]).logsumexp(0).double()


@pytest.mark.parametrize("learned", [False, True])
def test_the_bound_is_the_joint_density_at_the_codes_and_below_the_exact_likelihood(learned):
    model, guide, x = toy(learned)
    bound = log_likelihood(model, guide, x, num_particles=1).per_datum
    codes = poutine.trace(guide).get_trace(x).nodes["codes"]["value"]
    by_hand = torch.stack([joint(model, x[i : i + 1], codes[i]) for i in range(len(x))]).squeeze(1).double()
    torch.testing.assert_close(bound, by_hand, atol=1e-5, rtol=0)
    assert (bound < exact(model, x)).all()
    torch.testing.assert_close(elbo(model, guide, x).per_datum, by_hand, atol=1e-5, rtol=0)


@pytest.mark.parametrize("learned", [False, True])
def test_any_other_guide_is_below_as_well_and_many_particles_of_a_random_one_reach_it(learned):
    model, _, x = toy(learned)

    def random_guide(x):
        with pyro.plate("data", len(x)):
            codes = pyro.sample("codes", dist.Categorical(torch.ones(2, 1, K)).expand([len(x), 2, 1]).to_event(2))
            pyro.sample("z", dist.Delta(model.quantizer.embed(codes), event_dim=3))

    truth = exact(model, x)
    one = torch.stack([log_likelihood(model, random_guide, x, num_particles=1, seed=s).per_datum for s in range(50)])
    assert (one.mean(0) < truth).all()
    many = log_likelihood(model, random_guide, x, num_particles=20_000).per_datum
    torch.testing.assert_close(many, truth, atol=0.05, rtol=0)


def test_a_uniform_prior_makes_the_kl_exactly_n_log_k():
    model, guide, x = toy(learned=False)
    measured = elbo(model, guide, x)
    torch.testing.assert_close(measured.kl["codes"], torch.full((6,), N * math.log(K)).double(), atol=1e-6, rtol=0)
    assert not measured.kl["z"].any()


def test_held_codes_decode_to_their_vectors():
    model, _, _ = toy(learned=False)
    codes = torch.tensor([[[0], [2]], [[1], [1]]])
    made = decode(model, {"codes": codes})
    torch.testing.assert_close(made, model.decoder(model.quantizer.embed(codes)))
    assert not torch.equal(made[0], made[1])


def test_the_gradient_goes_straight_through_to_the_encoder():
    _, guide, x = toy(learned=False)
    z = poutine.trace(guide).get_trace(x).nodes["z"]["value"]
    z_e = guide.to_codes(guide.encoder(x))
    weights = torch.randn_like(z)
    (z * weights).sum().backward()
    ours = [p.grad.clone() for p in guide.encoder.parameters()]
    guide.zero_grad()
    (z_e * weights).sum().backward()
    for a, p in zip(ours, guide.encoder.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)


def test_levels_are_drawn_from_the_top_and_a_finer_one_sees_the_coarser():
    model = VQVAE2((1, 8, 16), (4, 5, 6), halvings=(1, 1, 1), **SMALL)
    guide = VQ2Guide(model)
    trace = poutine.trace(model).get_trace(num_samples=3)
    sites = [n for n in trace.nodes if n.startswith("codes")]
    assert sites == ["codes_top", "codes_middle", "codes_bottom"]
    assert [tuple(trace.nodes[n]["value"].shape) for n in sites] == [(3, 1, 2), (3, 2, 4), (3, 4, 8)]
    assert {n: g.num_codes for n, g in model.priors["codes_bottom"].coarser.items()} == {
        "codes_top": 6,
        "codes_middle": 5,
    }
    pair = poutine.trace(guide).get_trace(torch.rand(2, 1, 8, 16))
    assert [n for n in pair.nodes if n.startswith("codes")] == sites


def test_a_learned_prior_of_a_finer_level_is_given_the_label_and_the_coarser_codes():
    torch.manual_seed(8)
    model = VQVAE2((1, 8, 8), (4, 5), **SMALL)
    coarser = model.priors["codes_bottom"].coarser
    model.priors["codes_bottom"] = GatedPixelCNN(4, (4, 4), 3, coarser, channels=8, num_layers=2).eval()
    y = torch.tensor([0, 1, 2])
    nodes = poutine.trace(model).get_trace(y=y, num_samples=3).nodes
    top, bottom = nodes["codes_top"]["value"], nodes["codes_bottom"]["value"]
    ours = nodes["codes_bottom"]["fn"].log_prob(bottom)
    torch.testing.assert_close(ours, model.priors["codes_bottom"](y=y, codes_top=top).log_prob(bottom))
    assert not torch.allclose(ours, model.priors["codes_bottom"](y=y, codes_top=(top + 1) % 5).log_prob(bottom))


def test_a_finer_level_is_quantized_given_the_coarser_ones():
    """The guide's equations, written out for two levels."""
    torch.manual_seed(5)
    model = VQVAE2((1, 8, 8), (4, 5), **SMALL)
    guide, x = VQ2Guide(model).eval(), (torch.rand(2, 1, 8, 8) * 255).round() / 255
    model.eval()
    bottom = guide.encoders["bottom"](x)
    top = guide.maps["top"](guide.encoders["top"](bottom))
    z_top = model.quantizers["top"](top).z
    z_bottom = model.quantizers["bottom"](guide.maps["bottom"](torch.cat([bottom, guide.down["top"](z_top)], 1))).z
    values = poutine.trace(guide).get_trace(x).nodes
    torch.testing.assert_close(values["z_top"]["value"], z_top)
    torch.testing.assert_close(values["z_bottom"]["value"], z_bottom)
    features = model.decoder(torch.cat([z_bottom, model.enlarge["top"](z_top)], 1))
    replayed = poutine.trace(poutine.replay(model, poutine.trace(guide).get_trace(x))).get_trace(x)
    wanted = model.likelihood(features, 3).log_prob(x)
    torch.testing.assert_close(replayed.nodes["x"]["fn"].log_prob(x), wanted)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VQVAE((1, 30, 28)), r"30 x 28 do not divide .* multiples of 4, e.g. 32 x 28"),
        (lambda: VQVAE((784,)), r"images \(C, H, W\) or signals \(C, L\)"),
        (lambda: VQVAE2((1, 28, 28), (8, 8), halvings=(2, 1)), "multiples of 8"),
        (lambda: VQVAE2((1, 28, 28), (8, 8, 8), halvings=(1, 1)), "an entry for each"),
        (lambda: VQVAE2((1, 28, 28), (8,), halvings=(1,)), "2 or 3 levels"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
