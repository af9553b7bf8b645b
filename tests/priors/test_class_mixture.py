"""Priors with classes: p(z) and p(z | y) against written-out ones, what a model makes of labels, bad input."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_vae import ais, elbo, fit, log_likelihood, sample
from pyro_vae.errors import InputError
from pyro_vae.guides import ConditionalGuide, GaussianGuide
from pyro_vae.models import VAE, ClassPriorVAE, ConditionalVAE, HierarchicalVAE
from pyro_vae.networks import OneHot
from pyro_vae.priors import ClassMixturePrior, MixtureDensityPrior, MixturePrior, PinwheelPrior, SwissRollPrior
from pyro_vae.programs.context import declared_context, label_context, narrowed, needed_to_generate, num_classes
from pyro_vae.programs.left_out import without_averaged
from pyro_vae.programs.site_priors import WithPriors

SHAPE = (1, 6, 5)
LOWER = [[[0.5, 0.0], [0.2, 0.3]], [[0.3, 0.0], [-0.2, 0.4]], [[0.6, 0.0], [0.0, 0.6]], [[0.4, 0.0], [0.3, 0.2]]]
MEANS, CLASSES, WEIGHTS = [[-1.5, 0.0], [1.5, 0.3], [0.0, 2.0], [0.0, -1.0]], [0, 1, 0, 1], [1.0, 2.0, 3.0, 4.0]


def small():
    return ClassMixturePrior(MEANS, LOWER, CLASSES, WEIGHTS)


PRIORS = {
    "mixture": small,
    "pinwheel": lambda: PinwheelPrior(10),
    "pinwheel of 3": lambda: PinwheelPrior(3),
    "swiss roll": lambda: SwissRollPrior(10),
    "swiss roll of 3": lambda: SwissRollPrior(3, 0.3, 5),
}


def data(n=6):
    return (torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(3)) > 0.5).double()


def made(prior=None):
    """A model whose decoder looks at z, in float64, and its guide."""
    torch.manual_seed(1)
    model = ClassPriorVAE(SHAPE, prior or small(), hidden_dims=(16,))
    guide = GaussianGuide(model, hidden_dims=(16,))
    with torch.no_grad():
        guide.encoder.mlp.out.bias[2:] += 1.5  # wider than the prior: weights of a small variance
    return model.double(), guide.double()


def grid(side=6.0, points=300):
    """Points of the plane ``(points^2, 2)`` and the area of each."""
    axis = torch.linspace(-side, side, points, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), (axis[1] - axis[0]) ** 2


def every(prior):
    """No label, and some of them."""
    return [None, -1, 0, prior.num_classes - 1]


def of(prior, y):
    """p(z | y) of one label."""
    return prior() if y is None else prior(y=torch.tensor(y))


# -------------------------------------------------------------------------------- densities
@pytest.mark.parametrize("name", PRIORS)
def test_densities_integrate_to_one(name):
    prior = PRIORS[name]().double()
    z, area = grid(points=180 if "roll" in name else 300)
    for y in every(prior):
        assert float((of(prior, y).log_prob(z).exp() * area).sum()) == pytest.approx(1, abs=1e-4), y


@pytest.mark.parametrize("name", PRIORS)
def test_a_class_is_its_part_of_the_mixture(name):
    """p(z) = sum_y p(y) p(z | y); rows of a batch are of their own labels, and of the whole where there is none."""
    prior = PRIORS[name]().double()
    z = prior().sample((300,))
    shares = prior.weights[0].new_tensor([0.4, 0.6] if name == "mixture" else [1 / prior.num_classes])
    parts = torch.stack([of(prior, y).log_prob(z) for y in range(prior.num_classes)], -1)
    torch.testing.assert_close((parts + shares.log()).logsumexp(-1), prior().log_prob(z), rtol=1e-5, atol=1e-6)
    y = torch.arange(300) % (prior.num_classes + 1) - 1
    wanted = torch.where(y < 0, prior().log_prob(z), parts.gather(-1, y.clamp(min=0)[:, None])[:, 0])
    torch.testing.assert_close(prior(y=y).log_prob(z), wanted)
    assert prior(y=y).batch_shape == (300,) and prior().batch_shape == ()


def test_a_mixture_of_classes_is_the_one_written_by_hand():
    z, prior = 2 * torch.randn(200, 2), small()
    parts = dist.MultivariateNormal(torch.tensor(MEANS), scale_tril=torch.tensor(LOWER)).log_prob(z[:, None]).exp()
    w = torch.tensor(WEIGHTS)
    torch.testing.assert_close(prior().log_prob(z).exp(), (parts * w).sum(-1) / 10)
    torch.testing.assert_close(of(prior, 0).log_prob(z).exp(), (parts[:, [0, 2]] * w[[0, 2]]).sum(-1) / 4)
    torch.testing.assert_close(of(prior, 1).log_prob(z).exp(), (parts[:, [1, 3]] * w[[1, 3]]).sum(-1) / 6)


@pytest.mark.parametrize("count", [1, 3, 10])
def test_a_pinwheel_is_the_turned_gaussians(count):
    prior, z = PinwheelPrior(count), torch.randn(100, 2)
    for k in range(count):
        angle = 2 * math.pi * k / count
        back = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        turned = z @ back.T - torch.tensor([1.4, 0.0])
        written = dist.Normal(torch.zeros(2), torch.tensor([0.5, 0.05])).to_event(1).log_prob(turned)
        torch.testing.assert_close(of(prior, k).log_prob(z), written, rtol=1e-4, atol=1e-3)


def test_draws_of_a_pinwheel():
    torch.manual_seed(0)
    prior = PinwheelPrior(10)
    y = torch.arange(10)
    drawn = prior(y=y).sample((20_000,))  # (draws, 10, 2)
    angle = 2 * math.pi * y / 10
    along = torch.stack([angle.cos(), angle.sin()], -1)
    across = torch.stack([-angle.sin(), angle.cos()], -1)
    for axis, mean, scale in ((along, 1.4, 0.5), (across, 0.0, 0.05)):
        projected = (drawn * axis).sum(-1)
        assert ((projected.mean(0) - mean).abs() < 5 * scale / math.sqrt(20_000)).all()
        assert ((projected.std(0) / scale - 1).abs() < 5 / math.sqrt(40_000)).all()
    whole = prior().sample((40_000,))
    torch.testing.assert_close(whole.mean(0), torch.zeros(2), rtol=0, atol=0.03)
    expected = 0.5 * (1.4**2 + 0.5**2 + 0.05**2) * torch.eye(2)  # the mean over all turns
    torch.testing.assert_close(whole.T.cov(), expected, rtol=0, atol=0.03)
    torch.testing.assert_close(prior().covariance_matrix, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("count", "pieces", "noise"), [(10, 20, 0.1), (3, 4, 0.3), (1, 7, 0.05)])
def test_a_swiss_roll_has_the_curves_moments_and_its_thickness(count, pieces, noise):
    """Mean and covariance of 3 sqrt(u) (cos, sin)(4 pi sqrt(u)), u ~ U[k / C, (k + 1) / C], by sums over fine steps."""
    prior = SwissRollPrior(count, noise, pieces)
    for k in (None, *range(count)):
        low, high = (0.0, 1.0) if k is None else (k / count, (k + 1) / count)
        u = low + (high - low) * (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        angle = 4 * math.pi * u.sqrt()
        z = 3 * u.sqrt()[:, None] * torch.stack([angle.cos(), angle.sin()], -1)
        p = of(prior, k)
        torch.testing.assert_close(p.mean.double(), z.mean(0), rtol=0, atol=1e-4)
        covariance = z.T.cov(correction=0) + noise**2 * torch.eye(2)
        torch.testing.assert_close(p.covariance_matrix.double(), covariance, rtol=0, atol=1e-4)
    torch.manual_seed(0)
    drawn = prior(y=torch.arange(count)).sample((20_000,))
    torch.testing.assert_close(drawn.mean(0), prior(y=torch.arange(count)).mean, rtol=0, atol=0.06)


def test_a_swiss_roll_is_near_its_curve_and_without_gaps():
    """Against the curve with noise around it, which has a density by a sum over fine steps."""
    prior = SwissRollPrior().double()
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    angle = 4 * math.pi * u.sqrt()
    curve = 3 * u.sqrt()[:, None] * torch.stack([angle.cos(), angle.sin()], -1)
    z = curve[:: 20_000 // 400]
    for points in (z, z + 0.1 * torch.randn(len(z), 2, generator=torch.Generator().manual_seed(0))):
        distance = (points[:, None] - curve).square().sum(-1)
        truth = (-0.5 * distance / 0.01).exp().mean(1) / (2 * math.pi * 0.01)
        error = (prior().log_prob(points) - truth.log()).abs()
        assert float(error.mean()) < 0.02 and float(error.max()) < 0.3, error.max()


# -------------------------------------------------------------------------------- in a model
def truth_of(model, x, y=None):
    """log p(x) or log p(x | y) by quadrature."""
    z, area = grid()
    with torch.no_grad():
        log_px_z = model.likelihood(model.decoder(z).unsqueeze(1), 3).log_prob(x)  # (points, N)
        log_p = torch.stack([of(model.latent_prior, k).log_prob(z) for k in ([None] * len(x) if y is None else y)], -1)
    return (log_px_z + log_p).logsumexp(0) + math.log(area)


def test_likelihoods_are_the_integrals():
    """Of the whole mixture without labels, of the classes with them, by weights and by annealing."""
    model, guide = made()
    x, y = data(), [0, 1, -1, 1, 0, -1]
    plain, given = truth_of(model, x), truth_of(model, x, y)
    assert float((plain - given).abs().max()) > 0.1  # labels matter
    labelled = {"x": x, "y": torch.tensor(y)}
    options = {"num_particles": 30_000, "seed": 1}
    torch.testing.assert_close(log_likelihood(model, guide, {"x": x}, **options).per_datum, plain, rtol=0, atol=0.08)
    torch.testing.assert_close(log_likelihood(model, guide, labelled, **options).per_datum, given, rtol=0, atol=0.08)
    whole = VAE(SHAPE, 2, hidden_dims=(16,), prior=small()).double()
    whole.load_state_dict(model.state_dict())
    for measured in (whole, without_averaged(model)):  # whatever the data carry
        ours = log_likelihood(measured, guide, labelled, **options)
        assert torch.equal(ours.per_datum, log_likelihood(model, guide, {"x": x}, **options).per_datum)
    chains = {"num_chains": 64, "num_temperatures": 60, "seed": 2, "start": "prior"}
    torch.testing.assert_close(ais(model, guide, {"x": x}, **chains).per_datum, plain, rtol=0, atol=0.15)
    torch.testing.assert_close(ais(model, guide, labelled, **chains).per_datum, given, rtol=0, atol=0.15)


def test_the_kl_is_of_each_datums_own_prior():
    model, guide = made()
    x, y = data(), torch.tensor([0, 1, -1, 1, 0, -1])
    found = elbo(model, guide, {"x": x, "y": y}, num_particles=20_000, seed=0).kl["z"]
    z, area = grid(16.0, 500)
    with torch.no_grad():
        mean, raw = guide.encoder(x).chunk(2, -1)
        scale = torch.nn.functional.softplus(raw + math.log(math.expm1(1 - guide.min_scale))) + guide.min_scale
        log_q = dist.Normal(mean, scale).to_event(1).log_prob(z[:, None])
        log_p = torch.stack([of(model.latent_prior, k).log_prob(z) for k in y.tolist()], -1)
        kl = (log_q.exp() * (log_q - log_p)).sum(0) * area
    assert float(found.mean()) == pytest.approx(float(kl.mean()), rel=0.03)


def test_samples_are_of_the_labels_that_are_given():
    model, _ = made(PinwheelPrior(10))
    y = torch.arange(400) % 11 - 1
    z = sample(model, 400, batch={"y": y}, seed=0)["z"]
    angle = (torch.atan2(z[:, 1], z[:, 0]) / (2 * math.pi) * 10).round() % 10
    far = z.norm(dim=-1) > 0.8
    assert torch.equal(angle[far & (y >= 0)].long(), y[far & (y >= 0)])
    assert len(angle[far & (y < 0)].unique()) == 10
    assert len((sample(model, 400, seed=0)["z"].norm(dim=-1) > 0).unique()) == 1 and not needed_to_generate(model)


def test_training_sees_the_labels_and_learns():
    model, guide = made(PinwheelPrior(3))
    x = torch.cat([data(30) * (torch.arange(30) % 3 == k)[:, None, None, None] for k in range(1)]).float()
    y = torch.arange(30) % 3
    x[y == 0, ..., :2], x[y == 1, ..., 3:] = 1.0, 1.0
    model.float(), guide.float()
    batch = {"x": x, "y": torch.where(torch.arange(30) < 24, y, -1)}
    before = elbo(model, guide, batch, num_particles=50).mean
    fit(model, guide, batch, epochs=60, batch_size=10, learning_rate=1e-2, progress=False, device="cpu")
    assert elbo(model, guide, batch, num_particles=50).mean > before + 2


def test_a_conditional_model_narrows_what_it_accepts():
    for labels, classes in ((3, 3), (2, 3), (3, 2)):
        model = ConditionalVAE(SHAPE, OneHot(labels), 2, hidden_dims=(8,), prior=PinwheelPrior(classes))
        context = declared_context(model)["y"]
        assert num_classes(context) == min(labels, classes) and context.support.lower_bound == 0
        assert not context.optional and not context.averaged and needed_to_generate(model) == ["y"]
    x = data().float()
    guide = ConditionalGuide(model, hidden_dims=(8,))
    with pytest.raises(InputError, match=r"labels from 0 to 1: .* got values from -1 to 0"):
        log_likelihood(model, guide, {"x": x, "y": torch.tensor([-1, 0] * 3)}, num_particles=2)
    assert "-1" in narrowed("y", PinwheelPrior(3).context["y"], PinwheelPrior(2).context["y"]).what
    assert narrowed("y", PinwheelPrior(3).context["y"], label_context(4)).support.lower_bound == 0


def test_models_without_labels_have_the_whole_mixture():
    model = HierarchicalVAE(SHAPE, (4, 2), (16, 8), prior=PinwheelPrior(10))
    assert sample(model, 5)["z2"].shape == (5, 2) and "y" not in getattr(model, "context", {})
    model = WithPriors(VAE(SHAPE, 2, hidden_dims=(8,)), {"z": PinwheelPrior(10)})
    assert sample(model, 5)["z"].shape == (5, 2) and not declared_context(model)


# -------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("y", [3, -2, 10**6])
def test_labels_out_of_range_are_refused(y):
    model, guide = (program.float() for program in made(PinwheelPrior(3)))
    batch = {"x": data().float(), "y": torch.full((6,), y)}
    for ask in (
        lambda: log_likelihood(model, guide, batch, num_particles=2),
        lambda: fit(model, guide, batch, epochs=1, progress=False),
        lambda: sample(model, 6, batch={"y": batch["y"]}),
    ):
        with pytest.raises(InputError, match=r"'y' takes class labels from 0 to 2, -1 where one is not known"):
            ask()
    assert bool(model.latent_prior(y=torch.tensor([y])).log_prob(torch.zeros(1, 2)).isnan())  # and no number


def test_bad_input():
    prior = PinwheelPrior(3)
    for y in (torch.zeros(3), torch.zeros(3, dtype=torch.int32), 1):
        with pytest.raises(InputError, match=r"PinwheelPrior: y takes class labels.*of torch.int64; got"):
            prior(y=y)
    for make in (PinwheelPrior, SwissRollPrior):
        for count in (0, -1, 2.0, True):
            with pytest.raises(InputError, match="num_classes must be a positive integer"):
                make(count)
    for options in ({"tangential_scale": 0}, {"radial_scale": -1.0}, {"radial_scale": math.inf}):
        with pytest.raises(InputError, match="scale must be a number above 0"):
            PinwheelPrior(**options)
    with pytest.raises(InputError, match="radius must be a number from 0"):
        PinwheelPrior(radius=-1)
    with pytest.raises(InputError, match="thickness must be a number above 0, got 0"):
        SwissRollPrior(thickness=0)
    with pytest.raises(InputError, match="num_components must be a positive integer, got 0"):
        SwissRollPrior(num_components=0)
    with pytest.raises(InputError, match=r"the prior has shape \(2,\), and latent site 'z' has \(3,\)"):
        VAE(SHAPE, 3, prior=PinwheelPrior(10))
    for other, take in (
        (MixturePrior((2,)), "does not take y: take VAE"),
        (MixtureDensityPrior((2,)), "such as ConditionalVAE"),
    ):
        with pytest.raises(InputError, match=take):
            ClassPriorVAE(SHAPE, other)
    with pytest.raises(InputError, match="prior must be a LatentPrior"):
        ClassPriorVAE(SHAPE, torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="a prior over z given y"):
        ClassPriorVAE(SHAPE, None)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ((MEANS[:3], LOWER, CLASSES), r"scale_tril must have shape \(3, 2, 2\)"),
        ((MEANS, LOWER, [0, 1, 2]), "classes must be 4 whole numbers"),
        ((MEANS, LOWER, [0, 0, 2, 2]), "class 1 has no component"),
        ((MEANS, LOWER, [1, 1, 2, 10**9]), "class 4 has no component"),
        ((MEANS, LOWER, [0, 1, -1, 0]), "classes must be 4 whole numbers"),
        ((MEANS, LOWER, [0, 1, 0.5, 0]), "classes must be 4 whole numbers"),
        ((MEANS, LOWER, CLASSES, [1, 1, 0, 1]), "weights must be 4 positive numbers"),
        ((MEANS, [[[1.0, 0.1], [0.0, 1.0]]] * 4, CLASSES), "lower triangular with a positive diagonal"),
        ((MEANS, [[[1.0, 0.0], [0.0, 0.0]]] * 4, CLASSES), "lower triangular with a positive diagonal"),
        (([[math.nan, 0.0]] * 4, LOWER, CLASSES), "loc must be finite numbers in 2 dimensions"),
        (([], [], []), "loc must be finite numbers in 2 dimensions"),
        (([[1.0], [1.0, 2.0]], LOWER, CLASSES), "loc must be numbers in 2 dimensions"),
    ],
)
def test_what_is_no_mixture_is_refused(arguments, wrong):
    with pytest.raises(InputError, match=wrong):
        ClassMixturePrior(*arguments)
