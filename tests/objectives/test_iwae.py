"""IWAE: the value by hand; gradients against finite differences of the exact bound, computed by quadrature."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.errors import InputError
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.programs.handlers import KLWeighted
from pyro_vae.programs.program import as_programs

# One-dimensional: z ~ N(0, 1), x | z ~ N(a z + b, exp(t)^2); guide: z | x ~ N(c x + d, exp(e)^2).
POINT = {"a": 1.3, "b": 0.2, "t": -0.4, "c": 0.3, "d": -0.25, "e": -0.2}
ENCODER = ("c", "d", "e")
X = 0.9
COPIES = 100_000


def log_normal(value, mean, log_scale):
    return -0.5 * ((value - mean) / np.exp(log_scale)) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)


def weight_by_hand(p, noise):
    """(log w, z) at standard noise, in numpy."""
    z = p["c"] * X + p["d"] + np.exp(p["e"]) * noise
    joint = log_normal(z, 0.0, 0.0) + log_normal(X, p["a"] * z + p["b"], p["t"])
    return joint - log_normal(z, p["c"] * X + p["d"], p["e"]), z


def quadrature(num_particles, order=60):
    """Nodes (order^K, K) and weights of the expectation over K standard normals."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    weights = weights / weights.sum()
    grid = np.array(list(itertools.product(nodes, repeat=num_particles)))
    return grid, np.array([math.prod(w) for w in itertools.product(weights, repeat=num_particles)])


def exact_loss(p, num_particles):
    """-E log (1/K) sum_k w_k."""
    noise, mass = quadrature(num_particles)
    log_w, _ = weight_by_hand(p, noise)
    return -(mass * (np.logaddexp.reduce(log_w, axis=1) - math.log(num_particles))).sum()


def finite_difference(num_particles, step=1e-4):
    def at(name, by):
        return exact_loss({**POINT, name: POINT[name] + by}, num_particles)

    return {n: (at(n, step) - at(n, -step)) / (2 * step) for n in POINT}


def expected_stl(num_particles):
    """What the stl estimator's encoder gradient is on average: -E sum_k w~_k dlog w_k/dz_k dz_k/dphi."""
    noise, mass = quadrature(num_particles)
    log_w, z = weight_by_hand(POINT, noise)
    normalized = np.exp(log_w - np.logaddexp.reduce(log_w, axis=1, keepdims=True))
    p = POINT
    path = -z + p["a"] * (X - p["a"] * z - p["b"]) * np.exp(-2 * p["t"])
    path += (z - p["c"] * X - p["d"]) * np.exp(-2 * p["e"])
    reach = {"c": X, "d": 1.0, "e": np.exp(p["e"]) * noise}
    return {n: -(mass * (normalized * path * reach[n]).sum(1)).sum() for n in ENCODER}


class OneDimensional:
    """The pair, each of COPIES copies of the datum with parameters of its own: one gradient sample each."""

    def __init__(self, copies=COPIES):
        self.parameters = {
            n: torch.full((copies,), v, dtype=torch.float64, requires_grad=True) for n, v in POINT.items()
        }
        self.x = torch.full((copies,), X, dtype=torch.float64)

    def model(self, x):
        p = self.parameters
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(p["a"] * z + p["b"], p["t"].exp()), obs=x)

    def guide(self, x):
        p = self.parameters
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(p["c"] * x + p["d"], p["e"].exp()))

    def gradients(self, objective):
        """Mean and standard error of the gradient by parameter."""
        for p in self.parameters.values():
            p.grad = None
        objective.differentiable_loss(self.model, self.guide, self.x).backward()
        samples = {n: p.grad * len(self.x) for n, p in self.parameters.items()}
        return {n: (g.mean().item(), g.std().item() / math.sqrt(len(g))) for n, g in samples.items()}


def assert_agrees(found, truth):
    for name, expected in truth.items():
        mean, error = found[name]
        assert error < 0.02, f"{name}: standard error {error} is too large to mean anything"
        assert abs(mean - expected) < 4 * error + 1e-7, f"{name}: {mean} +- {error}, expected {expected}"


