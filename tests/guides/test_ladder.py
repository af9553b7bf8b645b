"""The ladder guide: exact on a linear-Gaussian hierarchy, its merges by hand, whose model it runs."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo, log_likelihood
from pyro_vae.guides import GaussianGuide, LadderGuide
from pyro_vae.guides.ladder import by_precision, residual
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE, HierarchicalVAE
from pyro_vae.networks.mlp import MIN_VARIANCE
from pyro_vae.objectives import IWAE
from pyro_vae.programs.program import Program, as_programs

DATA, LATENT, NOISE = 6, 3, 0.6


def raw_of(variance):
    """What the network must give for softplus(raw) + MIN_VARIANCE to be this variance."""
    return torch.log(torch.expm1(variance - MIN_VARIANCE))


def linear_pair(seed=0):
    """z2 ~ N(0, I), z1 | z2 ~ N(A z2 + a, S), x | z1 ~ N(W z1 + b, s^2 I), A, S diagonal, W with orthogonal columns.

    With these the posterior's factors q(z2 | x), q(z1 | z2, x) are diagonal, and the second is p's conditional merged
    with evidence linear in x: what the ladder guide computes.

    Returns:
        model, guide with the exact posterior, and the exact distribution of x.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    w = torch.linalg.qr(normal(DATA, LATENT)).Q * torch.tensor([2.0, 1.0, 0.5])
    b, a, slope = normal(DATA), normal(LATENT), normal(LATENT)
    s = torch.tensor([0.3, 0.7, 1.2], dtype=torch.float64)
    model = HierarchicalVAE((DATA,), (LATENT, LATENT), (1, 1), 0, likelihood=Gaussian(NOISE)).double()
    guide = LadderGuide(model, (1, 1), 0).double()

    def set_head(head, matrix, bias, variance):
        with torch.no_grad():
            head.linear.weight.copy_(torch.cat([matrix, torch.zeros_like(matrix)]))
            head.linear.bias.copy_(torch.cat([bias, raw_of(variance)]))

    with torch.no_grad():
        model.decoder.mlp.out.weight.copy_(w)
        model.decoder.mlp.out.bias.copy_(b)
    set_head(model.conditionals[0].head, torch.diag(slope), a, s)
    precision = w.square().sum(0)  # |w_j|^2
    estimate = w.T / precision[:, None]  # z1 by least squares
    noise = NOISE**2 / precision
    set_head(guide.heads[0], estimate, -estimate @ b, noise)
    gain = slope / (s + noise)  # q(z2 | x): the regression of z2 on that estimate
    variance = 1 / (1 + slope.square() / (s + noise))
    set_head(guide.heads[1], (variance * gain)[:, None] * estimate, -variance * gain * (estimate @ b + a), variance)
    covariance = w @ torch.diag(slope.square() + s) @ w.T + NOISE**2 * torch.eye(DATA)
    return model, guide, dist.MultivariateNormal(w @ a + b, covariance)


def test_the_exact_posterior_gives_the_exact_likelihood_with_one_particle():
    model, guide, exact = linear_pair()
    x = exact.sample((50,))
    result = log_likelihood(model, guide, x, num_particles=1)
    torch.testing.assert_close(result.per_datum, exact.log_prob(x), rtol=0, atol=1e-6)  # the noise is kept in float32
    bound = elbo(model, guide, x, num_particles=3000)
    assert (bound.per_datum - exact.log_prob(x)).abs().max() < 0.2


def test_a_wrong_ladder_guide_recovers_the_exact_likelihood():
    model, guide, exact = linear_pair()
    x = exact.sample((100,))
    with torch.no_grad():
        for head in guide.heads:
            head.linear.bias.add_(0.4)  # displaced, and too wide
    few = log_likelihood(model, guide, x, num_particles=1).per_datum - exact.log_prob(x)
    many = log_likelihood(model, guide, x, num_particles=20_000).per_datum - exact.log_prob(x)
    assert few.mean() < -0.1
    assert abs(many.mean()) < 0.005 and many.abs().max() < 0.1


def test_the_data_in_the_closed_form_are_those_of_the_model():
    model, _, exact = linear_pair()
    torch.manual_seed(1)
    with torch.no_grad():
        x = Program(model)(num_samples=40_000)
    torch.testing.assert_close(x.mean(0), exact.mean, rtol=0, atol=0.05)
    torch.testing.assert_close(torch.cov(x.T), exact.covariance_matrix, rtol=0, atol=0.1)


def test_precision_weighting_is_the_product_of_two_gaussians():
    a, b = dist.Normal(torch.tensor([0.5, -2.0]), torch.tensor([0.3, 2.0])), dist.Normal(1.5, 0.7)
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None]
    density = (a.log_prob(grid) + b.log_prob(grid)).exp()
    density = density / torch.trapezoid(density, grid[:, 0], dim=0)
    merged = by_precision(a, b)
    torch.testing.assert_close(merged.log_prob(grid).exp(), density, rtol=1e-4, atol=1e-6)


