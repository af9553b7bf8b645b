"""Patches as mixtures: sums to one, equals the written-out mixture, and is drawn as it is measured."""

import itertools
import math

import pytest
import torch

import pyro_vae
from pyro_vae import likelihoods
from pyro_vae.errors import InputError
from pyro_vae.guides import ConvLadderGuide, GaussianGuide
from pyro_vae.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian, PatchMixture, PixelCNN
from pyro_vae.models import VAE, CompletionBaseline, ConvHierarchicalVAE

CASES = {  # output, levels, components, side, channels, image that is small enough to enumerate
    "binary": (Bernoulli, 2, 3, 2, 1, (2, 4)),
    "one component": (Bernoulli, 2, 1, 2, 1, (4, 2)),
    "whole image": (Bernoulli, 2, 4, 3, 1, (3, 3)),
    "single pixels": (Bernoulli, 2, 2, 1, 1, (2, 3)),
    "colour": (Bernoulli, 2, 3, 2, 2, (2, 2)),
    "grey": (lambda: Categorical(3), 3, 2, 2, 1, (2, 2)),
    "logistic": (lambda: DiscretizedLogisticMixture(2, 3), 3, 2, 1, 2, (1, 2)),
}
every = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def made(name):
    output, _, components, side, channels, _ = CASES[name]
    return PatchMixture(output(), components, side, channels).double()


def all_images(name):
    _, levels, _, _, channels, sides = CASES[name]
    every = itertools.product(range(levels), repeat=channels * math.prod(sides))
    return torch.tensor([*every]).double().reshape(-1, channels, *sides) / (levels - 1)


def features_of(name, *leading, sides=None):
    likelihood, (_, _, _, _, channels, small) = made(name), CASES[name]
    return 2 * torch.randn(*leading, *likelihood.feature_shape((channels, *(sides or small)))).double()


# ------------------------------------------------------------------------------ exact sums
@every
def test_it_sums_to_one_over_all_images(name):
    total = made(name)(features_of(name)).log_prob(all_images(name)).exp().sum()
    torch.testing.assert_close(total.item(), 1.0, rtol=0, atol=1e-12)


@every
def test_it_is_the_mixture_written_out(name):
    """Pixel by pixel in Python, with the features read as they are documented."""
    output, levels, count, side, channels, _ = CASES[name]
    likelihood, (height, width) = made(name), (3 * side, 2 * side)
    features = features_of(name, sides=(height, width))
    x = torch.randint(levels, (channels, height, width)).double() / (levels - 1)
    numbers, total = channels * side**2, 0.0
    for row, column in itertools.product(range(3), range(2)):
        here, terms = features[:, row, column], []
        weights = here[:count].softmax(0)
        for k in range(count):
            own = here[count:].reshape(count, -1, numbers)[k]  # (P, n)
            term = weights[k].log()
            for c, i, j in itertools.product(range(channels), range(side), range(side)):
                parameters = own[:, (c * side + i) * side + j]
                value = x[c, row * side + i, column * side + j].reshape(1)
                term = term + output().double()(parameters, 1).log_prob(value)
            terms.append(term)
        total = total + torch.stack(terms).logsumexp(0)
    torch.testing.assert_close(likelihood(features).log_prob(x), total)


@every
def test_mean_and_variance_are_those_of_all_images(name):
    p, x = made(name)(features_of(name)), all_images(name)
    weights = p.log_prob(x).exp()[:, None, None, None]
    mean = (weights * x).sum(0)
    torch.testing.assert_close(p.mean, mean)
    if name != "logistic":  # whose components say no variance
        torch.testing.assert_close(p.variance, (weights * (x - mean).square()).sum(0))


def test_pixels_of_a_patch_depend_on_one_another_and_on_no_others():
    """By the exact covariances of all pairs of a 2x4 image's pixels."""
    p, x = made("binary")(features_of("binary")), all_images("binary").flatten(1)
    weights = p.log_prob(all_images("binary")).exp()[:, None]
    apart = x - (weights * x).sum(0)
    covariance = torch.einsum("ni,nj->ij", weights * apart, apart)
    patch = torch.tensor([0, 0, 1, 1] * 2)
    same = patch[:, None] == patch
    assert (covariance[same].abs() > 1e-6).all() and (covariance[~same].abs() < 1e-12).all()


