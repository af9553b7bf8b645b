"""Score-function gradients against enumeration and Pyro, what each site learns from, and what is refused."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from discrete_pairs import Coins, average, check_unbiased, constant, gradients
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE, penalty
from pyro_vae.errors import InputError
from pyro_vae.objectives import Objective, Terms


# --------------------------------------------------------------------------- unbiased
@pytest.mark.parametrize("guide_order", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("analytic", [True, False])
@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("baseline", [None, constant, average])
def test_the_gradient_is_that_of_enumeration(x, guide_order, analytic, num_particles, baseline):
    pair = Coins(guide_order=guide_order, baseline=baseline)
    found = gradients(pair, ELBO(num_particles, analytic_kl=analytic), x)
    check_unbiased(found, pair, pair.exact_loss(x), 0.004)


@pytest.mark.parametrize("num_particles", [1, 2, 3])
@pytest.mark.parametrize("baseline", [None, constant])
def test_the_gradient_of_the_importance_weighted_bound_is_that_of_enumeration(x, num_particles, baseline):
    pair = Coins(baseline=baseline)
    check_unbiased(gradients(pair, IWAE(num_particles), x), pair, pair.exact_iwae(x, num_particles), 0.008)


@pytest.mark.parametrize("free_bits", [0.0, 0.3])
def test_weights_of_kls_and_free_bits_are_kept(x, free_bits):
    """With 0.3 nats the KL of one site is below its free bits, that of the other above."""
    pair = Coins(kl_of_b=0.4)
    with torch.no_grad():
        pair.q["a"].bias += 2.0
    t = pair.table(x)
    q = (t["log q(a)"] + t["log q(b)"]).exp()
    kl = {n: (q * (t[f"log q({n})"] - t[f"log p({n})"])).sum(0).mean().item() for n in ("a", "b")}
    assert kl["b"] < 0.25 and kl["a"] > 0.35, kl
    found = gradients(pair, ELBO(2, free_bits=free_bits), x)
    check_unbiased(found, pair, pair.exact_loss(x, free_bits), 0.004)
    terms = ELBO(1000, free_bits=free_bits).terms(pair.model, pair.guide, x)
    for name, value in kl.items():
        assert terms.kl[name].item() == pytest.approx(value, abs=0.05)


def test_free_bits_of_each_datum_with_what_is_drawn(x):
    """A KL in closed form that depends on no draw has the gradient of enumeration; of others the maximum has none."""
    pair = Coins(guide_order=("a", "b"), kl_of_b=0.4)
    t = pair.table(x)
    q = (t["log q(a)"] + t["log q(b)"]).exp()
    of_data = (q * (t["log q(a)"] - t["log p(a)"])).sum(0)
    free = of_data.median().item() + 1e-4
    exact = pair.exact_loss(x) - of_data.mean() + of_data.clamp(min=free).mean()
    objective = ELBO(2, free_bits={"a": free}, free_bits_of="datum")
    check_unbiased(gradients(pair, objective, x), pair, exact, 0.004)
    words = "free bits of site '{}': its KL of a datum depends on what the guide draws at '{}'"
    for name, of, how in (("b", "a", {}), ("a", "a", {"analytic_kl": False})):
        objective = ELBO(free_bits={name: free}, free_bits_of="datum", **how)
        with pytest.raises(InputError, match=words.format(name, of)):
            objective.differentiable_loss(pair.model, pair.guide, x)


def test_a_real_latent_beside_a_discrete_one(x):
    """c ~ Bernoulli, z | c ~ Normal reparameterized: the ELBO is known in closed form for each c."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.c, self.z = nn.Linear(2, 1), nn.Linear(3, 1)
            self.log_scale = nn.Parameter(torch.tensor(-0.3))
            self.slope = nn.Parameter(torch.tensor([0.5, -1.0]))
            self.double()

        def model(self, x=None, num_samples=1):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
                z = pyro.sample("z", dist.Normal(2 * c - 1, 1.0))
                pyro.sample("x", dist.Normal(z[..., None] * self.slope, 1.0).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Bernoulli(logits=self.c(x)[..., 0]))
                pyro.sample("z", dist.Normal(self.loc(x, c), self.log_scale.exp()))

        def loc(self, x, c):
            return self.z(torch.cat([x.expand(*c.shape, 2), c[..., None]], -1))[..., 0]

        def exact_loss(self, x):
            loss, log_q = 0.0, self.c(x)[..., 0]
            scale = self.log_scale.exp()
            for value in (0.0, 1.0):
                c = torch.full((len(x),), value, dtype=torch.float64)
                loc = self.loc(x, c)
                q = dist.Bernoulli(logits=log_q).log_prob(c)
                p = dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)).log_prob(c)
                kl = torch.distributions.kl_divergence(dist.Normal(loc, scale), dist.Normal(2 * c - 1, 1.0))
                residual = (x - loc[:, None] * self.slope).square().sum(-1) + scale**2 * self.slope.square().sum()
                likelihood = -0.5 * residual - math.log(2 * math.pi)
                loss = loss + (q.exp() * (q - p + kl - likelihood)).mean()
            return loss

    pair = Mixed()
    check_unbiased(gradients(pair, ELBO(2), x), pair, pair.exact_loss(x), 0.006)


