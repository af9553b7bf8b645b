"""Pairs whose guides draw discrete latents, their exact losses by enumeration, and means of gradients against those."""

import itertools
import logging
import math

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn

from pyro_vae import fit

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


def check_recorded_is_eager(make, data, objective, caplog):
    """Training by recorded steps gives the losses and weights of eager ones, and moves every weight.

    Args:
        make: gives the pair, a module with the methods model and guide, with the same weights each time.
        data: 60 of them.
        objective: of the training.
        caplog: pytest's.
    """
    states, losses = [], []
    for mode in ("graph", "off"):
        pair = make()
        how = {"epochs": 4, "batch_size": 25, "compile": mode, "progress": False}
        with caplog.at_level(logging.INFO, "pyro_vae.training.compiled"):
            result = fit(pair.model, pair.guide, data, objective=objective, **how)
        states.append(pair.state_dict())
        losses.append(torch.tensor([r["train/loss"] for r in result.records]))
    told = [r.getMessage() for r in caplog.records if r.name == "pyro_vae.training.compiled"]
    assert len(told) == 2 and all("training step recorded for" in line for line in told), told
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)
    start = make().state_dict()
    assert all(not torch.equal(value, start[name]) for name, value in states[0].items())
