"""PixelCNN as a likelihood: sums to one, sees what is before and nothing else, and is drawn as it is measured."""

import itertools

import pytest
import torch

import pyro_vae
from pyro_vae import likelihoods
from pyro_vae.errors import InputError
from pyro_vae.guides import GaussianGuide
from pyro_vae.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian, PixelCNN
from pyro_vae.models import VAE, CompletionBaseline, PixelModel

SMALL = {"channels": 8, "kernel": 5, "head_channels": 5}
CASES = {  # output, levels, channels, more
    "binary": (Bernoulli, 2, 1, {}),
    "binary, one layer": (Bernoulli, 2, 1, {"num_layers": 1, "head_layers": 1}),
    "binary, deep": (Bernoulli, 2, 1, {"num_layers": 4, "head_layers": 3, "kernel": 3}),
    "binary, layers too": (Bernoulli, 2, 1, {"condition_layers": True, "num_layers": 3}),
    "grey": (lambda: Categorical(3), 3, 1, {}),
    "colour": (lambda: Categorical(2), 2, 3, {}),
    "colour, binary": (Bernoulli, 2, 2, {"head_layers": 3}),
    "mixture": (lambda: DiscretizedLogisticMixture(2, 4), 4, 1, {}),
    "mixture, colour": (lambda: DiscretizedLogisticMixture(3, 2), 2, 3, {}),
}
every = pytest.mark.parametrize("name", CASES)
features_or_none = pytest.mark.parametrize("features", [0, 3])


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def made(name, features=3, **more):
    output, _, channels, options = CASES[name]
    if not features:
        options = {key: value for key, value in options.items() if key != "condition_layers"}
    likelihood = PixelCNN(output(), features, channels, **SMALL | options | more).double()
    with torch.no_grad():
        likelihood.head.out.weight.mul_(20)  # away from the start, where a pixel hardly depends on others
    return likelihood


def all_images(levels, channels, height, width):
    every = itertools.product(range(levels), repeat=channels * height * width)
    return torch.tensor([*every]).double().reshape(-1, channels, height, width) / (levels - 1)


# ------------------------------------------------------------------------------ exact sums
@every
@features_or_none
def test_it_sums_to_one_over_all_images(name, features):
    _, levels, channels, _ = CASES[name]
    height, width = (1, 2) if channels > 1 else (2, 3) if levels == 2 else (2, 2)
    p = made(name, features)(torch.randn(features, height, width).double())
    total = p.log_prob(all_images(levels, channels, height, width)).exp().sum()
    torch.testing.assert_close(total.item(), 1.0, rtol=0, atol=1e-12)


