"""Guides with covariances, of mixtures and of flows, against closed forms and quadrature."""

import logging
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import PPCA
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE, fit
from pyro_vae.errors import InputError
from pyro_vae.guides import FlowGuide, GaussianGuide, MixtureGuide
from pyro_vae.models import VAE
from pyro_vae.programs.program import Program
from pyro_vae.recording import Recording
from pyro_vae.training import Cosine

GUIDES = {
    "full": lambda model, **sizes: GaussianGuide(model, covariance="full", **sizes),
    "rank 2": lambda model, **sizes: GaussianGuide(model, covariance=2, **sizes),
    "mixture": lambda model, **sizes: MixtureGuide(model, 3, **sizes),
    "flow": lambda model, **sizes: FlowGuide(model, flow_dim=8, context_dim=4, **sizes),
    "spline": lambda model, **sizes: FlowGuide(model, flow_dim=8, context_dim=4, flow="spline", **sizes),
}


def trained(model, guide, x, objective, steps, rate=0.03):
    options = {"batch_size": len(x), "progress": False, "device": "cpu", "compile": "graph", "seed": 1}
    return fit(model, guide, x, objective=objective, epochs=steps, learning_rate=Cosine(rate, 1e-5, steps), **options)


# --------------------------------------------------------------------- linear-Gaussian: the exact posterior
class Encoder(nn.Module):
    """Linear locations, and all else the same for all data, as the posterior has it."""

    def __init__(self, more):
        super().__init__()
        self.loc, self.rest = nn.Linear(3, 2), nn.Parameter(0.1 * torch.randn(2 + more))

    def forward(self, x):
        return torch.cat([self.loc(x), self.rest.expand(*x.shape[:-1], -1)], -1)


@pytest.mark.parametrize(("covariance", "more"), [("diagonal", 0), ("full", 1), (1, 2)])
def test_a_full_covariance_reaches_log_p_of_x(covariance, more):
    ppca = PPCA(data_dim=3, latent_dim=2, noise=0.7, seed=7, dtype=torch.float32)
    x = ppca.sample(100)
    torch.manual_seed(0)
    guide = GaussianGuide(ppca.model, Encoder(more), covariance=covariance)
    # the gradient of "stl" has no noise where the guide is the posterior
    objective = ELBO(4) if covariance == "diagonal" else IWAE(1, "stl")
    result = trained(ppca.model, guide, x, objective, 600)
    bound = pyro_vae.elbo(result.model, result.guide, x, num_particles=2000).mean
    gap = ppca.log_prob(x).mean().item() - bound
    if covariance != "diagonal":
        assert gap == pytest.approx(0.0, abs=1e-2)
        return
    precision = torch.linalg.inv(ppca.posterior_covariance)  # KL of the best diagonal Gaussian, in closed form
    best = 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()
    assert best > 0.1 and gap == pytest.approx(best, abs=0.02)


# --------------------------------------------------------------------- other posteriors: quadrature
class Bent(nn.Module):
    """x | z ~ N(z_1 + z_2^2 - 1, 0.3): a posterior like a banana."""

    def forward(self, x=None, *, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.mean(z), 0.3).to_event(1), obs=x)

    def mean(self, z):
        return (z[..., 0] + z[..., 1] ** 2 - 1)[..., None]


class Folded(Bent):
    """z is a number, and x | z ~ N(1.5 |z|, 0.3): two modes."""

    def forward(self, x=None, *, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(self.mean(z[..., None]), 0.3).to_event(1), obs=x)

    def mean(self, z):
        return 1.5 * z.abs()


def grid(size=2):
    axis = torch.linspace(-6, 6, 601)
    z = torch.cartesian_prod(*[axis] * size).reshape(-1, size)
    return z, size * math.log((axis[1] - axis[0]).item())


def exact(model, x, size):
    z, spacing = grid(size)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    joint = [prior + dist.Normal(model.mean(z), 0.3).log_prob(row).sum(-1) for row in x]
    return torch.stack(joint).logsumexp(1) + spacing


@pytest.mark.parametrize(
    ("model", "make", "size", "x"),
    [
        (Bent(), lambda model, **sizes: FlowGuide(model, flow_dim=32, context_dim=4, **sizes), 2, [-1.5, -1.0, -0.5]),
        pytest.param(
            Bent(),
            lambda model, **sizes: FlowGuide(model, 4, 32, context_dim=4, flow="spline", **sizes),
            2,
            [-1.5, -1.0, -0.5],
            marks=pytest.mark.slow,
        ),
        (Folded(), lambda model, **sizes: MixtureGuide(model, 5, **sizes), 1, [1.0, 1.5, 2.0]),
    ],
    ids=["flow", "spline", "mixture"],
)
def test_flows_and_mixtures_come_nearer_than_a_gaussian(model, make, size, x):
    x, gaps = torch.tensor(x)[:, None], []
    truth = exact(model, x, size).mean().item()
    for guide in (GUIDES["full"], make):
        torch.manual_seed(0)
        result = trained(model, guide(model, hidden_dims=(16,)), x, ELBO(48), 800, 0.01)
        gaps.append(truth - pyro_vae.elbo(result.model, result.guide, x, num_particles=20_000).mean)
    assert gaps[0] > 0.1 and -0.005 < gaps[1] < 0.3 * gaps[0], gaps
    bound = pyro_vae.log_likelihood(result.model, result.guide, x, num_particles=20_000).mean
    assert bound == pytest.approx(truth, abs=0.03)


