"""PixelCNN over patches: sums to one, equals the mixtures written out, sees what is before, is drawn as measured."""

import itertools
import math

import pytest
import torch

import pyro_vae
from pyro_vae import likelihoods
from pyro_vae.errors import InputError
from pyro_vae.guides import ConvLadderGuide, EmptyGuide, GaussianGuide
from pyro_vae.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Gaussian,
    PatchMixture,
    PatchPixelCNN,
    PixelCNN,
)
from pyro_vae.models import VAE, CompletionBaseline, ConvHierarchicalVAE, PixelModel

CASES = {  # output, levels, components, side, channels, more, image that is small enough to enumerate
    "binary": (Bernoulli, 2, 3, 2, 1, {}, (2, 6)),
    "binary, rows": (Bernoulli, 2, 2, 2, 1, {"num_layers": 1, "head_layers": 2}, (6, 2)),
    "single pixels": (Bernoulli, 2, 2, 1, 1, {"num_layers": 3, "kernel": 3}, (2, 3)),
    "one component": (Bernoulli, 2, 1, 2, 1, {"inner_kernel": 5}, (4, 2)),
    "whole image": (Bernoulli, 2, 4, 3, 1, {}, (3, 3)),
    "colour": (Bernoulli, 2, 3, 1, 3, {}, (1, 3)),
    "grey": (lambda: Categorical(3), 3, 2, 2, 1, {}, (2, 4)),
    "logistic": (lambda: DiscretizedLogisticMixture(2, 3), 3, 2, 1, 2, {}, (1, 3)),
}
SMALL = {"channels": 6, "head_channels": 7}
every = pytest.mark.parametrize("name", CASES)
features_or_none = pytest.mark.parametrize("features", [0, 3])


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def made(name, features=3, **more):
    output, _, components, side, channels, options, _ = CASES[name]
    likelihood = PatchPixelCNN(output(), components, side, features, channels, **SMALL | options | more).double()
    with torch.no_grad():
        likelihood.head.out.weight.mul_(30)  # away from the start, where a patch hardly depends on others
        likelihood.head.seen.weight.mul_(3)
    return likelihood


def all_images(name):
    _, levels, _, _, channels, _, sides = CASES[name]
    every = itertools.product(range(levels), repeat=channels * math.prod(sides))
    return torch.tensor([*every]).double().reshape(-1, channels, *sides) / (levels - 1)


def images(name, *leading, grid=(3, 4)):
    _, levels, _, side, channels, _, _ = CASES[name]
    x = torch.randint(levels, (*leading, channels, grid[0] * side, grid[1] * side))
    return x.double() / (levels - 1)


