"""Guides whose density at other values is not known: annealed from the prior to the exact value, refused otherwise."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to, constraints
from unbiased import check_unbiased

from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, bidirectional, log_likelihood

X = torch.tensor([[0.0, 0, 0, 0, 1], [1, 1, 1, 0, 1]])


def model(x=None, num_samples=1):
    """p ~ Beta(2, 3), five coins."""
    with pyro.plate("data", num_samples if x is None else len(x)):
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        return pyro.sample("x", dist.Bernoulli(p[..., None].expand(*p.shape, 5)).to_event(1), obs=x)


def exact():
    heads = X.double().sum(-1)

    def log_beta(a, b):
        return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)

    return log_beta(2 + heads, 8 - heads) - log_beta(torch.tensor(2.0).double(), torch.tensor(3.0).double())


TO_UNIT = biject_to(constraints.unit_interval)


def auto_normal(x):
    """Pyro's AutoNormal: an unconstrained site of the guide's own, and the latent as a function of it."""
    with pyro.plate("data", len(x)):
        u = pyro.sample("p_unconstrained", dist.Normal(x.mean(-1) - 0.5, 0.8), infer={"is_auxiliary": True})
        p = TO_UNIT(u)
        pyro.sample("p", dist.Delta(p, log_density=-TO_UNIT.log_abs_det_jacobian(u, p)))


def noise_of_its_own(x):
    """A density that is right where it is drawn, and said nowhere else."""
    with pyro.plate("data", len(x)):
        u = torch.randn(len(x))
        p = TO_UNIT(u)
        log_q = dist.Normal(0.0, 1.0).log_prob(u) - TO_UNIT.log_abs_det_jacobian(u, p)
        pyro.sample("p", dist.Delta(p, log_density=log_q))


def point_mass(x):
    with pyro.plate("data", len(x)):
        pyro.sample("p", dist.Delta((x.sum(-1) + 1) / 7))


def auxiliary(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Gamma(2.0 + x.sum(-1), 1.0), infer={"is_auxiliary": True})
        pyro.sample("p", dist.Beta(a, 2.0))


GUIDES = [auto_normal, noise_of_its_own, point_mass, auxiliary]


@pytest.mark.parametrize("guide", GUIDES)
def test_such_a_guide_is_refused_with_the_remedy(guide):
    with pytest.raises(InputError, match=r"site '(p|a|p_unconstrained)'.*start=[\"']prior[\"']"):
        ais(model, guide, X, num_temperatures=4)


@pytest.mark.parametrize("guide", GUIDES)
def test_the_remedy_is_right(guide):
    check_unbiased(model, guide, X, exact(), start="prior")


@pytest.mark.parametrize("guide", [auto_normal, point_mass])
def test_bidirectional_runs_from_the_prior(guide):
    result = bidirectional(model, guide, 200, start="prior", num_temperatures=60, num_chains=8)
    with pytest.raises(InputError, match=r"start=[\"']prior[\"']"):
        bidirectional(model, guide, 5, num_temperatures=4)
    assert abs(result.gap[0]) < 0.05 + 4 * result.gap[1]


def test_a_reverse_model_makes_an_auxiliary_site_a_latent():
    """r(a | x, z) integrates to one: log p(x) is what it was."""

    def with_reverse(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            p = pyro.sample("p", dist.Beta(2.0, 3.0))
            x = pyro.sample("x", dist.Bernoulli(p[..., None].expand(*p.shape, 5)).to_event(1), obs=x)
            pyro.sample("a", dist.Gamma(1.0 + x.sum(-1) + p, 1.0), infer={"is_auxiliary": True})

    check_unbiased(with_reverse, auxiliary, X, exact(), num_temperatures=12)


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (dist.Delta(torch.tensor(0.3), log_density=torch.tensor(0.2)), r"'z' is a point mass"),
        (dist.Delta(torch.tensor(0.3)), r"'z' is a point mass"),
        (dist.Geometric(0.3), r"'z' is discrete \(Geometric\)"),
        (dist.OneHotCategorical(torch.ones(3)), r"'z' is discrete \(OneHotCategorical\)"),
        (dist.Binomial(3, 0.5).expand([2]).to_event(1), r"'z' is discrete"),
        (dist.ProjectedNormal(torch.zeros(3)), r"'z': for the support of ProjectedNormal no map.*use log_likelihood"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
@pytest.mark.parametrize("start", ["guide", "prior"])
def test_latents_without_gradients(p, message, start):
    def program(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", p)
            pyro.sample("x", dist.Normal(z.float().sum(-1) if z.dim() > 1 and p.event_dim else z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", p)

    with pytest.raises(InputError, match=message):
        ais(program, guide, torch.randn(3), num_temperatures=4, start=start)


def on_circle(x=None, num_samples=1):
    """x ~ N(z, 1/2) with z between -pi and pi, though the density of von Mises goes on periodically beyond."""
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.VonMises(0.5, 1.0))
        return pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def of_angles(x):
    z = torch.linspace(-math.pi, math.pi, 20_001).double()
    joint = dist.VonMises(0.5, 1.0).log_prob(z) + dist.Normal(z, 0.5).log_prob(x[:, None].double())
    return torch.trapezoid(joint.exp(), z).log()


def test_weights_of_a_guide_that_leaves_the_circle():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.9 * x, 0.7))

    x = torch.tensor([-2.9, 0.0, 3.4])
    result = log_likelihood(on_circle, guide, x, num_particles=20_000)
    assert (result.per_datum - of_angles(x)).abs().max() < 0.05


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_angles_stay_on_their_circle(start):

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.VonMises(0.8 * x, 1.0))

    x = torch.tensor([-2.9, 0.0, 3.4])
    check_unbiased(on_circle, guide, x, of_angles(x), start=start, num_temperatures=20)


def test_a_guide_on_the_circle_does_not_cover_the_line():
    def program(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            return pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.VonMises(0.5 * x, 1.0))

    with pytest.raises(InputError, match=r"'z': the guide's support.*does not cover.*start=\"prior\""):
        ais(program, guide, torch.randn(3), num_temperatures=4)
