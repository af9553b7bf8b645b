"""Latents of which masks leave out elements: neither program has a density there, and exact values are known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from unbiased import check_unbiased

from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, bidirectional, elbo, generate, log_likelihood
from pyro_vae.evaluation.annealing.path import AnnealedPath
from pyro_vae.programs.session import evaluating

M = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 0], [0, 0, 0]]).bool()
HOW = ["elements", "events", "poutine.mask"]


def masked(fn, m, how):
    """Elements of an event, or whole events where the first element is masked."""
    if how == "elements":
        return fn.mask(m).to_event(1)
    return fn.to_event(1).mask(m[:, 0]) if how == "events" else fn.to_event(1)


def outside(m, how):
    return poutine.mask(mask=m[:, 0] if how == "poutine.mask" else True)


def kept(how):
    return M.double() if how == "elements" else M[:, :1].double().expand(5, 3)


class Normals:
    """z_j ~ N(0, 1), x_j ~ N(z_j, 1), j = 1 ... 3."""

    x = torch.tensor([[0.3, 3.0, 3.0], [-1.0, 2.0, 3.0], [0.5, -0.5, 1.5], [3.0, 1.0, 3.0], [3.0, 3.0, 3.0]])

    def __init__(self, how, in_guide=True, exactly=False):
        self.how, self.in_guide, self.exactly = how, in_guide, exactly

    def model(self, x=None, *, m, num_samples=1):
        with pyro.plate("data", len(m)), outside(m, self.how):
            z = pyro.sample("z", masked(dist.Normal(torch.zeros(3), 1.0), m, self.how))
            return pyro.sample("x", masked(dist.Normal(z, 1.0), m, self.how), obs=x)

    def guide(self, x, *, m):
        with pyro.plate("data", len(x)), outside(m, self.how if self.in_guide else "nowhere"):
            q = dist.Normal(0.5 * x, math.sqrt(0.5)) if self.exactly else dist.Normal(0.4 * x, 0.9)
            pyro.sample("z", masked(q, m, self.how) if self.in_guide else q.to_event(1))

    def exact(self, x):
        return (dist.Normal(0.0, math.sqrt(2)).log_prob(x.double()) * kept(self.how)).sum(1)


class Rates(Normals):
    """z_j ~ Gamma(2, 1), x_j ~ Poisson(z_j): negative binomials; z_j moves as its logarithm."""

    x = torch.tensor([[4.0, 0, 0], [1, 3, 0], [2, 0, 5], [0, 2, 0], [7, 7, 7]])

    def model(self, x=None, *, m, num_samples=1):
        with pyro.plate("data", len(m)), outside(m, self.how):
            z = pyro.sample("z", masked(dist.Gamma(2 * torch.ones(3), 1.0), m, self.how))
            return pyro.sample("x", masked(dist.Poisson(z), m, self.how), obs=x)

    def guide(self, x, *, m):
        with pyro.plate("data", len(x)), outside(m, self.how if self.in_guide else "nowhere"):
            q = dist.Gamma(2 + x, 2.0) if self.exactly else dist.LogNormal(((x + 1) / 2).log(), 0.7)
            pyro.sample("z", masked(q, m, self.how) if self.in_guide else q.to_event(1))

    def exact(self, x):
        s = x.double()
        return ((torch.lgamma(s + 2) - (s + 2) * math.log(2) - torch.lgamma(s + 1)) * kept(self.how)).sum(1)


PAIRS = [Normals, Rates]


@pytest.mark.parametrize("start", ["guide", "prior"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("pair", PAIRS)
def test_annealing(pair, how, start):
    pair = pair(how)
    data = {"x": pair.x, "m": M}
    result = check_unbiased(
        pair.model, pair.guide, data, pair.exact(pair.x), start=start, num_temperatures=20, compile="graph"
    )
    assert torch.equal(result.log_weights[:, -1], torch.zeros(3000).double())  # a datum that is left out altogether


@pytest.mark.parametrize("start", ["guide", "prior"])
@pytest.mark.parametrize("vectorize", [True, False])
def test_what_is_left_out_starts_where_it_stays(start, vectorize):
    """At N(0, 1), wherever the guide draws it and whatever value is given; what is kept starts as drawn and given."""
    pair = Normals("elements")
    far = torch.where(M, pair.x, 9.0)
    how = {"bounds": start == "guide", "vectorize": vectorize}
    with evaluating(pair.model, pair.guide, {"x": far, "m": M}, 0, **how) as (programs, split):
        densities = AnnealedPath(programs, start, 2000).on(split.batch(slice(0, 5)))
        points = [densities.draw(), densities.draw(), densities.at_values({"z": far})]
    for point in points:
        left_out = point.u[:, ~M]
        assert left_out.mean(0).abs().max() < 0.1 and (left_out.std(0) - 1).abs().max() < 0.1
    assert torch.equal(points[2].u[:, M], far[M].expand(2000, -1))


def test_what_is_left_out_makes_no_bias():
    """The guide draws it near 3.6: out of equilibrium it would tell on the acceptance of what is kept."""
    pair = Normals("elements")
    far = torch.where(M, pair.x, 9.0)
    check_unbiased(pair.model, pair.guide, {"x": far, "m": M}, pair.exact(far))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("pair", PAIRS)
def test_importance_weights(pair, how):
    pair = pair(how)
    result = log_likelihood(pair.model, pair.guide, {"x": pair.x, "m": M}, num_particles=20_000, compile="off")
    error = (1 / result.effective_sample_size).sqrt()
    assert ((result.per_datum - pair.exact(pair.x)).abs() < 5 * error + 1e-5).all() and error.max() < 0.05


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("pair", PAIRS)
def test_bidirectional(pair, how):
    """The guide is the posterior where there is one: every weight is p(x)."""
    pair = pair(how, exactly=True)
    m = M.repeat(8, 1)
    drawn = generate.sample(pair.model, 40, seed=4, batch={"m": m})["x"]
    weight = kept(how).repeat(8, 1)
    if type(pair) is Normals:
        exact = (dist.Normal(0.0, math.sqrt(2)).log_prob(drawn.double()) * weight).sum(1)
    else:
        s = drawn.double()
        exact = ((torch.lgamma(s + 2) - (s + 2) * math.log(2) - torch.lgamma(s + 1)) * weight).sum(1)
    result = bidirectional(pair.model, pair.guide, 40, batch={"m": m}, num_temperatures=3, num_chains=2, seed=4)
    for side in (result.lower, result.upper):
        torch.testing.assert_close(side, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("analytic", [True, False])
def test_elbo_and_its_closed_form_kl(how, analytic):
    pair = Normals(how)
    result = elbo(pair.model, pair.guide, {"x": pair.x, "m": M}, num_particles=4000, analytic_kl=analytic)
    mean, variance = 0.4 * pair.x.double(), 0.81
    kl = (0.5 * (mean**2 + variance - 1 - math.log(variance)) * kept(how)).sum(1)
    fit = dist.Normal(mean, 1.0).log_prob(pair.x.double()) - variance / 2
    if analytic:
        torch.testing.assert_close(result.kl["z"], kl, rtol=1e-5, atol=1e-5)
    else:
        assert (result.kl["z"] - kl).abs().max() < 0.15 and result.kl["z"][-1] == 0
    assert (result.per_datum - ((fit * kept(how)).sum(1) - kl)).abs().max() < 0.5
    assert result.per_datum[-1] == 0


@pytest.mark.parametrize("how", ["events", "poutine.mask"])
@pytest.mark.parametrize("pair", PAIRS)
def test_events_that_the_model_alone_masks_are_not_there(pair, how):
    pair = pair(how, in_guide=False)
    data = {"x": pair.x, "m": M}
    check_unbiased(pair.model, pair.guide, data, pair.exact(pair.x))
    result = log_likelihood(pair.model, pair.guide, data, num_particles=20_000)
    assert (result.per_datum - pair.exact(pair.x)).abs().max() < 0.1


# ------------------------------------------------------------------------------ several sites of which one is masked
@pytest.mark.parametrize("mode", ["off", "graph"])
def test_a_mask_of_the_model_and_a_site_after_it(mode):
    """Drawn from again, and recorded, each site keeps its own tensors."""

    def model(x=None, *, m, num_samples=1):
        with pyro.plate("data", len(m)):
            a = pyro.sample("a", dist.Normal(torch.zeros(len(m)), 1.0).mask(m[:, 0]))
            b = pyro.sample("b", dist.Normal(torch.zeros(len(m)), 1.0))
            loc = torch.stack([torch.where(m[:, 0], a, 0.0), b], -1)
            return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x, *, m):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(0.5 * x[:, 0], 0.9))
            pyro.sample("b", dist.Normal(0.5 * x[:, 1], 0.8))

    x = torch.tensor([[0.3, 0.5], [-1.0, 2.0], [0.5, -0.5], [1.0, 1.0], [2.0, 0.0]])
    first = torch.where(M[:, 0], 2.0, 1.0).double().sqrt()
    exact = dist.Normal(0.0, first).log_prob(x[:, 0].double()) + dist.Normal(0.0, math.sqrt(2)).log_prob(x[:, 1])
    data = {"x": x, "m": M}
    check_unbiased(model, guide, data, exact, compile=mode)
    result = log_likelihood(model, guide, data, num_particles=10_000, memory_budget=400_000, compile=mode)
    assert (result.per_datum - exact).abs().max() < 0.05


# ------------------------------------------------------------------------------ refusals
def two(p, q, x=dist.Normal):
    def model(x=None, *, m, num_samples=1):
        with pyro.plate("data", len(m)):
            z = pyro.sample("z", p(dist.Normal(torch.zeros(3), 1.0), m))
            return pyro.sample("x", dist.Normal(z, 1.0).mask(m).to_event(1), obs=x)

    def guide(x, *, m):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q(dist.Normal(0.4 * x, 0.9), m))

    return model, guide


def elements(fn, m):
    return fn.mask(m).to_event(1)


def nothing(fn, m):
    return fn.to_event(1)


def inside(fn, m):
    return dist.TransformedDistribution(fn.mask(m), dist.transforms.AffineTransform(0.0, 1.0)).to_event(1)


ESTIMATES = [ais, log_likelihood]


@pytest.mark.parametrize("estimate", ESTIMATES)
@pytest.mark.parametrize(("p", "q"), [(elements, nothing), (nothing, elements)])
def test_other_elements_in_the_two_programs(p, q, estimate):
    with pytest.raises(InputError, match=r"'z'.*(mask|density)"):
        estimate(*two(p, q), {"x": Normals.x, "m": M})


@pytest.mark.parametrize("estimate", ESTIMATES)
@pytest.mark.parametrize(("p", "q"), [(inside, elements), (elements, inside)])
def test_a_mask_inside_of_a_transformed_distribution(p, q, estimate):
    with pytest.raises(InputError, match=r"'z': a mask inside of TransformedDistribution leaves out only a part"):
        estimate(*two(p, q), {"x": Normals.x, "m": M})


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_a_mask_of_elements_around_a_site(estimate):
    def model(x=None, *, m, num_samples=1):
        with pyro.plate("data", len(m)), poutine.mask(mask=m):
            z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, *, m):
        with pyro.plate("data", len(x)), poutine.mask(mask=m):
            pyro.sample("z", dist.Normal(0.4 * x, 0.9).to_event(1))

    with pytest.raises(InputError, match=r"mask of shape \(2, 5\).*\.mask\(m\)\.to_event\(1\)"):
        estimate(model, guide, {"x": torch.zeros(5, 5), "m": torch.ones(5, 5).bool()})


@pytest.mark.parametrize("what", ["data", "other latents"])
def test_what_depends_on_elements_that_are_left_out(what):
    """p(x) is not defined by a latent that has no density."""

    def model(x=None, *, m, num_samples=1):
        with pyro.plate("data", len(m)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).mask(m).to_event(1))
            loc = z if what == "data" else torch.where(m, z, 0.0)
            w = pyro.sample("w", dist.Normal(z.sum(-1) if what != "data" else 0.0 * z.sum(-1), 1.0))
            return pyro.sample("x", dist.Normal(loc + 0 * w[..., None], 1.0).to_event(1), obs=x)

    def guide(x, *, m):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.4 * x, 0.9).mask(m).to_event(1))
            pyro.sample("w", dist.Normal(torch.zeros(len(x)), 1.0))

    for start in ("guide", "prior"):
        with pytest.raises(InputError, match="depend on elements of the latents that a mask leaves out"):
            ais(model, guide, {"x": torch.zeros(5, 3), "m": M}, start=start, num_temperatures=3)