@pytest.mark.parametrize("in_plate", [True, False])
def test_a_discrete_latent_shared_by_all_data_under_minibatches(x, in_plate):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.odds = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))

        def model(self, x=None, num_samples=1):
            g = pyro.sample("g", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(g[..., None] * torch.ones(2), 2.0).to_event(1), obs=x)

        def guide(self, x):
            pyro.sample("g", dist.Bernoulli(logits=self.odds), infer={"baseline": average(x)})

        def exact_loss(self, x, num_data):
            q, p = self.odds.sigmoid(), torch.tensor(0.3)
            kl = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
            of = [dist.Normal(torch.full((2,), v), 2.0).to_event(1).log_prob(x).mean() for v in (0.0, 1.0)]
            return kl / num_data - (1 - q) * of[0] - q * of[1]

    pair, num_data = Shared(), 50
    model, guide = pyro_vae.programs.program.as_programs(pair.model, pair.guide)
    examined = pyro_vae.programs.pair.examine(model, guide, {"x": x}, num_data=num_data, vectorize=in_plate)
    assert examined.repeated is not in_plate
    objective = ELBO(2000 if in_plate else 2).on(examined)  # repeated data have one draw of it together
    torch.manual_seed(0)
    found = []
    for _ in range(30 if in_plate else 3000):
        found.append(torch.autograd.grad(objective.terms(model, guide, x=x).loss, pair.odds)[0].reshape(1))
    check_unbiased(torch.stack(found), pair, pair.exact_loss(x, num_data), 0.01)


def test_sites_of_an_inner_plate_beside_one_that_is_summed(x):
    """b of each of two numbers is drawn; c is summed over."""

    class Plates(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.q, self.means = nn.Linear(2, 2), nn.Parameter(torch.tensor([-0.5, 1.0]))
            self.double()

        def model(self, x=None, num_samples=1):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
                with pyro.plate("numbers", 2, dim=-2):
                    b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.6, dtype=torch.float64)))
                    pyro.sample("x", dist.Normal(self.means[b.long()] + c, 1.0), obs=x.T)

        def guide(self, x):
            with pyro.plate("data", len(x)), pyro.plate("numbers", 2, dim=-2):
                pyro.sample("b", dist.Bernoulli(logits=self.q(x).mT))

        def exact_loss(self, x):
            loss = 0.0
            for values in itertools.product((0, 1), repeat=2):
                b = torch.tensor(values, dtype=torch.float64).expand(len(x), 2)
                q = dist.Bernoulli(logits=self.q(x)).log_prob(b).sum(-1)
                p = dist.Bernoulli(torch.tensor(0.6, dtype=torch.float64)).log_prob(b).sum(-1)
                of_c = [
                    math.log(w) + dist.Normal(self.means[b.long()] + c, 1.0).log_prob(x).sum(-1)
                    for c, w in ((0.0, 0.7), (1.0, 0.3))
                ]
                loss = loss + (q.exp() * (q - p - torch.stack(of_c).logsumexp(0))).mean()
            return loss

    pair = Plates()
    check_unbiased(gradients(pair, ELBO(2), x), pair, pair.exact_loss(x), 0.004)


