"""Score-function gradients against enumeration and Pyro; baselines: their variance, training, files and resuming."""

import itertools
import logging
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE, fit, penalty
from pyro_vae.errors import InputError
from pyro_vae.objectives import Objective, Terms

Z = 4.5  # standard errors; some 200 numbers are compared


class Coins(nn.Module):
    """a ~ Bernoulli, b | a ~ Bernoulli, x | a, b ~ Normal; the guide draws b first, then a."""

    def __init__(self, *, guide_order=("b", "a"), baseline=None, kl_of_b=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.q = nn.ModuleDict({"a": nn.Linear(3, 1), "b": nn.Linear(3, 1)})
        self.prior, self.mean = nn.Linear(1, 1), nn.Linear(2, 2)
        self.order, self.hint, self.kl_of_b = guide_order, baseline, kl_of_b
        self.double()

    def model(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
            with poutine.scale(scale=self.kl_of_b):
                b = pyro.sample("b", dist.Bernoulli(logits=self.prior(a[..., None])[..., 0]))
            mean = self.mean(torch.stack(torch.broadcast_tensors(a, b), -1))
            return pyro.sample("x", dist.Normal(mean, 0.7).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            first = torch.zeros(len(x), dtype=torch.float64)
            for name in self.order:
                seen = torch.cat([x.expand(*first.shape, 2), first[..., None]], -1)
                infer = {} if self.hint is None else {"baseline": self.hint(x)}
                with poutine.scale(scale=self.kl_of_b if name == "b" else 1.0):
                    first = pyro.sample(name, dist.Bernoulli(logits=self.q[name](seen)[..., 0]), infer=infer)

    def table(self, x):
        """log p(x, a, b) and log q(a, b | x), in their parts, of all (a, b): ``(4, N)`` each, by name."""
        parts = {}
        for name in ("log p(a)", "log p(b)", "log p(x)", "log q(a)", "log q(b)"):
            parts[name] = []
        for a, b in itertools.product((0.0, 1.0), repeat=2):
            values = {name: torch.full((len(x),), v, dtype=torch.float64) for name, v in (("a", a), ("b", b))}
            trace = poutine.trace(poutine.condition(self.guide, data=values)).get_trace(x)
            held = poutine.trace(poutine.condition(self.model, data=values)).get_trace(x)
            for name in ("a", "b"):
                q, p = trace.nodes[name], held.nodes[name]
                parts[f"log q({name})"].append(q["fn"].log_prob(values[name]).expand(len(x)))
                parts[f"log p({name})"].append(p["fn"].log_prob(values[name]).expand(len(x)))
            parts["log p(x)"].append(held.nodes["x"]["fn"].log_prob(x))
        return {name: torch.stack(values) for name, values in parts.items()}

    def exact_loss(self, x, free_bits=0.0):
        """-ELBO by enumeration, with weights and free bits, nats per datum."""
        t = self.table(x)
        q = (t["log q(a)"] + t["log q(b)"]).exp()
        kl = {n: (q * (t[f"log q({n})"] - t[f"log p({n})"])).sum(0).mean() for n in ("a", "b")}
        loss = -(q * t["log p(x)"]).sum(0).mean()
        for name, weight in (("a", 1.0), ("b", self.kl_of_b)):
            loss = loss + weight * kl[name].clamp(min=free_bits)
        return loss

    def exact_iwae(self, x, k):
        """-E log (1/K) sum w by enumeration of all K-tuples."""
        t = self.table(x)
        log_q = t["log q(a)"] + t["log q(b)"]
        log_w = t["log p(a)"] + t["log p(b)"] + t["log p(x)"] - log_q
        loss = 0.0
        for draws in itertools.product(range(4), repeat=k):
            rows = list(draws)
            bound = log_w[rows].logsumexp(0) - math.log(k)
            loss = loss - (log_q[rows].sum(0).exp() * bound).mean()
        return loss


@pytest.fixture
def x():
    return torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def flat(parameters, gradients):
    parts = zip(parameters, gradients, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in parts])


def gradients(pair, objective, x, *, copies=4000, times=20):
    """Independent estimates of the gradient, each of ``copies`` draws at once: ``(times, number of parameters)``."""
    torch.manual_seed(7)
    found = []
    parameters = [p for p in pair.parameters() if p.requires_grad]
    for _ in range(times):
        loss = objective.differentiable_loss(pair.model, pair.guide, x.repeat(copies, 1))
        parts = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.append(flat(parameters, parts))
    return torch.stack(found)


def check_unbiased(found, pair, exact, largest):
    """The mean of estimates is the exact gradient, to Z standard errors, which are small enough to see something."""
    parameters = [p for p in pair.parameters() if p.requires_grad]
    exact = torch.autograd.grad(exact, parameters, allow_unused=True)
    exact = flat(parameters, exact)
    error = found.std(0) / math.sqrt(len(found))
    assert error.max() < largest, f"standard errors up to {error.max():.4f}: the test would see nothing"
    z = (found.mean(0) - exact).abs() / error.clamp(min=1e-9)
    assert z.max() < Z, f"off by {z.max():.1f} standard errors"


def constant(x):
    return {"baseline_value": torch.full((len(x),), -3.0, dtype=torch.float64)}


def average(x):
    return {"use_decaying_avg_baseline": True, "baseline_beta": 0.5}


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


class Sigmoid(nn.Module):
    """A sigmoid belief network of one layer, with a baseline network."""

    def __init__(self, *, baseline=True, use_average=False):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(8, 4), nn.Linear(4, 8)
        self.baseline = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 1), nn.Flatten(0)) if baseline else None
        self.use_average = use_average

    def model(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3 * torch.ones(4)).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        hint = {} if self.baseline is None else {"nn_baseline": self.baseline, "nn_baseline_input": x}
        hint |= {"use_decaying_avg_baseline": True, "baseline_beta": 0.8} if self.use_average else {}
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(x)).to_event(1), infer={"baseline": hint})


