"""Learned priors over real latents: densities against written-out ones, quadrature, and what is refused."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from torch import nn

from pyro_vae import elbo, fit, log_likelihood, sample
from pyro_vae.data import Split
from pyro_vae.distributions import DiagonalMixture
from pyro_vae.errors import InputError
from pyro_vae.guides import FlowGuide, GaussianGuide, HierarchicalGuide, LadderGuide
from pyro_vae.likelihoods import RecurrentTokens
from pyro_vae.models import VAE, HierarchicalVAE
from pyro_vae.networks import OneHot, RecurrentEncoder, diagonal_normal
from pyro_vae.priors import (
    AutoregressiveGaussianPrior,
    FlowPrior,
    LatentPrior,
    MixtureDensityPrior,
    MixturePrior,
    VampPrior,
)
from pyro_vae.programs.densities import log_weights
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.program import Program, as_programs

SHAPE = (1, 6, 5)


def data(n=30):
    return (torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(3)) > 0.5).float()


def shaken(module, by=0.3):
    """A module with other weights than those that it starts with."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module


def tame(module):
    """A flow that is nearly the identity, so that quadrature sees it all: Pyro's start rough."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.2)
    return module


def pair(prior, latent_dim=2):
    torch.manual_seed(1)
    model = VAE(SHAPE, latent_dim, hidden_dims=(16,), prior=prior)
    return model, GaussianGuide(model, hidden_dims=(16,))


PRIORS = {
    "mixture": lambda: MixturePrior((2,), 5),
    "vamp": lambda: VampPrior((2,), SHAPE, 6, learn_weights=True),
    "spline": lambda: FlowPrior((2,), num_layers=2, hidden_dims=(16,)),
    "spline_coupling": lambda: FlowPrior((2,), kind="spline_coupling", hidden_dims=(16,)),
    "maf": lambda: FlowPrior((2,), kind="maf", hidden_dims=(16,)),
    "realnvp": lambda: FlowPrior((2,), kind="realnvp", hidden_dims=(16,)),
    "pyro's flows": lambda: FlowPrior((2,), [tame(transforms.spline(2)), tame(transforms.affine_coupling(2, [8]))]),
}


def made(name):
    """A model with that prior, in float64, and its guide."""
    torch.manual_seed(2)
    prior = shaken(PRIORS[name](), 0.05)
    model, guide = pair(prior)
    with torch.no_grad():
        guide.encoder.mlp.out.bias[2:] += 1.5  # wider than the prior: weights of a small variance
    for module in prior.modules():
        if isinstance(module, VampPrior):
            module.through(guide)
    return model.double(), guide.double()


def grid(side=12.0, points=500):
    """Points of the plane ``(points^2, 2)`` and the area of each."""
    axis = torch.linspace(-side, side, points, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), (axis[1] - axis[0]) ** 2


# -------------------------------------------------------------------------------- densities
@pytest.mark.parametrize("name", PRIORS)
def test_a_density_integrates_to_one(name):
    model, _ = made(name)
    z, area = grid()
    with torch.no_grad():
        total = (model.prior().log_prob(z).exp() * area).sum()
    assert abs(float(total) - 1) < (
        1e-3 if name in ("maf", "pyro's flows") else 1e-4
    )  # its tails reach beyond the grid


@pytest.mark.parametrize("name", PRIORS)
def test_draws_have_the_density(name):
    """The shares of draws in the four quadrants are those of the density."""
    model, _ = made(name)
    z, area = grid()
    with torch.no_grad():
        p = model.prior().log_prob(z).exp() * area
        pyro.set_rng_seed(0)
        drawn = model.prior().sample((20_000,))
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        inside = [(v * torch.tensor(signs) > 0).all(-1) for v in (z, drawn)]
        share, found = float(p[inside[0]].sum()), float(inside[1].double().mean())
        assert abs(share - found) < 4 * math.sqrt(share * (1 - share) / 20_000) + 0.005


@pytest.mark.parametrize("name", PRIORS)
def test_log_likelihood_is_the_integral(name):
    """log p(x) by quadrature over z, the weights' expectation under the guide, and log_likelihood's average of them."""
    model, guide = made(name)
    x = data(4).double()
    z, area = grid(7.0, 250)
    with torch.no_grad():
        log_px_z = model.likelihood(model.decoder(z).unsqueeze(1), 3).log_prob(x)  # (points, N)
        truth = (log_px_z + model.prior().log_prob(z)[:, None]).logsumexp(0) + math.log(area)

        def at_the_grid(trace):
            trace.nodes["z"]["value"] = z[:, None].expand(len(z), 4, 2)
            return trace

        pair = Pair(*as_programs(model, guide)).traces({"x": x}, len(z), at_the_grid)
        log_q = diagonal_normal(guide.encoder(x), guide.min_scale).to_event(1).log_prob(z[:, None])
        expectation = (log_weights(pair, scaled=False) + log_q).logsumexp(0) + math.log(area)  # of the weights under q
    torch.testing.assert_close(expectation, truth, rtol=0, atol=1e-4)
    ours = log_likelihood(model, guide, {"x": x}, num_particles=10_000, seed=1)
    assert float((ours.per_datum.double() - truth).abs().max()) < 0.06


def test_a_mixture_by_products_is_the_direct_sum():
    """Also where the terms are millions of times larger than what they add up to, and for batches of mixtures."""
    torch.manual_seed(0)
    for batch in ((), (3,)):
        loc, scale = 3 * torch.randn(*batch, 50, 2, 4), torch.rand(*batch, 50, 2, 4) * 0.5 + 1e-3
        log_weights = torch.randn(*batch, 50).log_softmax(-1)
        p = DiagonalMixture(log_weights, loc, scale, 2)
        assert p.batch_shape == batch and p.event_shape == (2, 4)
        z = torch.cat([p.sample((20,)), torch.randn(5, *batch, 2, 4)])
        direct = dist.MixtureSameFamily(
            dist.Categorical(logits=log_weights.double()), dist.Normal(loc.double(), scale.double()).to_event(2)
        )
        torch.testing.assert_close(p.log_prob(z).double(), direct.log_prob(z.double()), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(p.mean.double(), direct.mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(p.variance.double(), direct.variance, rtol=1e-5, atol=1e-5)


def test_a_mixture_starts_as_spread_as_the_normal():
    p = MixturePrior((3,), 4000)()
    assert (p.mean.abs() < 0.05).all() and ((p.variance - 1).abs() < 0.05).all()


# -------------------------------------------------------------------------------- written-out densities
def test_an_autoregressive_gaussian_is_a_triangular_one():
    """Of a linear network with fixed scales: z = A z + m + s eps, a Gaussian with a triangular factor."""
    torch.manual_seed(0)
    prior = AutoregressiveGaussianPrior((4,), hidden_dims=(16,)).double()
    normal = dist.Normal(torch.zeros(4), 1.0).to_event(1)
    z = torch.randn(9, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(prior().log_prob(z), normal.log_prob(z), rtol=0, atol=0.1)  # where it starts
    prior.network.f, last = nn.Identity(), prior.network.layers[-1]
    with torch.no_grad():
        (
            last.weight[:4].normal_(),
            last.weight[4:].zero_(),
            last.bias.normal_(),
        )  # of the means; the scales do not depend on z
    m = prior.conditionals(torch.zeros(4, dtype=torch.float64)).loc.detach()
    a = torch.autograd.functional.jacobian(lambda v: prior.conditionals(v).loc, torch.zeros(4, dtype=torch.float64))
    scale = prior.conditionals(m).scale.detach()
    assert torch.equal(a, a.tril(-1)) and (a != 0).sum() == 6
    inverse = torch.linalg.inv(torch.eye(4) - a).tril()
    gaussian = dist.MultivariateNormal(inverse @ m, scale_tril=inverse @ scale.diag())
    torch.testing.assert_close(prior().log_prob(z), gaussian.log_prob(z))
    drawn = prior().sample((20_000,))
    whitened = torch.linalg.solve(gaussian.scale_tril, (drawn - gaussian.mean).T)  # (4, draws), N(0, I)
    torch.testing.assert_close(whitened.mean(1), torch.zeros(4).double(), rtol=0, atol=0.03)
    torch.testing.assert_close(whitened.cov(), torch.eye(4).double(), rtol=0, atol=0.05)


def test_an_autoregressive_gaussian_sees_earlier_numbers_only():
    prior = shaken(AutoregressiveGaussianPrior((2, 3), hidden_dims=(16, 16)))
    z = torch.randn(6)

    def moments(z):
        normal = prior.conditionals(z)
        return torch.stack([normal.loc, normal.scale])

    jacobian = torch.autograd.functional.jacobian(moments, z).abs().sum(0)  # (6, 6)
    assert torch.equal(jacobian, jacobian.tril(-1)) and bool((jacobian.tril(-1) > 0).sum() == 15)
    one = shaken(AutoregressiveGaussianPrior((1,)))
    normal = diagonal_normal(one.first, one.min_scale)
    torch.testing.assert_close(one().log_prob(torch.tensor([0.3])), normal.log_prob(torch.tensor(0.3)).sum())
    assert one().sample((5,)).shape == (5, 1) and prior().sample((5,)).shape == (5, 2, 3)


def test_a_mixture_density_is_the_written_sum():
    torch.manual_seed(0)
    prior = shaken(MixtureDensityPrior((2,), OneHot(3), num_components=4, hidden_dims=(8,)))
    y, z = torch.tensor([0, 2, 1, 2]), torch.randn(5, 4, 2)
    out = prior.network(nn.functional.one_hot(y, 3).float())
    logits, moments = out[:, :4], out[:, 4:].reshape(4, 4, 2, 2)  # (N, K, loc or scale, D)
    scale = nn.functional.softplus(moments[:, :, 1] + math.log(math.expm1(1 - 1e-3))) + 1e-3
    parts = dist.Normal(moments[:, :, 0], scale).log_prob(z[:, :, None]).sum(-1)  # (5, N, K)
    written = (parts + logits.log_softmax(-1)).logsumexp(-1)
    torch.testing.assert_close(prior(y=y).log_prob(z), written, rtol=1e-5, atol=1e-5)
    assert prior(y=y).batch_shape == (4,) and prior(y=y).sample((6,)).shape == (6, 4, 2)
    drawn = prior(y=y).sample((20_000,))
    torch.testing.assert_close(drawn.mean(0), prior(y=y).mean.detach(), rtol=0, atol=0.06)
    with pytest.raises(InputError, match="needs 'y': class labels"):
        prior()


@pytest.mark.parametrize("kind", ["spline", "spline_coupling", "maf"])
def test_a_flow_learns_a_correlated_gaussian(kind):
    torch.manual_seed(0)
    gaussian = dist.MultivariateNormal(torch.tensor([0.3, -0.2]), torch.tensor([[0.8, 0.4], [0.4, 0.6]]))
    prior = FlowPrior((2,), kind=kind, num_layers=2, hidden_dims=(32,), bins=4)
    optimizer = torch.optim.Adam(prior.parameters(), 2e-2)
    steps = 400
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = -prior().log_prob(gaussian.sample((500,))).mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step(), scheduler.step()
    z = gaussian.sample((2000,))
    error = (prior().log_prob(z) - gaussian.log_prob(z)).detach().abs().mean()
    assert float(error) < {"maf": 0.02, "spline": 0.025, "spline_coupling": 0.03}[kind], error  # no affine maps


# -------------------------------------------------------------------------------- VampPrior
def test_a_vamp_prior_is_the_mixture_of_the_guides_posteriors():
    model, guide = made("vamp")
    prior = model.latent_prior
    u = prior.inputs.sigmoid()  # (K, *data_shape)
    q = diagonal_normal(guide.encoder(u), guide.min_scale)
    z = torch.randn(7, 1, 2, dtype=torch.float64)
    written = (q.log_prob(z).sum(-1) + prior.logits.log_softmax(0)).logsumexp(-1)
    ours = prior().log_prob(z[:, 0])
    torch.testing.assert_close(ours, written)
    wanted = [prior.inputs, prior.logits, *guide.encoder.parameters()]
    gradients = [torch.autograd.grad(value.sum(), wanted, retain_graph=True) for value in (ours, written)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
        assert bool(a.any())


def test_a_vamp_prior_of_other_guides():
    """Of covariances and flows, and of a ladder whose top is seen by its guide's own run of the model."""
    torch.manual_seed(4)
    for make in (
        lambda model: GaussianGuide(model, hidden_dims=(16,), covariance="full"),
        lambda model: FlowGuide(model, flow_dim=8, context_dim=4, hidden_dims=(16,)),
        lambda model: LadderGuide(model, (16, 8)),
    ):
        prior = VampPrior((2,), SHAPE, 6)
        model = HierarchicalVAE(SHAPE, (2, 2), (16, 8), prior=prior)
        guide = shaken(make(model))
        prior.through(guide)
        z, u = torch.randn(7, 2), prior.pseudo_inputs
        q = pyro.poutine.trace(Program(guide)).get_trace(x=u).nodes["z2"]["fn"]
        written = torch.stack([q.log_prob(row.expand(6, 2)) for row in z]).logsumexp(-1) - math.log(6)
        torch.testing.assert_close(prior().log_prob(z), written, rtol=1e-4, atol=1e-4)