def test_the_truth_is_a_bound_that_rises():
    variance = POINT["a"] ** 2 + math.exp(2 * POINT["t"])
    log_p = log_normal(X, POINT["b"], 0.5 * math.log(variance))
    assert -exact_loss(POINT, 1) < -exact_loss(POINT, 2) - 0.05 < log_p - 0.05


@pytest.mark.parametrize("gradient", ["standard", "dreg"])
@pytest.mark.parametrize("num_particles", [1, 2])
def test_gradients_agree_with_finite_differences_of_the_exact_bound(gradient, num_particles):
    found = OneDimensional().gradients(IWAE(num_particles, gradient=gradient))
    assert_agrees(found, finite_difference(num_particles))


def test_stl_is_unbiased_with_one_particle():
    assert_agrees(OneDimensional().gradients(IWAE(1, gradient="stl")), finite_difference(1))


def test_stl_with_two_particles_has_its_own_expectation_which_is_biased():
    found, truth, expected = (
        OneDimensional().gradients(IWAE(2, gradient="stl")),
        finite_difference(2),
        expected_stl(2),
    )
    assert_agrees(found, {n: truth[n] for n in POINT if n not in ENCODER})  # the decoder's is unbiased
    assert_agrees(found, expected)
    for name in ENCODER:
        mean, error = found[name]
        assert abs(mean - truth[name]) > 8 * error, f"{name}: stl should differ from the bound's gradient"


def test_dreg_has_less_noise_than_standard_for_the_encoder():
    standard = OneDimensional().gradients(IWAE(16, gradient="standard"))
    dreg = OneDimensional().gradients(IWAE(16, gradient="dreg"))
    for name in ENCODER:
        assert dreg[name][1] < 0.5 * standard[name][1]
        assert abs(dreg[name][0] - standard[name][0]) < 4 * math.hypot(dreg[name][1], standard[name][1])


def test_value_is_the_log_mean_exp_of_weights_computed_by_hand():
    pair = OneDimensional(copies=7)
    losses = []
    for gradient in ("standard", "dreg", "stl"):
        torch.manual_seed(3)
        losses.append(IWAE(5, gradient=gradient).differentiable_loss(pair.model, pair.guide, pair.x).item())
    torch.manual_seed(3)
    noise = torch.randn(5, 7, dtype=torch.float64).numpy()
    log_w, _ = weight_by_hand(POINT, noise)
    by_hand = -(np.logaddexp.reduce(log_w, axis=0) - math.log(5)).mean()
    assert losses == pytest.approx([by_hand] * 3, abs=1e-12)


def test_one_particle_is_the_elbo_with_the_kl_at_the_drawn_value():
    pair = OneDimensional(copies=50)
    values, gradients = [], []
    for objective in (IWAE(1), ELBO(analytic_kl=False)):
        torch.manual_seed(5)
        gradients.append(pair.gradients(objective))
        torch.manual_seed(5)
        values.append(objective.loss(pair.model, pair.guide, pair.x))
    assert values[0] == pytest.approx(values[1], abs=1e-12)
    for name in POINT:
        assert gradients[0][name] == pytest.approx(gradients[1][name], abs=1e-10)


# ------------------------------------------------------------------------------ several latent sites
class TwoLayers(nn.Module):
    """z2 ~ N(0,1), z1 | z2, x | z1; the guide goes bottom-up, z1 | x, then z2 | z1. Parameters per datum."""

    def __init__(self, copies):
        super().__init__()
        values = {"a": 0.8, "b": 1.2, "c": 0.4, "d": 0.1, "e": -0.3, "f": 0.5, "g": -0.1, "h": -0.2}
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(torch.full((copies,), value, dtype=torch.float64)))


class TwoLayerModel(TwoLayers):
    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, 0.7))
            pyro.sample("x", dist.Normal(self.b * z1, 0.5), obs=x)


class TwoLayerGuide(TwoLayers):
    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(self.c * x + self.d, self.e.exp()))
            pyro.sample("z2", dist.Normal(self.f * z1 + self.g, self.h.exp()))