# ------------------------------------------------------------------------------ drawing
def test_draws_have_the_probabilities_that_are_measured():
    """Frequencies of all 256 images of 2x4 in 100,000 draws: a chi-squared of 255 degrees of freedom."""
    p = made("binary")(features_of("binary") / 2)
    expected = 100_000 * p.log_prob(all_images("binary")).exp()
    codes = (p.sample((100_000,)).flatten(1) @ (2.0 ** torch.arange(7, -1, -1)).double()).long()
    counts = codes.bincount(minlength=256)
    assert ((counts - expected) ** 2 / expected).sum() < 330.5  # exceeded once in a thousand


@pytest.mark.parametrize("sample_shape", [(), (1,), (4,), (3, 2)])
@pytest.mark.parametrize(("own", "expanded"), [((), ()), ((), (5,)), ((5,), (5,)), ((5,), (2, 5)), ((2, 1), (2, 5))])
def test_draws_belong_to_the_features_that_they_are_drawn_from(sample_shape, own, expanded):
    """With pixels that are all but certain, so that a draw shows its features."""
    images = torch.randint(2, (*own, 1, 4, 6)).double()
    features = made("binary").feature_shape((1, 4, 6))
    bias = made("binary").initial_bias(torch.full((1, 4, 6), 0.5).double()) * 0
    parts = images.unflatten(-1, (3, 2)).unflatten(-3, (2, 2))  # (*own, 1, 2, 2, 3, 2)
    lead = len(own)
    vectors = parts.permute(*range(lead), lead, lead + 2, lead + 4, lead + 1, lead + 3).reshape(*own, 4, 2, 3)
    logits = 100 * (2 * vectors - 1)
    given = bias.expand(*own, *features).clone()
    given[..., 3:, :, :] = torch.cat([logits] * 3, -3)
    p = made("binary")(given).expand(torch.Size(expanded))
    drawn = p.sample(sample_shape)
    assert torch.equal(drawn, images.expand(*sample_shape, *expanded, 1, 4, 6))


def test_expanded_draws_differ():
    p = made("binary")(features_of("binary", 1, sides=(8, 8)) / 4).expand((6,))
    assert len(p.sample().unique(dim=0)) == 6
    assert p.mean.shape == (6, 1, 8, 8)


# ------------------------------------------------------------------------------ leading dimensions
@every
@pytest.mark.parametrize(
    ("of_x", "of_features"), [((), ()), ((5,), ()), ((5,), (5,)), ((5,), (7, 5)), ((5,), (2, 7, 1)), ((7, 1), (5,))]
)
def test_leading_dimensions_broadcast(name, of_x, of_features):
    likelihood, (_, levels, _, side, channels, _) = made(name), CASES[name]
    sides = (2 * side, 3 * side)
    features = features_of(name, *of_features, sides=sides)
    x = torch.randint(levels, (*of_x, channels, *sides)).double() / (levels - 1)
    together = likelihood(features).log_prob(x)
    shape = torch.broadcast_shapes(of_x, of_features)
    assert together.shape == shape
    flat_x = x.expand(*shape, *x.shape[-3:]).reshape(-1, *x.shape[-3:])
    flat = features.expand(*shape, *features.shape[-3:]).reshape(-1, *features.shape[-3:])
    alone = torch.stack([likelihood(f).log_prob(v) for f, v in zip(flat, flat_x, strict=True)])
    torch.testing.assert_close(together.flatten(), alone, rtol=1e-10, atol=1e-10)


def test_halves_are_measured_in_full():
    likelihood = PatchMixture(num_components=3, side=2)
    features = torch.randn(5, *likelihood.feature_shape((1, 4, 4))).bfloat16()
    x = torch.rand(5, 1, 4, 4).round()
    torch.testing.assert_close(likelihood(features).log_prob(x), likelihood(features.float()).log_prob(x))


# ------------------------------------------------------------------------------ in models
def test_z_and_components_are_summed_as_by_quadrature():
    """log p(x) of a VAE of one latent: a grid over z, and 200,000 particles."""
    model = VAE((1, 4, 4), 1, PatchMixture(num_components=3, side=2), hidden_dims=(8,))
    for parameter in model.parameters():
        parameter.data.add_(0.5 * torch.randn_like(parameter))
    guide = GaussianGuide(model, hidden_dims=(8,))
    x = torch.rand(4, 1, 4, 4).round()
    z = torch.linspace(-9, 9, 4001).reshape(-1, 1, 1)
    with torch.no_grad():
        joint = torch.distributions.Normal(0.0, 1.0).log_prob(z)[..., 0] + model.likelihood(model.decoder(z)).log_prob(
            x
        )
    exact = joint.logsumexp(0) + math.log(18 / 4000)
    found = pyro_vae.log_likelihood(model, guide, x, num_particles=200_000, seed=0)
    torch.testing.assert_close(torch.as_tensor(found.per_datum).float(), exact, rtol=0, atol=0.02)