def test_mixtures_sum_to_one_over_the_grey_levels_of_a_pixel():
    likelihood = PixelCNN(DiscretizedLogisticMixture(3, 256), **SMALL).double()
    x = (torch.rand(1, 1, 4, 4).double() * 255).round() / 255
    x = x.repeat(256, 1, 1, 1)
    x[:, 0, 2, 1] = torch.arange(256) / 255
    p = likelihood.given_before(x, torch.randn(16, 4, 4).double()).base_dist.log_prob(x)[:, 0, 2, 1]
    torch.testing.assert_close(p.exp().sum().item(), 1.0, rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------ what is seen
def parameters(likelihood, x, features):
    """Of all numbers, in one pass, as the output's distribution is given them: ``(batch, P, C, height, width)``."""
    given, original = [], likelihood.output.forward
    likelihood.output.forward = lambda found, event_dim=3: given.append(found) or original(found, event_dim)
    likelihood.given_before(x, features)
    del likelihood.output.forward
    return given[0].unflatten(1, (-1, likelihood.data_channels))


def dependence(likelihood, shape):
    """Bool (N, N): whether the parameters of number i (row) change with x_j, in the order of drawing."""
    channels = likelihood.data_channels
    x = torch.rand(1, channels, *shape, dtype=torch.float64, requires_grad=True)
    out = parameters(likelihood, x, torch.randn(1, likelihood.features, *shape).double())
    weights = torch.randn(out.shape[1], dtype=torch.float64)
    ordered = torch.einsum("p,pchw->hwc", weights, out[0]).flatten()
    rows = [torch.autograd.grad(each, x, retain_graph=True)[0][0].permute(1, 2, 0).flatten() for each in ordered]
    return torch.stack(rows) != 0


@every
def test_nothing_at_or_after_a_number_is_seen(name):
    found = dependence(made(name), (4, 5))
    assert not (found & ~torch.ones_like(found).tril(-1)).any()


@pytest.mark.parametrize(
    ("channels", "shape", "options"),
    [
        (1, (6, 6), {"num_layers": 5, "kernel": 3}),
        (1, (4, 7), {"num_layers": 4, "kernel": 7}),
        (1, (7, 3), {"num_layers": 2, "kernel": 7, "inner_kernel": 7}),
        (1, (5, 5), {"num_layers": 1, "kernel": 9}),
        (3, (3, 4), {"num_layers": 3, "kernel": 3}),
        (2, (2, 2), {"num_layers": 1, "kernel": 3}),
    ],
)
def test_everything_before_is_seen_if_deep_enough(channels, shape, options):
    likelihood = PixelCNN(Categorical(4), 3, channels, channels=32, **options).double()
    assert likelihood.reach >= max(shape) - 1
    found = dependence(likelihood, shape)
    assert torch.equal(found, torch.ones_like(found).tril(-1))


@pytest.mark.parametrize(("layers", "kernel", "inner"), [(1, 3, 3), (1, 5, 3), (2, 5, 3), (2, 3, 5), (3, 3, 3)])
def test_the_receptive_field_is_what_it_says(layers, kernel, inner):
    likelihood = PixelCNN(None, 3, channels=32, num_layers=layers, kernel=kernel, inner_kernel=inner).double()
    reach = kernel // 2 + (layers - 1) * (inner // 2)
    places = [(r, c) for r in range(6) for c in range(7)]
    near = [
        [(0 < r - s <= reach and abs(c - d) <= reach) or (r == s and 0 < c - d <= reach) for s, d in places]
        for r, c in places
    ]
    assert likelihood.reach == reach
    assert torch.equal(dependence(likelihood, (6, 7)), torch.tensor(near))


# ------------------------------------------------------------------------------ drawing
@every
@features_or_none
def test_drawn_number_by_number_as_by_full_passes(name, features):
    """From the same random state; the memory is shown nothing that is not yet drawn."""
    likelihood, channels = made(name, features), CASES[name][2]
    p = likelihood(torch.randn(6, features, 4, 5).double())
    torch.manual_seed(5)
    ours = p.sample()
    torch.manual_seed(5)
    x = torch.zeros(6, channels, 4, 5, dtype=torch.float64)
    for r, c, k in itertools.product(range(4), range(5), range(channels)):
        out = parameters(likelihood, x, p.features)[:, :, k, r, c]  # (6, P)
        x[:, k, r, c] = likelihood.output(out, 1).sample()[:, 0]
    assert torch.equal(ours, x) and len(ours.unique()) > 1
    assert p.support.check(ours).all()


def test_draws_have_the_probabilities_that_are_measured():
    """Frequencies of all 2x2 binary images in 40,000 draws: a chi-squared of 15 degrees of freedom."""
    p = made("binary")(torch.randn(3, 2, 2).double())
    every = all_images(2, 1, 2, 2)
    expected = 40_000 * p.log_prob(every).exp()
    drawn = (p.sample((40_000,)).flatten(1) @ torch.tensor([8.0, 4, 2, 1]).double()).long()
    counts = drawn.bincount(minlength=16)
    assert ((counts - expected) ** 2 / expected).sum() < 37.7  # exceeded once in a thousand


def test_samples_have_all_leading_dimensions():
    p = made("colour")(torch.randn(2, 3, 4, 4).double())
    assert p.sample((5, 7)).shape == (5, 7, 2, 3, 4, 4)
    assert made("binary", 0)(torch.zeros(0, 3, 4).double()).expand((6,)).sample().shape == (6, 1, 3, 4)


# ------------------------------------------------------------------------------ means
@pytest.mark.parametrize("name", ["binary", "grey", "colour, binary"])
def test_means_along_draws_are_the_mean_on_average(name):
    """Exactly: sum over all images of p(x) E[x_i | x_<i] is E[x_i]."""
    _, levels, channels, _ = CASES[name]
    p = made(name)(torch.randn(3, 2, 2).double())
    every = all_images(levels, channels, 2, 2)
    weights = p.log_prob(every).exp()[:, None, None, None]
    torch.testing.assert_close((weights * p.mean_along(every)).sum(0), (weights * every).sum(0))


def test_samples_and_reconstructions_show_means_along_draws():
    model = VAE((1, 5, 4), 3, made("binary").float(), hidden_dims=(8,))
    guide = GaussianGuide(model, hidden_dims=(8,))
    drawn = pyro_vae.sample(model, 6)
    with torch.no_grad():
        p = model.likelihood(model.decoder(drawn["z"]))
        torch.testing.assert_close(drawn["x.mean"], p.mean_along(drawn["x"]))
    shown = pyro_vae.reconstruct(model, guide, drawn["x"])
    assert shown.shape == (6, 1, 5, 4) and ((shown > 0) & (shown < 1)).all()
    shown = pyro_vae.decode(model, {"z": drawn["z"]})
    assert shown.shape == (6, 1, 5, 4) and ((shown > 0) & (shown < 1)).all()


# ------------------------------------------------------------------------------ leading dimensions
@every
@pytest.mark.parametrize(
    ("of_x", "of_features"), [((), ()), ((5,), ()), ((5,), (5,)), ((5,), (7, 5)), ((5,), (2, 7, 1)), ((7, 1), (5,))]
)
def test_leading_dimensions_broadcast(name, of_x, of_features):
    likelihood, (_, levels, channels, _) = made(name), CASES[name]
    features = torch.randn(*of_features, 3, 4, 3).double()
    x = torch.randint(levels, (*of_x, channels, 4, 3)).double() / (levels - 1)
    together = likelihood(features).log_prob(x)
    shape = torch.broadcast_shapes(of_x, of_features)
    assert together.shape == shape
    flat_x = x.expand(*shape, *x.shape[-3:]).reshape(-1, *x.shape[-3:])
    flat = features.expand(*shape, 3, 4, 3).reshape(-1, 3, 4, 3)
    alone = torch.stack([likelihood(f).log_prob(v) for f, v in zip(flat, flat_x, strict=True)])
    torch.testing.assert_close(together.flatten(), alone, rtol=1e-10, atol=1e-10)


def test_the_image_is_seen_once_whatever_the_particles():
    likelihood, seen = made("binary"), []
    likelihood.layers[0].register_forward_hook(lambda module, given, out: seen.append(given[0].shape[0]))
    likelihood(torch.randn(50, 4, 3, 5, 5).double()).log_prob(torch.ones(4, 1, 5, 5).double())
    assert seen == [4]


# ------------------------------------------------------------------------------ start, and what is refused
@every
def test_it_starts_at_the_mean(name):
    output, _, channels, options = CASES[name]
    likelihood = PixelCNN(output(), 3, channels, **SMALL | options)
    mean = torch.tensor([0.13, 0.7, 0.4])[:channels, None, None].expand(channels, 6, 6)
    likelihood.set_output_bias(mean)
    x = likelihood(torch.zeros(3, 6, 6)).sample((400,))
    torch.testing.assert_close(x.mean((0, 2, 3)), mean[:, 0, 0], rtol=0, atol=0.06)


def test_what_it_is_not_for_is_refused():
    with pytest.raises(InputError, match="output must be a likelihood of binary numbers or of grey levels"):
        PixelCNN(Gaussian(0.3))
    with pytest.raises(InputError, match="output must be"):
        PixelCNN(likelihoods.Multinomial(3))
    with pytest.raises(InputError, match="output must be"):
        PixelCNN(PixelCNN())
    for wrong in (
        {"kernel": 4},
        {"inner_kernel": 1},
        {"channels": 0},
        {"features": -1},
        {"features": 2.5},
        {"dropout": 1.0},
    ):
        with pytest.raises(InputError, match=f"PixelCNN: {next(iter(wrong))}"):
            PixelCNN(**wrong)
    assert (
        PixelCNN(features=None).feature_shape((1, 8, 8)) == PixelCNN(features=0).feature_shape((1, 8, 8)) == (0, 8, 8)
    )
    with pytest.raises(InputError, match="condition_layers needs features"):
        PixelCNN(features=0, condition_layers=True)
    with pytest.raises(InputError, match="data_channels=1 is for images"):
        PixelCNN().feature_shape((3, 8, 8))
    with pytest.raises(InputError, match=r"needs features \(..., 16, height, width\)"):
        PixelCNN()(torch.zeros(2, 4, 8, 8))
    with pytest.raises(InputError, match="PixelModel has no decoder, and PixelCNN takes features"):
        PixelModel((1, 8, 8), PixelCNN())
    with pytest.raises(InputError, match="PixelModel has no decoder, and Bernoulli takes features"):
        PixelModel((1, 8, 8), Bernoulli())


def test_values_outside_the_support_are_refused_where_they_are_checked():
    p = made("grey")(torch.zeros(3, 2, 2).double())
    p._validate_args = True
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.full((1, 2, 2), 0.3).double())


