"""Conditional models against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.distributions import Completed, completed, counted_fraction
from pyro_vae.evaluation import elbo, log_likelihood
from pyro_vae.evaluation.generate import decode, sample
from pyro_vae.guides import CompletionGuide, ConditionalGuide, EmptyGuide
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import CompletionBaseline, CompletionVAE, ConditionalVAE
from pyro_vae.networks import Attributes, OneHot, diagonal_normal
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.programs.program import as_programs

NOISE = 0.6


def linear_gaussian(seed=4):
    """z | y ~ N(A y + a, s^2), x | z, y ~ N(W z + V y + b, NOISE^2): the package's model with linear networks."""
    torch.manual_seed(seed)
    model = ConditionalVAE((5,), Attributes(2), 3, Gaussian(NOISE), hidden_dims=())
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.7)
    return model.double()


def exact_log_prob(model, x, y):
    """log p(x | y) of the marginal N(W m(y) + V y + b, W diag(s(y)^2) W' + NOISE^2 I), nats."""
    prior = diagonal_normal(model.prior_network(y))
    weight, bias = model.decoder.mlp.out.weight, model.decoder.mlp.out.bias
    w, v = weight[:, :3], weight[:, 3:]
    mean = prior.loc @ w.T + y @ v.T + bias
    covariance = torch.einsum("ij,nj,kj->nik", w, prior.scale**2, w) + NOISE**2 * torch.eye(5)
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)


def posterior(model):
    """q(z | x, y) as a diagonal Gaussian around the exact posterior mean, a little wider: bounded weights."""

    def guide(x, y):
        prior = diagonal_normal(model.prior_network(y))
        weight, bias = model.decoder.mlp.out.weight, model.decoder.mlp.out.bias
        w, v = weight[:, :3], weight[:, 3:]
        precision = torch.diag_embed(prior.scale**-2) + w.T @ w / NOISE**2  # (n, 3, 3)
        covariance = torch.linalg.inv(precision)
        shift = prior.loc / prior.scale**2 + (x - y @ v.T - bias) @ w / NOISE**2
        with pyro.plate("data", len(x), dim=-1):
            mean = (covariance @ shift.unsqueeze(-1)).squeeze(-1)
            pyro.sample("z", dist.Normal(mean, 1.3 * covariance.diagonal(dim1=-2, dim2=-1).sqrt()).to_event(1))

    return guide


def test_linear_gaussian_log_likelihood_is_recovered():
    model = linear_gaussian()
    y = torch.randn(30, 2, dtype=torch.float64)
    x = sample(model, 30, batch={"y": y})["x"]
    with torch.no_grad():
        exact = exact_log_prob(model, x, y)
    estimate = log_likelihood(model, posterior(model), {"x": x, "y": y}, num_particles=20_000)
    torch.testing.assert_close(estimate.per_datum, exact, atol=0.02, rtol=0)
    shuffled = log_likelihood(model, posterior(model), {"x": x, "y": y.flip(0)}, num_particles=2000)
    assert shuffled.mean < exact.mean() - 1  # the context matters
    bound = elbo(model, posterior(model), {"x": x, "y": y}, num_particles=200)
    assert bound.mean < exact.mean()


def test_samples_have_the_marginal_moments():
    model = linear_gaussian()
    y = torch.tensor([[0.5, -1.0]], dtype=torch.float64).expand(20_000, -1)
    x = sample(model, len(y), batch={"y": y}, batch_size=20_000)["x"]
    with torch.no_grad():
        prior = diagonal_normal(model.prior_network(y[:1]))
        weight, bias = model.decoder.mlp.out.weight, model.decoder.mlp.out.bias
        mean = prior.loc[0] @ weight[:, :3].T + y[0] @ weight[:, 3:].T + bias
    torch.testing.assert_close(x.mean(0), mean, atol=0.05, rtol=0)


def test_one_hot():
    y = torch.tensor([2, 0, 3])
    assert OneHot(4)(y).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    assert OneHot(4).double()(y).dtype == torch.float64
    assert not list(OneHot(4).state_dict())


def test_the_label_picks_the_moments_of_the_prior():
    """A linear prior network of a label is a table: mu(y) = column y + bias."""
    model = ConditionalVAE((4,), OneHot(3), 2)
    out = model.prior_network.out
    fn = model.prior(model.condition(torch.tensor([2])))
    assert torch.allclose(fn.mean[0], out.weight[:2, 2] + out.bias[:2])
    held = decode(model, {"z": torch.zeros(3, 2)}, batch={"y": torch.arange(3)})
    assert not torch.allclose(held[0], held[1])  # the decoder, too, sees y


# ---------------------------------------------------------------------------- completion
def completion(n=9, shape=(1, 4, 3)):
    torch.manual_seed(2)
    x = (torch.rand(n, *shape) < 0.5).float()
    mask = torch.rand(n, *shape) < 0.4
    return {"x": x, "y": x * mask, "mask": mask}