@pytest.mark.parametrize("name", GUIDES)
def test_the_density_is_that_of_one_distribution(name):
    """It integrates to one over a grid, also where it was not drawn: flows have an inverse."""
    torch.manual_seed(3)
    guide = GUIDES[name](Bent(), hidden_dims=(8,))
    q = pyro.poutine.trace(Program(guide)).get_trace(x=torch.tensor([[0.7]])).nodes["z"]["fn"]
    z, spacing = grid()
    with torch.no_grad():
        total = (q.log_prob(z[:, None]) + spacing).logsumexp(0).item()
    assert total == pytest.approx(0.0, abs=1e-3)


# --------------------------------------------------------------------- any model with real latents, any tool
class Several(nn.Module):
    """Latents that are a number, a vector and a matrix."""

    def forward(self, x=None, *, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            c = pyro.sample("c", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
            mean = a[..., None] + b + c.sum(-1)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "spline")) for n in GUIDES])
def test_sites_of_any_shape_are_trained_recorded_and_measured(name, caplog):
    torch.manual_seed(0)
    model, x = Several(), torch.randn(20, 2)
    guide = GUIDES[name](model, hidden_dims=(8,))
    with caplog.at_level(logging.INFO, "pyro_vae.training.compiled"):
        options = {"epochs": 100, "batch_size": 10, "learning_rate": 0.01, "compile": "graph"}
        options |= {"progress": False, "device": "cpu"}
        result = fit(model, guide, x, objective=ELBO(3), **options)
    told = [r.getMessage() for r in caplog.records]
    assert any("training step recorded" in line for line in told), told
    covariance = 4.0 * torch.eye(2) + 1.0 * torch.ones(2, 2)  # b, two of c and the noise; a
    truth = dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(x).mean().item()
    bound = pyro_vae.log_likelihood(result.model, result.guide, x, num_particles=5000)
    assert bound.mean == pytest.approx(truth, abs=0.1)
    annealed = pyro_vae.ais(result.model, result.guide, x[:5], num_chains=16, num_temperatures=50)
    part = dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(x[:5]).mean().item()
    assert annealed.mean == pytest.approx(part, abs=0.3)
    shapes = {n: tuple(v.shape) for n, v in pyro_vae.encode(model, guide, x).items() if n in ("a", "b", "c")}
    assert shapes == {"a": (20,), "b": (20, 2), "c": (20, 2, 2)}


def test_densities_of_splines_are_recorded_and_those_of_their_draws():
    """Drawn and given z have one density: that of the Jacobian by finite differences."""
    torch.manual_seed(5)
    guide = GUIDES["spline"](VAE((6,), latent_dim=3, hidden_dims=[8]), hidden_dims=(8,)).double()
    q = pyro.poutine.trace(Program(guide)).get_trace(x=torch.rand(1, 6).double()).nodes["z"]["fn"]
    z = q.rsample()
    remembered = q.log_prob(z)
    torch.testing.assert_close(remembered, q.log_prob(z.clone()))
    bend, moments = q.transforms
    noise = moments.inv(z)[0], bend.inv(moments.inv(z))[0]
    jacobian = torch.autograd.functional.jacobian(lambda e: moments(bend(e[None]))[0], noise[1])
    written = dist.Normal(0.0, 1.0).log_prob(noise[1]).sum() - jacobian.det().abs().log()
    torch.testing.assert_close(remembered[0], written)

    class Density(nn.Module):
        def __init__(self):
            super().__init__()
            self.guide = guide

        def forward(self, x, z):
            trace = pyro.poutine.trace(Program(self.guide)).get_trace(x=x)
            return (trace.nodes["z"]["fn"].log_prob(z),)

    module, batch = Density(), {"x": torch.rand(4, 6).double(), "z": torch.randn(4, 3).double()}
    with torch.no_grad():
        recording = Recording(module, module, batch, False)
        other = {"x": torch.rand(4, 6).double(), "z": torch.randn(4, 3).double()}
        recording.check(other, 1e-10)


def test_the_diagonal_guide_is_what_it_was():
    """Locations of all sites, then scales of all sites, in the encoder's output."""
    model = Several()
    guide = GaussianGuide(model, nn.Linear(2, 14))
    x = torch.randn(3, 2)
    loc, raw = guide.encoder(x).chunk(2, -1)
    nodes = pyro.poutine.trace(Program(guide)).get_trace(x=x).nodes
    torch.testing.assert_close(nodes["c"]["fn"].base_dist.loc, loc[:, 3:].reshape(3, 2, 2))
    shift = math.log(math.expm1(1 - 1e-4))
    torch.testing.assert_close(nodes["a"]["fn"].scale, nn.functional.softplus(raw[:, 0] + shift) + 1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda m: GaussianGuide(m, covariance="block"),
            "covariance must be 'diagonal', 'full' or a positive rank, got 'b",
        ),
        (lambda m: GaussianGuide(m, covariance=0), "covariance must be"),
        (lambda m: GaussianGuide(m, covariance=True), "covariance must be"),
        (lambda m: MixtureGuide(m, 0), "num_components must be a positive integer"),
        (lambda m: FlowGuide(m, 0), "num_layers must be a positive integer"),
        (lambda m: FlowGuide(m, flow_dim=0), "flow_dim must be a positive integer"),
        (lambda m: FlowGuide(m, flow="nsf"), "unknown flow 'nsf'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(InputError, match=message):
        make(VAE((6,), latent_dim=2, hidden_dims=[8]))