def test_models_that_need_independent_elements_say_so():
    baseline = CompletionBaseline((1, 4, 4), PixelCNN(features=3, **SMALL), baseline_hidden_dims=(8,))
    x, mask = torch.ones(5, 1, 4, 4), torch.ones(5, 1, 4, 4, dtype=torch.bool).tril()
    with pytest.raises(InputError, match="need a likelihood of independent elements; AutoregressiveImage draws one"):
        baseline.completed(torch.zeros(5, 3, 4, 4), x, mask)
    with pytest.raises(InputError, match="PixelCNN needs features"):
        PixelCNN(features=3)(torch.zeros(2, 7, 3), 1)  # as a model of steps asks for it


def test_draws_under_autocast_are_grey_levels():
    """bfloat16 has 8 bits: of 256 levels it holds the fewest exactly."""
    likelihood = PixelCNN(Categorical(256), features=2, channels=4, head_channels=4, kernel=3)
    with torch.autocast("cpu", torch.bfloat16):
        fn = likelihood(torch.randn(3, 2, 4, 4).bfloat16())
        x, means = fn.sample(), fn.mean_along(fn.sample())
    assert x.dtype == means.dtype == torch.float32
    torch.testing.assert_close(x, (255 * x).round() / 255, rtol=0, atol=1e-7)


def test_integers_are_numbers():
    likelihood = PixelCNN(features=0, channels=4, head_channels=4, kernel=3)
    fn, x = likelihood(torch.zeros(5, 0, 4, 4)), torch.randint(0, 2, (5, 1, 4, 4))
    torch.testing.assert_close(fn.log_prob(x), fn.log_prob(x.float()))