@pytest.fixture
def binary():
    generator = torch.Generator().manual_seed(2)
    return (torch.rand(60, 1, generator=generator) * torch.ones(8) > torch.rand(60, 8, generator=generator)).float()


def test_a_baseline_network_is_used_and_fitted_as_pyro_does(binary):
    pair, found = Sigmoid(), []
    for objective in (ELBO(1, analytic_kl=False), TraceGraph_ELBO()):
        torch.manual_seed(3)
        pair.zero_grad()
        if isinstance(objective, ELBO):
            objective.differentiable_loss(pair.model, pair.guide, binary).backward()
        else:
            pyro.clear_param_store()
            objective.loss_and_grads(pair.model, pair.guide, binary)
        scale = 1 if isinstance(objective, ELBO) else len(binary)
        found.append([p.grad / scale for p in pair.parameters()])
    assert all(g.abs().max() > 0 for g in found[0])
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


# --------------------------------------------------------------------------- signals and variance
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


@pytest.mark.parametrize("better", ["average", "network", "particles", "importance"])
def test_baselines_and_further_particles_lower_the_variance(binary, better):
    """The total variance of the encoder's gradient, at equal numbers of draws, against none of them."""

    def spread(pair, objective, draws):
        batch = binary.repeat(draws, 1)
        torch.manual_seed(5)
        rows = []
        for _ in range(150):
            loss = objective.differentiable_loss(pair.model, pair.guide, batch)
            parts = torch.autograd.grad(loss, list(pair.encoder.parameters()))
            rows.append(torch.cat([g.flatten() for g in parts]))
        return torch.stack(rows[50:]).var(0).sum().item()

    plain = Sigmoid(baseline=False)
    if better == "importance":  # against the same bound with the score of the whole of it

        class Whole(IWAE):
            def pair_terms(self, pair):
                terms = super().pair_terms(pair)
                terms.signals = {"z": -terms.loss.detach().expand(5, len(binary))}
                return terms

        assert spread(plain, IWAE(5), 1) < 0.5 * spread(plain, Whole(5), 1)
        return
    pair = Sigmoid(baseline=better == "network", use_average=better == "average")
    objective = ELBO(4) if better == "particles" else ELBO(1)
    if better == "network":
        optimizer = torch.optim.Adam(pair.baseline.parameters(), lr=0.03)
        for _ in range(200):
            optimizer.zero_grad()
            objective.differentiable_loss(pair.model, pair.guide, binary).backward()
            optimizer.step()
    assert spread(pair, objective, 1) < 0.5 * spread(plain, ELBO(1), 4 if better == "particles" else 1)