def test_pseudo_inputs_start_at_training_data():
    for learn in (True, False):
        model, guide = pair(VampPrior((2,), SHAPE, 25, learn=learn))
        x = data()
        fit(model, guide, x, epochs=1, batch_size=10, learning_rate=1e-8, progress=False)
        prior = model.latent_prior
        u, tolerance = prior.pseudo_inputs.detach(), 0.051 if learn else 0
        nearest = (u.flatten(1)[:, None] - x.flatten(1)).abs().amax(-1)  # (K, N)
        assert (nearest.amin(1) <= tolerance).all()
        assert len(set(nearest.argmin(1).tolist())) == 25  # different ones
        assert bool(prior.initialized) and prior.data_wanted == 0


def test_the_prior_keeps_the_guide_and_its_present_weights():
    model, guide = pair(VampPrior((2,), SHAPE, 6))
    assert not any("encoder" in name for name in model.state_dict())
    assert {id(m) for m in model.modules()}.isdisjoint({id(m) for m in guide.modules()} - {id(model)})
    x = data()
    elbo(model, guide, {"x": x})
    assert model.latent_prior.guide.program is guide
    other = shaken(GaussianGuide(model, hidden_dims=(16,)))
    log_likelihood(model, other, {"x": x}, num_particles=2)  # measured by another guide: the same model
    assert model.latent_prior.guide.program is guide
    z = torch.zeros(1, 2)
    density = model.prior().log_prob(z)
    shaken(guide)
    assert not torch.equal(density, model.prior().log_prob(z))
    copied, its = copy.deepcopy((model, guide))
    assert copied.latent_prior.guide.program is its