def module_gradients(objective, model, guide, x):
    for module in (model, guide):
        module.zero_grad()
    objective(model, guide)(x).backward()
    found = {}
    for module in (model, guide):
        for name, p in module.named_parameters():
            if p.grad is not None:
                samples = p.grad * len(x)
                found[name] = samples.mean().item(), samples.std().item() / math.sqrt(len(x))
    return found


@pytest.mark.parametrize("num_particles", [1, 3])
def test_dreg_agrees_with_standard_for_a_hierarchical_guide(num_particles):
    copies = 200_000
    model, guide = TwoLayerModel(copies), TwoLayerGuide(copies)
    x = torch.full((copies,), 0.8, dtype=torch.float64)
    standard = module_gradients(IWAE(num_particles), model, guide, x)
    dreg = module_gradients(IWAE(num_particles, gradient="dreg"), model, guide, x)
    assert set(standard) == set(dreg) == {*"abcdefgh"}
    for name in standard:
        (one, error_one), (two, error_two) = standard[name], dreg[name]
        error = math.hypot(error_one, error_two)
        assert error < 0.015
        assert abs(one - two) < 4 * error, f"{name}: {one} and {two} differ by {abs(one - two) / error} se"
        assert abs(one) > 4 * error or name in "d", f"{name}: no gradient to compare"


class WideModel(nn.Module):
    """x (N, 3) elementwise under a plate inside the data plate: batch shape (3, N)."""

    def __init__(self, copies):
        super().__init__()
        self.a = nn.Parameter(torch.full((copies,), 0.9, dtype=torch.float64))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("parts", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))  # (K, 3, N)
            pyro.sample("x", dist.Normal(self.a * z, 0.6), obs=x.T)


class WideGuide(nn.Module):
    def __init__(self, copies):
        super().__init__()
        self.c = nn.Parameter(torch.full((copies,), 0.3, dtype=torch.float64))
        self.e = nn.Parameter(torch.full((copies,), -0.2, dtype=torch.float64))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("parts", 3, dim=-2):
            pyro.sample("z", dist.Normal(self.c * x.T, self.e.exp()))


@pytest.mark.parametrize("gradient", ["dreg", "stl"])
def test_gradients_with_a_plate_inside_the_data_plate(gradient):
    copies = 30_000
    model, guide = WideModel(copies), WideGuide(copies)
    x = torch.tensor([0.8, -1.1, 0.2], dtype=torch.float64).repeat(copies, 1)
    num_particles = 1 if gradient == "stl" else 3
    standard = module_gradients(IWAE(num_particles), model, guide, x)
    other = module_gradients(IWAE(num_particles, gradient), model, guide, x)
    for name in standard:
        (one, error_one), (two, error_two) = standard[name], other[name]
        assert abs(one - two) < 4 * math.hypot(error_one, error_two)
        assert abs(one) > 10 * error_one, f"{name}: no gradient to compare"


@pytest.mark.parametrize("gradient", ["dreg", "stl"])
def test_the_encoder_gets_no_gradient_where_it_is_the_posterior(gradient):
    """d log w / d z is 0 there: dreg and stl are exactly 0 (up to rounding), the plain gradient is only on average."""
    pair = OneDimensional(copies=10)
    p = pair.parameters
    noise = math.exp(2 * POINT["t"])
    precision = 1 + POINT["a"] ** 2 / noise
    with torch.no_grad():
        p["c"].fill_(POINT["a"] / noise / precision)
        p["d"].fill_(-POINT["a"] * POINT["b"] / noise / precision)
        p["e"].fill_(-0.5 * math.log(precision))
    pair.gradients(IWAE(4, gradient=gradient))
    assert max(p[n].grad.abs().max().item() for n in ENCODER) < 1e-12
    assert min(p[n].grad.abs().max().item() for n in ("a", "b", "t")) > 1e-3
    pair.gradients(IWAE(4))
    assert max(p[n].grad.abs().max().item() for n in ENCODER) > 1e-3