@pytest.mark.parametrize("particles", [1, 7])
def test_baseline_log_likelihood_is_the_bernoulli_sum_over_missing_pixels(particles):
    batch = completion()
    model = CompletionBaseline((1, 4, 3), baseline_hidden_dims=(6,))
    with torch.no_grad():
        seen = torch.where(batch["mask"], batch["y"], torch.tensor(-1.0))
        p = model.baseline(seen.flatten(1)).sigmoid().double()
    expected = torch.zeros(len(p), dtype=torch.float64)
    for n, c, i, j in (~batch["mask"]).nonzero().tolist():
        q = p[n, c, i, j]
        expected[n] += torch.log(q if batch["x"][n, c, i, j] == 1 else 1 - q)
    result = log_likelihood(model, EmptyGuide(), batch, num_particles=particles)
    torch.testing.assert_close(result.per_datum, expected, rtol=1e-5, atol=1e-6)
    assert result.num_particles == 1
    missing = (~batch["mask"]).sum().item() / len(p)
    assert result.num_dimensions == pytest.approx(missing)
    assert result.bits_per_dim == pytest.approx(-expected.mean().item() / missing / math.log(2), rel=1e-5)
    for objective in (ELBO(num_particles=particles), IWAE(num_particles=particles)):
        assert objective.loss(*as_programs(model, EmptyGuide()), **batch) == pytest.approx(
            -expected.mean().item(), rel=1e-5
        )
    assert elbo(model, EmptyGuide(), batch).mean == pytest.approx(expected.mean().item(), rel=1e-5)


def test_observed_pixels_do_not_enter_the_loss():
    """What x holds where it is observed has no gradient and no value: only y tells the networks of it."""
    batch = completion()
    model = CompletionVAE((1, 4, 3), 2, hidden_dims=(6,), prior_hidden_dims=(6,), baseline_hidden_dims=(6,))
    guide = CompletionGuide(model, hidden_dims=(6,))
    with torch.no_grad():
        model, guide = as_programs(model, guide)
        trace = pyro.poutine.trace(guide).get_trace(**batch)
        changed = {**batch, "x": torch.where(batch["mask"], 1 - batch["x"], batch["x"])}
        values = []
        for b in (batch, changed):
            site = pyro.poutine.trace(pyro.poutine.replay(model, trace=trace)).get_trace(**b).nodes["x"]
            values.append(site["fn"].log_prob(site["value"]))
    assert torch.equal(*values)


def test_completion_is_an_importance_weighted_bernoulli_sum():
    """log of the integral of p(x_missing | z, y) p(z | y) over z, by hand from the model's own networks."""
    batch = completion(n=3)
    model = CompletionVAE((1, 4, 3), 1, hidden_dims=(6,), prior_hidden_dims=(6,), baseline_hidden_dims=(6,))

    def guide(x):  # wider than the prior: bounded weights
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(1), 4.0).to_event(1))

    z = torch.linspace(-12, 12, 4001)  # the integral over the one latent, on a grid
    with torch.no_grad():
        seen = torch.where(batch["mask"], batch["y"], torch.tensor(-1.0))
        guess = model.baseline(seen.flatten(1))
        b = torch.where(batch["mask"], batch["y"], guess.sigmoid())
        prior = diagonal_normal(model.prior_network(torch.cat([seen, b], 1)))
        exact = []
        for n in range(3):
            logits = guess[n] + model.decoder(z[:, None])  # (grid, 1, 4, 3)
            terms = dist.Bernoulli(logits=logits).log_prob(batch["x"][n]) * ~batch["mask"][n]
            log_p = terms.sum((1, 2, 3)) + dist.Normal(prior.mean[n, 0], prior.variance[n, 0].sqrt()).log_prob(z)
            exact.append(log_p.logsumexp(0) + math.log(z[1] - z[0]))
    result = log_likelihood(model, guide, batch, num_particles=50_000)
    torch.testing.assert_close(result.per_datum.float(), torch.stack(exact), atol=0.02, rtol=0)


def test_completed_keeps_what_is_given():
    batch = completion()
    logits = torch.randn(9, 1, 4, 3)
    fn = completed(Bernoulli()(logits), batch["y"], batch["mask"])
    assert fn.batch_shape == (9,) and fn.event_shape == (1, 4, 3)
    for value in (fn.sample(), fn.mean, fn.base_dist.mode):
        assert torch.equal(value[batch["mask"]], batch["x"][batch["mask"]])
    assert torch.equal(fn.mean[~batch["mask"]], logits.sigmoid()[~batch["mask"]])
    wide = fn.expand((5, 9))
    assert isinstance(wide.base_dist, Completed) and torch.equal(wide.mean[3], fn.mean)
    assert torch.equal(wide.log_prob(batch["x"])[2], fn.log_prob(batch["x"]))
    assert counted_fraction(fn) == pytest.approx((~batch["mask"]).float().mean().item())
    assert fn.sample((4,)).shape == (4, 9, 1, 4, 3)


def test_bits_per_dim_of_unmasked_data_count_all():
    model = ConditionalVAE((1, 4, 3), OneHot(2), 2)
    batch = {"x": completion()["x"], "y": torch.arange(9) % 2}
    assert log_likelihood(model, ConditionalGuide(model), batch, num_particles=2).num_dimensions == 12


def test_a_condition_of_ones_own_is_trained_once():
    from pyro_vae.networks import Condition
    from pyro_vae.programs.context import label_context
    from pyro_vae.training.checkpoint import named_weights

    class Embedding(Condition):
        def __init__(self):
            super().__init__()
            self.dim, self.accepts = 4, label_context(3)
            self.table = nn.Embedding(3, 4)

        def forward(self, y):
            return self.table(y)

    model = ConditionalVAE((5,), Embedding(), 2, Gaussian())
    names = named_weights(model, ConditionalGuide(model))
    assert [n for n in names if "table" in n] == ["model.condition.table.weight"]