def features_of(name, features=3, *leading, grid=None):
    *_, side, _, _, small = CASES[name]
    return torch.randn(*leading, features, *(grid or (small[0] // side, small[1] // side))).double()


# ------------------------------------------------------------------------------ exact sums
@every
@features_or_none
def test_it_sums_to_one_over_all_images(name, features):
    total = made(name, features)(features_of(name, features)).log_prob(all_images(name)).exp().sum()
    torch.testing.assert_close(total.item(), 1.0, rtol=0, atol=1e-12)


def parameters(likelihood, x, features):
    """Of all patches, in one pass, as the mixture is given them: ``(batch, K (1 + P n), rows, columns)``."""
    given, original = [], likelihood.patch.forward
    likelihood.patch.forward = lambda found, event_dim=3: given.append(found) or original(found, event_dim)
    likelihood.given_before(x, features)
    del likelihood.patch.forward
    return given[0]


@every
@features_or_none
def test_it_is_the_product_of_mixtures_given_what_is_before(name, features):
    """Patch by patch, of an image whose other patches are not there yet."""
    likelihood, (_, _, _, side, _, _, _) = made(name, features), CASES[name]
    x, f = images(name, 2), features_of(name, features, 2, grid=(3, 4))
    before, total = torch.zeros_like(x), torch.zeros(2).double()
    for row, column in itertools.product(range(3), range(4)):
        rows, columns = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
        here = parameters(likelihood, before, f)[:, :, row : row + 1, column : column + 1]
        total = total + likelihood.patch(here).log_prob(x[:, :, rows, columns])
        before[:, :, rows, columns] = x[:, :, rows, columns]
    torch.testing.assert_close(likelihood(f).log_prob(x), total)


# ------------------------------------------------------------------------------ what is seen
def dependence(likelihood, grid):
    """Bool (N, N): whether the parameters of a patch (row) change with a patch's pixels (column), in reading order."""
    side, (rows, columns) = likelihood.side, grid
    shape = (1, likelihood.data_channels, rows * side, columns * side)
    x = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    out = parameters(likelihood, x, torch.randn(1, likelihood.features, *grid).double())
    weights = torch.randn(out.shape[1], dtype=torch.float64)
    found = []
    for each in torch.einsum("p,phw->hw", weights, out[0]).flatten():
        (gradient,) = torch.autograd.grad(each, x, retain_graph=True)
        seen = gradient[0].unflatten(-1, (columns, side)).unflatten(-3, (rows, side)).abs().amax((0, 2, 4))
        found.append(seen.flatten() != 0)
    return torch.stack(found)


@every
def test_no_patch_at_or_after_a_patch_is_seen(name):
    found = dependence(made(name), (4, 5))
    assert not (found & ~torch.ones_like(found).tril(-1)).any()


@pytest.mark.parametrize(
    ("grid", "options"),
    [
        ((5, 5), {"num_layers": 4, "kernel": 3}),
        ((4, 7), {"num_layers": 4, "kernel": 7}),
        ((6, 3), {"num_layers": 2, "kernel": 7, "inner_kernel": 5}),
        ((4, 4), {"num_layers": 1, "kernel": 7}),
    ],
)
def test_every_patch_before_is_seen_if_deep_enough(grid, options):
    likelihood = PatchPixelCNN(None, 2, 2, 3, channels=24, head_channels=24, **options).double()
    assert likelihood.reach >= max(grid) - 1
    found = dependence(likelihood, grid)
    assert torch.equal(found, torch.ones_like(found).tril(-1))


@pytest.mark.parametrize(("layers", "kernel", "inner"), [(1, 3, 3), (1, 5, 3), (2, 5, 3), (2, 3, 5)])
def test_the_receptive_field_is_what_it_says(layers, kernel, inner):
    sizes = {"num_layers": layers, "kernel": kernel, "inner_kernel": inner}
    likelihood = PatchPixelCNN(None, 2, 2, 3, channels=24, head_channels=24, **sizes).double()
    reach = kernel // 2 + (layers - 1) * (inner // 2)
    places = [(r, c) for r in range(5) for c in range(6)]
    near = [
        [(0 < r - s <= reach and abs(c - d) <= reach) or (r == s and 0 < c - d <= reach) for s, d in places]
        for r, c in places
    ]
    assert likelihood.reach == reach
    assert torch.equal(dependence(likelihood, (5, 6)), torch.tensor(near))


# ------------------------------------------------------------------------------ drawing
@every
@features_or_none
def test_drawn_patch_by_patch_as_by_full_passes(name, features):
    """From the same random state; the memory is shown nothing that is not yet drawn."""
    likelihood, (_, _, _, side, channels, _, _) = made(name, features), CASES[name]
    p = likelihood(features_of(name, features, 6, grid=(3, 4)))
    torch.manual_seed(5)
    ours = p.sample()
    torch.manual_seed(5)
    x = torch.zeros(6, channels, 3 * side, 4 * side, dtype=torch.float64)
    for row, column in itertools.product(range(3), range(4)):
        here = parameters(likelihood, x, p.features)[:, :, row : row + 1, column : column + 1]
        rows, columns = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
        x[:, :, rows, columns] = likelihood.patch(here).sample()
    assert torch.equal(ours, x) and len(ours.unique()) > 1
    assert p.support.check(ours).all()


def test_draws_have_the_probabilities_that_are_measured():
    """Frequencies of all 64 images of 2x3 in 100,000 draws: a chi-squared of 63 degrees of freedom."""
    p, x = made("single pixels")(features_of("single pixels")), all_images("single pixels")
    expected = 100_000 * p.log_prob(x).exp()
    codes = (p.sample((100_000,)).flatten(1) @ (2.0 ** torch.arange(5, -1, -1)).double()).long()
    counts = codes.bincount(minlength=64)
    assert expected.min() > 1
    assert ((counts - expected) ** 2 / expected).sum() < 103.4  # exceeded once in a thousand


def test_samples_have_all_leading_dimensions():
    p = made("colour")(features_of("colour", 3, 2, grid=(4, 4)))
    assert p.sample((5, 7)).shape == (5, 7, 2, 3, 4, 4)
    assert made("binary", 0)(torch.zeros(0, 3, 2).double()).expand((6,)).sample().shape == (6, 1, 6, 4)


def test_draws_under_autocast_are_grey_levels():
    """bfloat16 has 8 bits: of 256 levels it holds the fewest exactly."""
    likelihood = PatchPixelCNN(Categorical(256), 2, 2, 2, channels=4, head_channels=4, kernel=3)
    with torch.autocast("cpu", torch.bfloat16):
        fn = likelihood(torch.randn(3, 2, 2, 2).bfloat16())
        x, means = fn.sample(), fn.mean_along(fn.sample())
    assert x.dtype == means.dtype == torch.float32
    torch.testing.assert_close(x, (255 * x).round() / 255, rtol=0, atol=1e-7)


# ------------------------------------------------------------------------------ means
@pytest.mark.parametrize("name", ["single pixels", "grey", "colour"])
def test_means_along_draws_are_the_mean_on_average(name):
    """Exactly: sum over all images of p(x) E[x_g | x_<g] is E[x_g]."""
    p, x = made(name)(features_of(name)), all_images(name)
    weights = p.log_prob(x).exp()[:, None, None, None]
    torch.testing.assert_close((weights * p.mean_along(x)).sum(0), (weights * x).sum(0))


# ------------------------------------------------------------------------------ leading dimensions
@every
@pytest.mark.parametrize(
    ("of_x", "of_features"), [((), ()), ((5,), ()), ((5,), (5,)), ((5,), (7, 5)), ((5,), (2, 7, 1)), ((7, 1), (5,))]
)
def test_leading_dimensions_broadcast(name, of_x, of_features):
    likelihood = made(name)
    features, x = features_of(name, 3, *of_features, grid=(3, 4)), images(name, *of_x)
    together = likelihood(features).log_prob(x)
    shape = torch.broadcast_shapes(of_x, of_features)
    assert together.shape == shape
    flat_x = x.expand(*shape, *x.shape[-3:]).reshape(-1, *x.shape[-3:])
    flat = features.expand(*shape, *features.shape[-3:]).reshape(-1, *features.shape[-3:])
    alone = torch.stack([likelihood(f).log_prob(v) for f, v in zip(flat, flat_x, strict=True)])
    torch.testing.assert_close(together.flatten(), alone, rtol=1e-10, atol=1e-10)


def test_the_image_is_seen_once_whatever_the_particles():
    likelihood, seen = made("binary"), []
    likelihood.layers[0].register_forward_hook(lambda module, given, out: seen.append(given[0].shape[0]))
    likelihood(features_of("binary", 3, 50, 4, grid=(3, 4))).log_prob(images("binary", 4))
    assert seen == [4]


# ------------------------------------------------------------------------------ in models
def test_z_is_summed_over_as_by_quadrature():
    """log p(x) of a VAE of one latent: a grid over z, and 200,000 particles."""
    sizes = {"num_components": 3, "side": 2, "features": 3, "channels": 5, "head_channels": 6}
    model = VAE((1, 4, 4), 1, PatchPixelCNN(**sizes), hidden_dims=(8,))
    for parameter in model.parameters():
        parameter.data.add_(0.5 * torch.randn_like(parameter))
    guide = GaussianGuide(model, hidden_dims=(8,))
    x = torch.rand(4, 1, 4, 4).round()
    z = torch.linspace(-9, 9, 4001).reshape(-1, 1, 1)
    with torch.no_grad():
        p_x = model.likelihood(model.decoder(z))
        joint = torch.distributions.Normal(0.0, 1.0).log_prob(z)[..., 0] + p_x.log_prob(x)
    exact = joint.logsumexp(0) + math.log(18 / 4000)
    found = pyro_vae.log_likelihood(model, guide, x, num_particles=200_000, seed=0)
    torch.testing.assert_close(torch.as_tensor(found.per_datum).float(), exact, rtol=0, atol=0.02)


def test_samples_and_reconstructions_are_images():
    likelihood = PatchPixelCNN(num_components=3, side=4, features=5, **SMALL)
    model = ConvHierarchicalVAE((1, 8, 8), 3, (6, 5), (0, 1), (1, 2), likelihood=likelihood)
    assert len(model.enlarge) == 0 and model.decoder.out_shape == (5, 2, 2)
    drawn = pyro_vae.sample(model, 6)
    assert drawn["x"].shape == drawn["x.mean"].shape == (6, 1, 8, 8)
    shown = pyro_vae.reconstruct(model, ConvLadderGuide(model), drawn["x"])
    assert shown.shape == (6, 1, 8, 8) and ((shown > 0) & (shown < 1)).all()


def test_without_features_its_likelihood_is_exact():
    model = PixelModel((1, 4, 4), PatchPixelCNN(num_components=2, side=2, features=0, **SMALL))
    x = pyro_vae.sample(model, 5)["x"]
    found = pyro_vae.log_likelihood(model, EmptyGuide(), x, num_particles=1, progress=False).per_datum
    with torch.no_grad():
        exact = model.likelihood(torch.zeros(5, 0, 2, 2)).log_prob(x)
    torch.testing.assert_close(torch.as_tensor(found).float(), exact)


# ------------------------------------------------------------------------------ start, and what is refused
@every
def test_it_starts_at_the_mean_with_components_apart(name):
    output, _, count, side, channels, options, _ = CASES[name]
    likelihood = PatchPixelCNN(output(), count, side, 3, channels, **SMALL | options)
    mean = torch.rand(channels, side, side)[:, None, :, None, :] * 0.8 + 0.1  # (C, 1, side, 1, side): of each patch
    mean = mean.expand(channels, 6, side, 6, side).reshape(channels, 6 * side, 6 * side)
    likelihood.set_output_bias(mean)
    p = likelihood.given_before(torch.zeros_like(mean), torch.zeros(3, 6, 6))
    torch.testing.assert_close(p.mean, mean, rtol=0, atol=0.06)
    if count > 1:
        parts = p.components.mean.mean((0, 1))  # (K, n)
        assert (parts[1:] > parts[:-1]).all()
    assert not likelihood.initial_bias(mean).any()


def test_what_it_is_not_for_is_refused():
    for wrong in (Gaussian(0.3), likelihoods.Multinomial(3), PixelCNN(), PatchMixture(), PatchPixelCNN()):
        with pytest.raises(InputError, match="PatchPixelCNN: output must be a likelihood of binary numbers or of grey"):
            PatchPixelCNN(wrong)
    sizes = ("num_components", "side", "data_channels", "channels", "num_layers", "head_channels", "head_layers")
    for wrong in (
        *({size: 0} for size in sizes),
        {"kernel": 4},
        {"inner_kernel": 1},
        {"features": -1},
        {"side": 2.5},
        {"dropout": 1.0},
    ):
        with pytest.raises(InputError, match=f"PatchPixelCNN: {next(iter(wrong))}"):
            PatchPixelCNN(**wrong)
    assert PatchPixelCNN(features=None).feature_shape((1, 8, 8)) == (0, 2, 2)
    with pytest.raises(InputError, match="data_channels=1 is for images"):
        PatchPixelCNN().feature_shape((3, 8, 8))
    with pytest.raises(InputError, match="PatchPixelCNN: images of 6x8 cannot be parted into patches of side 4"):
        PatchPixelCNN().feature_shape((1, 6, 8))
    with pytest.raises(InputError, match=r"needs features \(..., 64, rows, columns\)"):
        PatchPixelCNN()(torch.zeros(2, 4, 8, 8))
    with pytest.raises(InputError, match="needs features"):
        PatchPixelCNN()(torch.zeros(2, 64), 1)
    with pytest.raises(InputError, match="PixelModel has no decoder, and PatchPixelCNN takes features"):
        PixelModel((1, 8, 8), PatchPixelCNN())


def test_models_that_need_independent_elements_say_so():
    likelihood = PatchPixelCNN(num_components=3, side=2, features=3, **SMALL)
    baseline = CompletionBaseline((1, 4, 4), likelihood, baseline_hidden_dims=(8,))
    x, mask = torch.ones(5, 1, 4, 4), torch.ones(5, 1, 4, 4, dtype=torch.bool).tril()
    with pytest.raises(InputError, match="need a likelihood of independent elements; AutoregressiveImage draws one"):
        baseline.completed(torch.zeros(5, 3, 2, 2), x, mask)


def test_values_outside_the_support_are_refused_where_they_are_checked():
    p = made("grey")(features_of("grey"))
    p._validate_args = True
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.full((1, 2, 4), 0.3).double())