@pytest.mark.parametrize("gradient", ["dreg", "stl"])
def test_pyro_params_under_fit_style_wrapping(gradient):
    """Programs around plain functions, weighted: the same gradient as the hand-held parameters give."""

    def build():
        def model(x):
            a = pyro.param("a", torch.tensor(1.3))
            with pyro.plate("data", len(x), dim=-1):
                z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
                z1 = pyro.sample("z1", dist.Normal(a * z2, 1.0))
                pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

        def guide(x):
            c, s = (
                pyro.param("c", torch.tensor(0.4)),
                pyro.param("s", torch.tensor(0.7), constraint=dist.constraints.positive),
            )
            with pyro.plate("data", len(x), dim=-1):
                z1 = pyro.sample("z1", dist.Normal(c * x, s))
                pyro.sample("z2", dist.Normal(c * z1, s))

        return as_programs(model, guide)

    x = torch.randn(200)
    model, guide = build()
    IWAE(2, gradient).loss(model, guide, x=x)  # makes the parameters
    weight = torch.tensor(1.0)
    torch.manual_seed(1)
    IWAE(2, gradient).differentiable_loss(KLWeighted(model, weight), KLWeighted(guide, weight), x=x).backward()
    weighted = {n: p.grad.clone() for n, p in guide.store.named_parameters()}
    assert set(weighted) == {"a", "c", "s"}
    model.zero_grad(), guide.zero_grad()
    torch.manual_seed(1)
    IWAE(2, gradient).differentiable_loss(model, guide, x=x).backward()
    for name, p in guide.store.named_parameters():
        assert p.grad.abs() > 1e-3
        torch.testing.assert_close(p.grad, weighted[name])


# ------------------------------------------------------------------------------ errors
class DropoutGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.loc = nn.Parameter(torch.tensor(0.1))

    def forward(self, x):
        h = self.drop(x)
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(h + self.loc, 1.0))
            pyro.sample("z2", dist.Normal(z1, 1.0))


def test_a_guide_with_dropout_is_refused_by_name_unless_it_is_inactive():
    model, guide, x = TwoLayerModel(4).float(), DropoutGuide(), torch.ones(4)
    with pytest.raises(InputError, match=r"dropout\s+'drop'.*gradient='standard'"):
        IWAE(2, gradient="dreg")(model, guide)(x)
    IWAE(2)(model, guide)(x)
    guide.eval()
    IWAE(2, gradient="dreg")(model, guide)(x)


def test_several_sites_need_the_guide_as_a_module():
    guide = TwoLayerGuide(4).float()
    with pytest.raises(InputError, match=r"nn\.Module"):
        IWAE(2, gradient="dreg").differentiable_loss(TwoLayerModel(4).float(), lambda x: guide(x), torch.ones(4))


def test_bad_arguments():
    with pytest.raises(InputError, match="Did you mean 'dreg'"):
        IWAE(2, gradient="dregs")
    for bad in (0, -1, True, 2.0):
        with pytest.raises(InputError, match="num_particles must be a positive integer"):
            IWAE(bad)


def test_a_latent_shared_by_all_data_is_refused_by_name():
    def model(x):
        shared = pyro.sample("shared", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(shared, 1.0), obs=x)

    def guide(x):
        pyro.sample("shared", dist.Normal(0.0, 1.0))

    for gradient in ("standard", "dreg", "stl"):
        with pytest.raises(InputError, match="'shared' is outside the data plate"):
            IWAE(2, gradient).differentiable_loss(model, guide, torch.ones(3))


def test_the_second_run_of_the_guide_leaves_batch_statistics_alone():
    class Normalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, x):
            loc = self.norm(x[:, None])[:, 0]
            with pyro.plate("data", len(x), dim=-1):
                z1 = pyro.sample("z1", dist.Normal(loc, 1.0))
                pyro.sample("z2", dist.Normal(z1, 1.0))

    statistics = []
    for gradient in ("standard", "dreg"):
        guide = Normalized()
        IWAE(2, gradient)(TwoLayerModel(6).float(), guide)(torch.arange(6.0)).backward()
        statistics.append((guide.norm.running_mean.item(), guide.norm.num_batches_tracked.item()))
    assert statistics[0] == statistics[1] == (pytest.approx(0.25), 1)