def test_training_with_another_guide_is_refused():
    model, guide = pair(VampPrior((2,), SHAPE, 6))
    model.latent_prior.through(guide)
    with pytest.raises(InputError, match=r"another guide.*through\(guide\)"):
        fit(copy.deepcopy(model), copy.deepcopy(guide), data(), epochs=1, progress=False)


def test_no_number_without_a_guide():
    model, _ = pair(VampPrior((2,), SHAPE, 6))
    for ask in (
        lambda: sample(model, 3),
        lambda: model.prior().log_prob(torch.zeros(2)),
        lambda: model.prior().sample(),
        lambda: Program(model)(x=data(2)),
    ):
        with pytest.raises(InputError, match=r"VampPrior is made of a guide's posteriors.*through\(guide\)"):
            ask()


def test_a_guide_that_draws_before_is_refused():
    model = HierarchicalVAE(SHAPE, (4, 2), (16, 8), prior=VampPrior((2,), SHAPE, 6))
    guide = HierarchicalGuide(model, (16, 8))
    with pytest.raises(InputError, match="draws 'z1' before 'z2'"):
        fit(model, guide, data(), epochs=1, progress=False)


def test_a_vamp_prior_within_handlers_and_plates_leaves_no_trace():
    model, guide = pair(VampPrior((2,), SHAPE, 6))
    model.latent_prior.through(guide)

    def run():
        with pyro.plate("particles", 3, dim=-2):
            Program(model)(x=data(4))

    trace = pyro.poutine.trace(run).get_trace()
    assert set(trace.nodes) == {"_INPUT", "particles", "data", "z", "x", "_RETURN"}
    assert trace.nodes["z"]["value"].shape == (3, 4, 2)
    assert not pyro.poutine.runtime._PYRO_STACK and not pyro.poutine.runtime._DIM_ALLOCATOR._stack