def test_penalties_of_what_is_drawn_are_learned_from(x):
    class Penalized(Coins):
        def guide(self, x):
            super().guide(x)

        def model(self, x=None, num_samples=1):
            return super().model(x, num_samples)

    pair = Penalized()
    plain = pair.guide

    def guide(x):
        trace = poutine.trace(plain).get_trace(x)
        with pyro.plate("more", len(x)):
            penalty("size", 2.0 * trace.nodes["a"]["value"])

    pair.guide = guide
    t = pair.table(x)
    q = (t["log q(a)"] + t["log q(b)"]).exp()
    exact = pair.exact_loss(x) + 2.0 * (q[2] + q[3]).mean()
    check_unbiased(gradients(pair, ELBO(2), x), pair, exact, 0.006)


# --------------------------------------------------------------------------- against Pyro
def test_one_particle_without_a_baseline_is_pyros_estimator(x):
    pair = Coins(guide_order=("a", "b"))
    pair.guide = poutine.block(pair.guide, hide=["b"])
    pair.model = poutine.condition(pair.model, data={"b": torch.ones(3, dtype=torch.float64)})
    found = []
    for objective in (ELBO(1, analytic_kl=False), Trace_ELBO()):
        torch.manual_seed(3)
        loss = objective.differentiable_loss(pair.model, pair.guide, x)
        loss = loss if isinstance(objective, ELBO) else loss / len(x)
        grads = torch.autograd.grad(loss, list(pair.parameters()), allow_unused=True)
        found.append([loss.detach(), *(torch.zeros(()) if g is None else g for g in grads)])
    torch.testing.assert_close(*found, atol=1e-10, rtol=1e-8)


# --------------------------------------------------------------------------- signals
def test_a_site_learns_from_what_comes_after_it(x):
    pair = Coins(guide_order=("a", "b"))
    objective = ELBO(1, analytic_kl=False)
    torch.manual_seed(0)
    traces = objective._traces(pair.model, pair.guide, (x,), {})
    signals = objective.pair_terms(traces).signals

    def log(trace, name):
        return trace.nodes[name]["fn"].log_prob(trace.nodes[name]["value"])

    of_b = log(traces.model, "b") - log(traces.guide, "b") + log(traces.model, "x")
    torch.testing.assert_close(signals["b"], of_b.detach()[None])
    of_a = of_b + log(traces.model, "a") - log(traces.guide, "a")
    torch.testing.assert_close(signals["a"], of_a.detach()[None])
    closed = ELBO(1).pair_terms(traces).signals  # the KL of b given a depends on a, not on b
    torch.testing.assert_close(closed["b"], log(traces.model, "x").detach()[None])


# --------------------------------------------------------------------------- refusals
def test_an_objective_without_signals_refuses_a_discrete_guide(x):
    class Squared(Objective):
        def pair_terms(self, pair):
            x = pair.model.nodes["x"]
            return Terms((x["value"] - x["fn"].mean).square().sum(-1).mean())

    pair = Coins()
    with pytest.raises(InputError, match="Squared does not say what guide site b, a has an influence on"):
        Squared().differentiable_loss(pair.model, pair.guide, x)


def test_a_draw_for_every_value_of_a_sum_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.5)))
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    odds = torch.zeros((), requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=odds.expand(len(x))), infer={"enumerate": "parallel"})
            pyro.sample("b", dist.Bernoulli(logits=odds * a))

    with pytest.raises(InputError, match="guide site 'b' is drawn anew for every value of a, which the guide enum"):
        ELBO().differentiable_loss(model, guide, torch.zeros(3))


def test_a_shared_latent_after_the_data_s_is_refused(x):
    def model(x):
        g = pyro.sample("g", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal((g + c)[..., None].expand(len(x), 2), 1.0).to_event(1), obs=x)

    odds = torch.zeros((), requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(logits=odds.expand(len(x))))
        pyro.sample("g", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match="the guide draws 'c' of each datum before 'g', which all data share"):
        ELBO().differentiable_loss(model, guide, x)