def test_the_path_of_a_hierarchy_ends_at_the_grid_of_patches():
    """Two grids, 4x4 and 2x2; patches of 4x4 pixels lie on the coarser one."""
    likelihood = PatchMixture(num_components=3, side=4)
    model = ConvHierarchicalVAE((1, 8, 8), 3, (6, 5), (0, 1), (1, 2), likelihood=likelihood)
    guide = ConvLadderGuide(model)
    assert len(model.enlarge) == 0 and model.decoder.out_shape == (51, 2, 2)
    drawn = pyro_vae.sample(model, 5)
    assert drawn["x"].shape == drawn["x.mean"].shape == (5, 1, 8, 8) and drawn["z1"].shape == (5, 2, 2, 2)
    assert pyro_vae.reconstruct(model, guide, drawn["x"]).shape == (5, 1, 8, 8)
    finer = ConvHierarchicalVAE((1, 8, 8), 3, (6, 5), (1, 1), (1, 2), likelihood=PatchMixture(num_components=3, side=2))
    assert len(finer.enlarge) == 1 and finer.decoder.out_shape == (15, 4, 4)
    assert pyro_vae.sample(finer, 5)["x"].shape == (5, 1, 8, 8)


def test_grids_that_do_not_meet_are_refused():
    with pytest.raises(InputError, match=r"num_latents must be 0 at the first 1, got \[1, 1\]"):
        ConvHierarchicalVAE((1, 8, 8), 3, (6, 5), (1, 1), (1, 2), likelihood=PatchMixture(side=4))
    with pytest.raises(InputError, match="takes features on a grid of 1x1; there are 4x4, 2x2"):
        ConvHierarchicalVAE((1, 8, 8), 3, (6, 5), (0, 1), (1, 2), likelihood=PatchMixture(side=8))


# ------------------------------------------------------------------------------ start, and what is refused
@every
def test_it_starts_at_the_mean_with_components_apart(name):
    output, _, count, side, channels, _ = CASES[name]
    likelihood = PatchMixture(output(), count, side, channels)
    mean = 0.1 + 0.8 * torch.rand(channels, 2 * side, 3 * side)
    bias = likelihood.initial_bias(mean)
    assert bias.shape == likelihood.feature_shape(mean.shape)
    p = likelihood(bias)
    torch.testing.assert_close(p.mean, mean, rtol=0, atol=0.01)
    if count > 1:
        parts = p.components.mean  # (rows, columns, K, n)
        assert (parts[..., 1:, :] > parts[..., :-1, :]).all()


def test_what_it_is_not_for_is_refused():
    for wrong in (Gaussian(0.3), likelihoods.Multinomial(3), PixelCNN(), PatchMixture()):
        with pytest.raises(
            InputError, match="PatchMixture: output must be a likelihood of binary numbers or of grey levels"
        ):
            PatchMixture(wrong)
    for wrong in ({"num_components": 0}, {"side": 0}, {"data_channels": 0}, {"side": 2.5}):
        with pytest.raises(InputError, match=f"PatchMixture: {next(iter(wrong))}"):
            PatchMixture(**wrong)
    with pytest.raises(InputError, match="data_channels=1 is for images"):
        PatchMixture().feature_shape((3, 8, 8))
    with pytest.raises(InputError, match="data_channels=1 is for images"):
        PatchMixture().feature_shape((64,))
    with pytest.raises(InputError, match="6x8 cannot be parted into patches of side 4"):
        PatchMixture().feature_shape((1, 6, 8))
    with pytest.raises(InputError, match=r"needs features \(..., 272, rows, columns\)"):
        PatchMixture()(torch.zeros(2, 4, 8, 8))
    with pytest.raises(InputError, match="needs features"):
        PatchMixture()(torch.zeros(2, 272), 1)


def test_models_that_need_independent_elements_say_so():
    likelihood = PatchMixture(num_components=3, side=2)
    baseline = CompletionBaseline((1, 4, 4), likelihood, baseline_hidden_dims=(8,))
    x, mask = torch.ones(5, 1, 4, 4), torch.ones(5, 1, 4, 4, dtype=torch.bool).tril()
    with pytest.raises(InputError, match="need a likelihood of independent elements; PatchMixture draws"):
        baseline.completed(torch.zeros(5, 15, 2, 2), x, mask)


def test_values_outside_the_support_are_refused_where_they_are_checked():
    p = made("grey")(features_of("grey"))
    p._validate_args = True
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.full((1, 2, 2), 0.3).double())