def test_the_residual_form_is_relative_to_the_models_conditional():
    q = residual(dist.Normal(torch.tensor(0.2), torch.tensor(0.5)), dist.Normal(1.0, 3.0))
    assert q.loc.item() == pytest.approx(1.2) and q.scale.item() == pytest.approx(1.5)


def test_evidence_without_weight_leaves_the_models_conditional():
    flat = dist.Normal(torch.tensor(7.0, dtype=torch.float64), 1e6)
    q = by_precision(flat, dist.Normal(1.0, 3.0))
    assert q.loc.item() == pytest.approx(1.0, abs=1e-6) and q.scale.item() == pytest.approx(3.0, abs=1e-6)


def test_the_decoder_of_x_is_not_run_by_the_guide():
    model = HierarchicalVAE((DATA,), (3, 2), (8, 6), 1, likelihood=Gaussian())
    guide = LadderGuide(model, (8, 6), 1)
    calls = []
    model.decoder.register_forward_hook(lambda *_: calls.append("x"))
    trace = poutine.trace(Program(guide)).get_trace(x=torch.randn(5, DATA))
    assert calls == []
    assert [n for n, s in trace.nodes.items() if s["type"] == "sample"] == ["data", "z2", "z1"]
    assert trace.nodes["z1"]["value"].shape == (5, 3)


def test_top_down_weights_are_the_models_own():
    model = HierarchicalVAE((DATA,), (3, 2), (8, 6), 1, likelihood=Gaussian())
    ours = {id(p) for p in LadderGuide(model, (8, 6), 1).parameters()}
    assert {id(p) for p in model.conditionals.parameters()} <= ours


def test_errors():
    model = HierarchicalVAE((DATA,), (3, 2), (8, 6), 1)
    with pytest.raises(InputError, match=r"latent_dims .* and hidden_dims need one number for each layer"):
        LadderGuide(model, (8, 6, 4))
    with pytest.raises(InputError, match=r"merge 'precison'.*precision"):
        LadderGuide(model, (8, 6), merge="precison")
    with pytest.raises(InputError, match=r"guide expects vectors of shape \(6,\), got"):
        Program(LadderGuide(model, (8, 6)))(x=torch.zeros(4, 5))
    with pytest.raises(InputError, match="one number for each layer"):
        HierarchicalVAE((DATA,), (3, 2), (8,))
    with pytest.raises(InputError, match="must be positive"):
        HierarchicalVAE((DATA,), (3, 0), (8, 6))

    def laplace(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            top = pyro.sample("top", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z = pyro.sample("z", dist.Laplace(top, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    with pytest.raises(InputError, match="latent site 'z' is Laplace; a top-down guide merges Gaussians"):
        Program(LadderGuide(laplace, (4, 4)))(x=torch.zeros(3, 2))


def test_latents_in_a_plate_of_the_models_are_drawn_one_by_one():
    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("parts", 3, dim=-2):
                low = pyro.sample("low", dist.Normal(top, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(low.sum(0), 1.0).to_event(1), obs=x)

    trace = poutine.trace(Program(LadderGuide(model, (4, 4), 1))).get_trace(x=torch.randn(12, 2))
    low = trace.nodes["low"]["value"]
    assert low.shape == (3, 12, 2) and not torch.equal(low[0], low[1])


def test_a_second_data_site_is_no_latent():
    def model(x=None, w=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            low = pyro.sample("low", dist.Normal(top, 1.0).to_event(1))
            pyro.sample("w", dist.Normal(low, 1.0).to_event(1), obs=w)
            return pyro.sample("x", dist.Normal(low, 1.0).to_event(1), obs=x)

    guide = LadderGuide(model, (4, 4), 1)
    assert guide.names == ["low", "top"]
    batch = {"x": torch.randn(5, 2), "w": torch.randn(5, 2)}
    assert set(elbo(model, guide, batch).log_likelihood) == {"x", "w"}


@pytest.mark.parametrize("gradient", ["standard", "dreg", "stl"])
def test_gradients_are_those_of_a_module_where_the_model_is_a_function(gradient):
    """The held guide of dreg and stl must hold the top-down weights as well, whoever owns them."""
    torch.manual_seed(0)
    module = HierarchicalVAE((DATA,), (3, 2), (8, 6), 1, likelihood=Gaussian())

    def function(x=None, num_samples=1):
        return module(x, num_samples=num_samples)

    x, gradients = torch.randn(20, DATA), []
    for model in (module, function):
        torch.manual_seed(1)
        programs = as_programs(model, LadderGuide(model, (8, 6), 1))
        loss = IWAE(3, gradient)(*programs)(x=x)
        gradients.append(torch.autograd.grad(loss, list(module.parameters())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_guide_that_lacks_a_layer_is_refused_with_the_names_of_the_sites():
    deep, shallow = HierarchicalVAE((DATA,), (3, 2), (8, 6), 1, likelihood=Gaussian()), VAE((DATA,), 3, Gaussian())
    with pytest.raises(InputError, match=r"guide lacks the model's latent sites z2, z1 .*it has: z"):
        elbo(deep, GaussianGuide(shallow, hidden_dims=(4,)), torch.randn(4, DATA))
