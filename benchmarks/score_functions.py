"""Variance of score-function gradients of a sigmoid belief network: without baselines, with NVIL's, and with RELAX.

``python benchmarks/score_functions.py`` takes about a minute on one thread. ``--mnist5k`` takes longer: digits,
50 bits, trained with each.
"""

import argparse
import logging

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae
from pyro_vae import ELBO

KINDS = ("none", "nn_baseline", "nn_relax", "both")


class Network(nn.Module):
    """z ~ Bernoulli(0.3), x | z ~ Bernoulli; networks of x, or of x and the relaxed draw, as baselines."""

    def __init__(self, kind: str, size: int, bits: int, hidden: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.size, self.bits = kind, size, bits
        self.encoder, self.decoder = nn.Linear(size, bits), nn.Linear(bits, size)
        self.baselines = nn.ModuleDict()
        for name, inputs in (("nn_baseline", size), ("nn_relax", size + bits)):
            if kind in (name, "both"):
                layers = nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, 1), nn.Flatten(-2)
                self.baselines[name] = nn.Sequential(*layers)

    def model(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3 * torch.ones(self.bits)).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def control(self, relaxed, x):
        return self.baselines["nn_relax"](torch.cat([relaxed, x.expand(*relaxed.shape[:-1], self.size)], -1))

    def guide(self, x):
        x = x.flatten(1)
        hint = dict(self.baselines) | ({"nn_relax": self.control} if "nn_relax" in self.baselines else {})
        hint |= {"nn_baseline_input": x} if hint else {}
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(x)).to_event(1), infer={"baseline": hint})


def adam(pair, objective, x, steps, parameters, rate, late=None):
    optimizer = torch.optim.Adam(parameters, lr=rate)
    for step in range(steps):
        if late is not None and step == 2 * steps // 3:
            optimizer.param_groups[0]["lr"] = late
        rows = x if len(x) <= 100 else x[torch.randint(len(x), (100,))]
        optimizer.zero_grad()
        objective.differentiable_loss(pair.model, pair.guide, rows).backward()
        optimizer.step()


def variance(pair, objective, x, draws=400):
    """Total variance of the encoder's gradient."""
    torch.manual_seed(5)
    rows = []
    for _ in range(draws):
        loss = objective.differentiable_loss(pair.model, pair.guide, x)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(pair.encoder.parameters()))]))
    return torch.stack(rows).var(0).sum().item()


def toy():
    generator = torch.Generator().manual_seed(2)
    x = (torch.rand(60, 1, generator=generator) > torch.rand(60, 8, generator=generator)).float()
    trained = Network("none", 8, 4, 16)
    torch.manual_seed(1)
    adam(trained, ELBO(4), x, 1500, trained.parameters(), 0.02)
    print("60 data of 8 bits, 4 latent bits, pair held; total variance of the encoder's gradient")
    for particles in (1, 4):
        for kind in KINDS:
            pair, objective = Network(kind, 8, 4, 16), ELBO(particles)
            for name in ("encoder", "decoder"):
                getattr(pair, name).load_state_dict(getattr(trained, name).state_dict())
            torch.manual_seed(1)
            if kind != "none":
                adam(pair, objective, x, 3000, pair.baselines.parameters(), 0.02, 0.003)
            print(f"  {particles} particles, {kind:12} {variance(pair, objective, x):.4f}", flush=True)


def mnist5k():
    data = pyro_vae.load_data("mnist5k", binarization="static")
    train, test = (split.batch(slice(0, None))["x"].flatten(1) for split in (data.train, data.test))
    print("mnist5k, 50 latent bits, 6,000 steps of Adam, batch 100")
    for particles in (1, 4):
        for kind in KINDS:
            pair, objective = Network(kind, 784, 50, 100), ELBO(particles)
            torch.manual_seed(1)
            adam(pair, objective, train, 6000, pair.parameters(), 0.001)
            bound = -ELBO(20).loss(pair.model, pair.guide, test)
            total = variance(pair, objective, train[:100], 200)
            print(f"  {particles} particles, {kind:12} test ELBO {bound:.2f}, variance {total:.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist5k", action="store_true")
    logging.disable(logging.WARNING)
    mnist5k() if parser.parse_args().mnist5k else toy()