# --------------------------------------------------------------------------- training
@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), IWAE(3)], ids=["elbo", "particles", "iwae"])
def test_steps_are_recorded_and_give_what_eager_ones_give(binary, objective, caplog):
    states, losses = [], []
    for mode in ("graph", "off"):
        pair = Sigmoid(use_average=True)
        with caplog.at_level(logging.INFO, "pyro_vae.training.compiled"):
            result = fit(
                pair.model,
                pair.guide,
                binary,
                objective=objective,
                epochs=4,
                batch_size=25,
                compile=mode,
                progress=False,
            )
        states.append(pair.state_dict())
        losses.append(torch.tensor([r["train/loss"] for r in result.records]))
    told = [r.getMessage() for r in caplog.records if r.name == "pyro_vae.training.compiled"]
    assert len(told) == 2 and all("training step recorded for" in line for line in told), told
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)
    start = Sigmoid().state_dict()
    assert all(not torch.equal(value, start[name]) for name, value in states[0].items())


def test_baselines_behind_an_object_are_trained_saved_and_resumed_bit_for_bit(binary, tmp_path):
    def trained(out, *epochs):
        class Bag:  # no module
            pass

        bag, networks = Bag(), Sigmoid(use_average=True)
        bag.baseline, networks.baseline = networks.baseline, None
        encoder, model = networks.encoder, networks.model

        def guide(x):
            hint = {"nn_baseline": bag.baseline, "nn_baseline_input": x, "use_decaying_avg_baseline": True}
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Bernoulli(logits=encoder(x)).to_event(1), infer={"baseline": hint})

        for i, until in enumerate(epochs):
            options = {"epochs": until, "batch_size": 25, "out": tmp_path / out, "resume": i > 0, "progress": False}
            result = fit(model, guide, binary, learning_rate=0.01, **options)
        return result, bag

    whole, bag = trained("whole", 4)
    parts, other = trained("parts", 2, 4)
    for ours, theirs in zip(bag.baseline.parameters(), other.baseline.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(bag.baseline[0].weight, Sigmoid().baseline[0].weight)
    assert [r["train/loss"] for r in whole.records] == [r["train/loss"] for r in parts.records]
    states = [torch.load(tmp_path / out / "checkpoints/last.pt", weights_only=True) for out in ("whole", "parts")]
    assert states[0]["averages"]["z"].item() < -1
    assert torch.equal(states[0]["averages"]["z"], states[1]["averages"]["z"])
    assert any("bag" in name or "baseline" in name for name in states[0]["weights"])


def test_a_decaying_average_is_pyros(binary):
    pair, objective = Sigmoid(baseline=False, use_average=True), ELBO()
    expected = 0.0
    for i in range(3):
        torch.manual_seed(i)
        signal = objective._traces(pair.model, pair.guide, (binary,), {})
        mean = objective.pair_terms(signal).signals["z"].mean().item()
        torch.manual_seed(i)
        objective.differentiable_loss(pair.model, pair.guide, binary)
        expected = 0.8 * expected + 0.2 * mean
        assert objective.averages.of("z").item() == pytest.approx(expected, rel=1e-5)


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