def test_batch_statistics_are_of_data_alone():
    """Dropout and batch norm of the guide are in evaluation mode at pseudo-inputs, whatever mode it is in."""
    model = VAE(SHAPE, 2, hidden_dims=(16,), prior=VampPrior((2,), SHAPE, 6))
    encoder = nn.Sequential(nn.Flatten(-3), nn.Dropout(0.5), nn.Linear(30, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    guide = GaussianGuide(model, encoder)
    model.latent_prior.through(guide)
    guide.train()
    before = encoder[3].running_mean.clone()
    z = torch.zeros(1, 2)
    assert torch.equal(model.prior().log_prob(z), model.prior().log_prob(z))
    assert torch.equal(before, encoder[3].running_mean) and encoder[1].training


# -------------------------------------------------------------------------------- bad input
def test_bad_input():
    with pytest.raises(InputError, match=r"the prior has shape \(3,\), and latent site 'z' has \(2,\)"):
        VAE(SHAPE, 2, prior=MixturePrior((3,)))
    with pytest.raises(InputError, match=r"the prior has shape \(3,\), and latent site 'z2' has \(2,\)"):
        HierarchicalVAE(SHAPE, (4, 2), (16, 8), prior=MixturePrior((3,)))
    with pytest.raises(InputError, match="prior must be a LatentPrior"):
        VAE(SHAPE, 2, prior=nn.Linear(2, 2))
    with pytest.raises(InputError, match="num_components must be a positive integer, got 0"):
        MixturePrior((3,), 0)
    with pytest.raises(InputError, match="num_components must be a positive integer, got 0"):
        VampPrior((3,), SHAPE, 0)
    with pytest.raises(InputError, match="MixturePrior needs shape"):
        MixturePrior()
    with pytest.raises(InputError, match="positive sizes"):
        LatentPrior((0,))
    with pytest.raises(InputError, match="VampPrior needs data_shape"):
        VampPrior((3,))
    with pytest.raises(InputError, match="start must be"):
        VampPrior((3,), SHAPE, start="random", learn=False)
    with pytest.raises(InputError, match="low < high"):
        VampPrior((3,), SHAPE, data_range=(1.0, 1.0))
    with pytest.raises(InputError, match="kind of flow"):
        FlowPrior((3,), kind="splines")
    with pytest.raises(InputError, match=r"Planar has none.*planar and radial flows have none"):
        FlowPrior((2,), [transforms.planar(2)])
    with pytest.raises(InputError, match="do not take vectors of size 3"):
        FlowPrior((3,), [transforms.affine_coupling(5, [8])])


@pytest.mark.parametrize("shape", [2, "2", (2.5,), (True,), (0,), (), [[2]]])
def test_what_is_no_shape_is_said_so(shape):
    for make in (lambda: MixturePrior(shape), lambda: VampPrior((2,), shape), lambda: FlowPrior(shape)):
        with pytest.raises(InputError, match="shape must be one or more positive sizes"):
            make()


@pytest.mark.parametrize("ends", [(1,), ("a", 1), 3, (0, math.inf), (0.0, 1.0, 2.0), (math.nan, 1.0)])
def test_what_is_no_range_is_said_so(ends):
    with pytest.raises(InputError, match="low < high"):
        VampPrior((3,), SHAPE, data_range=ends)


def test_bad_pseudo_inputs():
    prior = VampPrior((2,), SHAPE, 6)
    with pytest.raises(InputError, match=r"data_shape \(1, 6, 5\), got data of shape \(1, 5, 6\)"):
        prior.take_data(torch.zeros(9, 1, 5, 6))
    with pytest.raises(InputError, match=r"6 pseudo-inputs.*there are 5"):
        prior.take_data(torch.zeros(5, *SHAPE))
    with pytest.raises(InputError, match="missing entries"):
        prior.take_data(torch.full((6, *SHAPE), torch.nan))
    with pytest.raises(InputError, match="the data go from 2 to 2"):
        prior.take_data(torch.full((6, *SHAPE), 2.0))
    model, guide = pair(VampPrior((2,), SHAPE, 40))
    with pytest.raises(InputError, match=r"40 pseudo-inputs.*there are 30"):
        fit(model, guide, data(), epochs=1, progress=False)
    model, guide = pair(VampPrior((2,), (1, 5, 5), 6))
    with pytest.raises(InputError, match=r"VampPrior.*pseudo-inputs of shape \(6, 1, 5, 5\)"):
        fit(model, guide, data(), epochs=1, progress=False)


def test_without_zuko(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(InputError, match=r"pip install 'pyro-vae\[flows\]'"):
        FlowPrior((3,))


def test_pseudo_inputs_between_tokens_are_refused():
    prior = VampPrior((2,), data_shape=(6,), num_components=3, start="random")
    likelihood = RecurrentTokens((6,), 10, features=4, embedding_dim=4, hidden_dim=4)
    model = VAE((6,), latent_dim=2, likelihood=likelihood, hidden_dims=(), prior=prior)
    guide = GaussianGuide(model, RecurrentEncoder((6,), 10, outputs=4, embedding_dim=4, hidden_dim=4))
    x = torch.tensor([[1, 2, 3, 0, 0, 0]] * 4)
    with pytest.raises(InputError, match="none between integers, tokens say"):
        fit(model, guide, Split({"x": x}, integers=True), epochs=1, device="cpu", progress=False)


def test_a_mixture_density_with_shared_components_has_the_same_ones_for_every_context():
    torch.manual_seed(0)
    prior = MixtureDensityPrior((2,), OneHot(3), 4, shared=True)
    y, z = torch.tensor([0, 2, 1, 1]), torch.randn(4, 2)
    found = prior(y=y)
    assert found.batch_shape == (4,) and found.sample((5,)).shape == (5, 4, 2)
    loc, raw = prior.moments.view(4, 2, 2).unbind(1)
    scale = diagonal_normal(torch.cat([loc, raw], -1), 1e-3).scale
    each = torch.distributions.Normal(loc, scale).log_prob(z[:, None]).sum(-1)  # (4, K)
    wanted = (prior.network(prior.condition(y)).log_softmax(-1) + each).logsumexp(-1)
    torch.testing.assert_close(found.log_prob(z), wanted)
    assert torch.equal(found.log_prob(torch.zeros(4, 2))[2], found.log_prob(torch.zeros(4, 2))[3])


def clusters(n=600):
    """Three narrow heaps far from where mixtures start."""
    which = torch.randint(3, (n,))
    centers = torch.tensor([[8.0, 0.0], [-6.0, 5.0], [0.0, -9.0]])
    return centers[which] + torch.tensor([0.1, 0.4]) * torch.randn(n, 2), centers


@pytest.mark.parametrize("kind", ["mixture", "shared", "own"])
def test_mixtures_start_where_draws_are(kind):
    torch.manual_seed(0)
    z, centers = clusters()
    if kind == "mixture":
        prior = MixturePrior((2,), num_components=3)
        start = prior()
    else:
        prior = MixtureDensityPrior((2,), OneHot(3), 3, shared=kind == "shared")
        start = prior(y=torch.zeros(1, dtype=torch.long))
    assert start.log_prob(z).mean() < -20
    prior.start_at(z)
    found = prior() if kind == "mixture" else prior(y=torch.zeros(1, dtype=torch.long))
    exact = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(3)),
        torch.distributions.Independent(torch.distributions.Normal(centers, torch.tensor([0.1, 0.4]).expand(3, 2)), 1),
    )
    lacks = exact.log_prob(z).mean() - found.log_prob(z).mean()
    assert -0.05 < lacks < (0.05 if kind == "mixture" else 2.0)  # features of y are added to what starts at the draws


def test_components_that_no_value_is_near_to_are_wide_and_rare():
    torch.manual_seed(0)
    z = torch.tensor([[1.0, 2.0]]).repeat(50, 1)
    prior = MixturePrior((2,), num_components=4)
    prior.start_at(z)
    assert prior().log_prob(z).isfinite().all() and prior().sample((100,)).isfinite().all()
    assert all(p.isfinite().all() for p in prior.parameters())
