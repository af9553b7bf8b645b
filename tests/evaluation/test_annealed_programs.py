"""Annealing of programs with shapes and supports of their own, held against hand-written densities."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from unbiased import check_unbiased

from pyro_vae.evaluation import ais, bidirectional
from pyro_vae.evaluation.annealing.path import AnnealedPath
from pyro_vae.programs.session import evaluating


def on(model, guide, data, num_chains=4, vectorize=True, start="guide"):
    """The densities of all data."""
    how = {"vectorize": vectorize, "bounds": start == "guide"}
    with evaluating(model, guide, data, 0, **how) as (pair, split):
        return AnnealedPath(pair, start, num_chains).on(split.batch(slice(0, len(split))))


# ------------------------------------------------------------------------------ constrained sites, in and beside plates
def nested(seen):
    """Rates (2,) of a datum, times a spread in an inner plate of three; three numbers of each."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Gamma(torch.tensor([2.0, 3.0]), 1.5).to_event(1))
            seen.append(z.dim())
            with pyro.plate("inner", 3, dim=-2):
                w = pyro.sample("w", dist.LogNormal(z[..., 0].log(), 0.5))  # (3, N)
                loc = torch.stack([w, w * z[..., 1]], -1)
                pyro.sample("x", dist.Normal(loc, 0.7).to_event(1), obs=None if x is None else x.transpose(0, 1))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.LogNormal(torch.zeros(2), 0.8).to_event(1))
            with pyro.plate("inner", 3, dim=-2):
                pyro.sample("w", dist.LogNormal(z[..., 0].log() + 0.1, 0.6))

    def by_hand(z, w, x):
        """log f_0 and log f_1 of logarithms: the log-Jacobian is the sum of the logarithms."""
        jacobian = z.log().sum(-1) + w.log().sum(-1)
        log_q = dist.LogNormal(0.0, 0.8).log_prob(z).sum(-1)
        log_q = log_q + dist.LogNormal(z[..., :1].log() + 0.1, 0.6).log_prob(w).sum(-1)
        log_p = dist.Gamma(torch.tensor([2.0, 3.0]), 1.5).log_prob(z).sum(-1)
        log_p = log_p + dist.LogNormal(z[..., :1].log(), 0.5).log_prob(w).sum(-1)
        log_x = dist.Normal(torch.stack([w, w * z[..., 1:]], -1), 0.7).log_prob(x).sum((-1, -2))
        return log_q + jacobian, log_p + jacobian, log_p + log_x + jacobian

    return model, guide, by_hand


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("start", ["guide", "prior"])
def test_densities_are_those_written_by_hand(vectorize, start):
    """At given latents (as of the chains backwards) and at draws, for sites in an inner plate and beside it."""
    seen = []
    model, guide, by_hand = nested(seen)
    z, w, x = torch.rand(5, 2) + 0.2, torch.rand(5, 3) + 0.2, torch.rand(5, 3, 2)
    densities = on(model, guide, x, 4, vectorize, start)
    seen.clear()
    given = densities.at_values({"z": z, "w": w})
    for point, log_z, log_w in (
        (given, z.log(), w.log()),
        *((p, p.u[..., :2], p.u[..., 2:]) for p in (densities.draw(), densities.draw())),
    ):
        q, prior, joint = by_hand(log_z.exp(), log_w.exp(), x)
        start_by_hand = q if start == "guide" else prior
        torch.testing.assert_close(point.log_start, start_by_hand.expand(4, 5), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(point.log_target, joint.expand(4, 5), rtol=1e-4, atol=1e-4)
    assert set(seen) == ({4} if vectorize else {2})  # the shapes that plates give: no others


# ------------------------------------------------------------------------------ supports that depend on other latents
@pytest.mark.parametrize("start", ["guide", "prior"])
def test_a_support_that_depends_on_another_latent(start):
    """a ~ U(1, 2), b | a ~ U(0, a), x ~ N(b, 0.3): one integral, by quadrature."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            a = pyro.sample("a", dist.Uniform(torch.tensor(1.0), 2.0))
            b = pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))
            return pyro.sample("x", dist.Normal(b, 0.3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Uniform(torch.ones_like(x), 2.0))
            pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))

    x = torch.tensor([0.2, 1.0, 1.9])
    a, normal = torch.linspace(1, 2, 2001).double(), dist.Normal(torch.tensor(0.0).double(), 1.0)
    mass = (normal.cdf(x[:, None] / 0.3) - normal.cdf((x[:, None] - a) / 0.3)) / a
    check_unbiased(model, guide, x, torch.trapezoid(mass, a).log(), start=start)


# ------------------------------------------------------------------------------ masks, types, names
@pytest.mark.parametrize("inside", [True, False])
def test_what_a_mask_leaves_out_does_not_disturb(inside):
    """Rates ~ Gamma(2, 1) with one count each, of which a mask leaves out some: as exact as without them."""

    def masked(fn, m):
        return fn.mask(m) if inside else fn

    def model(x=None, m=None):
        with pyro.plate("data", len(m), dim=-1), pyro.plate("time", 3, dim=-2):
            with poutine.mask(mask=True if inside else m.T):
                z = pyro.sample("z", masked(dist.Gamma(2.0, 1.0), m.T))
                return pyro.sample("x", masked(dist.Poisson(z), m.T), obs=x.T)

    def guide(x, m):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("time", 3, dim=-2):
            with poutine.mask(mask=True if inside else m.T):
                pyro.sample("z", masked(dist.LogNormal(((x.T + 1) / 2).log(), 0.7), m.T))

    x = torch.tensor([[4.0, 0, 0], [1, 3, 0], [2, 0, 5]]).repeat(12, 1)
    m = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool().repeat(12, 1)
    s = x.double()
    exact = ((torch.lgamma(s + 2) - (s + 2) * math.log(2) - torch.lgamma(s + 1)) * m).sum(1)
    result = ais(model, guide, {"x": x, "m": m}, num_temperatures=250)
    error = result.per_datum - exact
    assert error.std() < 0.08 and error.mean().abs() < 4 * error.std() / math.sqrt(36)
    assert 0.55 < result.acceptance.min() and result.acceptance.max() < 0.75


def test_latents_of_several_types_keep_theirs():
    """A float64 rate beside a float32 vector; the exact density of x is a Student-t's."""
    seen = []

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            rate = pyro.sample("rate", dist.Gamma(torch.tensor(3.0, dtype=torch.float64), 3.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            seen.append((rate.dtype, z.dtype))
            return pyro.sample("x", dist.Normal(0.0 * z[..., 0], rate.float().rsqrt()), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(torch.tensor(2.5, dtype=torch.float64), 2.0))
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.2).to_event(1))

    x = torch.tensor([0.3, -1.0])
    check_unbiased(model, guide, x, dist.StudentT(6.0).log_prob(x).double(), limit=0.15)
    assert set(seen) == {(torch.float64, torch.float32)}


def test_a_latent_may_have_any_name():
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("prior.mean", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("prior.mean", dist.Normal(x / 2, 0.8))

    assert abs(bidirectional(model, guide, 20, num_temperatures=30).gap[0]) < 0.1


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_guide_may_say_its_density_by_a_factor(vectorize):
    """z ~ N(0, 1), x ~ N(z, 1); the guide's site is masked, and a factor is its log-density."""

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            q = dist.Normal(x / 2 + 0.3, 1.2)
            z = pyro.sample("z", q.mask(False))
            pyro.factor("log q", q.log_prob(z), has_rsample=True)

    x = torch.tensor([-1.0, 0.0, 2.0])
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x).double()
    check_unbiased(model, guide, x, exact, vectorize=vectorize)
