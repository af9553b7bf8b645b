"""One training step of recipe ``aae``, batch 100: ours, and three updates written by hand.

By hand: reconstruction (encoder, decoder), discriminator (draws of the prior against codes), generator (encoder), each
with its own forward and backward pass and Adam, as adversarial autoencoders are written; eager, and with the three
losses compiled and fused Adam. Ours takes all gradients at
one draw of the codes. Ratios refer to the faster of the two by hand.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import common
import pyro
import torch
from step import RATE, Run, ours, times
from step_cases import SHAPE, Case
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE
from pyro_vae.objectives import GAN, Matching

HIDDEN, LATENT, NOISE, WEIGHT = 1000, 8, 0.3, 10.0


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths[:-1]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


class Hand(nn.Module):
    """The three networks."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(784, HIDDEN, HIDDEN, 2 * LATENT)
        self.decoder = mlp(LATENT, HIDDEN, HIDDEN, 784)
        self.discriminator = mlp(LATENT, HIDDEN, HIDDEN, 1)

    def code(self, x: Tensor) -> Tensor:
        loc, raw = self.encoder(x).chunk(2, -1)
        return loc + (softplus(raw + 0.5413) + 1e-4) * torch.randn_like(loc)

    def judged(self, z: Tensor) -> Tensor:
        return self.discriminator(z + NOISE * torch.randn_like(z))

    def reconstruction(self, x: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(self.decoder(self.code(x)), x, reduction="sum") / len(x)

    def discriminators(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            z = self.code(x)
        return softplus(-self.judged(torch.randn_like(z))).mean() + softplus(self.judged(z)).mean()

    def generator(self, x: Tensor) -> Tensor:
        return WEIGHT * softplus(-self.judged(self.code(x))).mean()


def three_updates(x: Tensor, compiled: bool) -> Run:
    net = Hand().to(x.device)
    of = {
        "reconstruction": [*net.encoder.parameters(), *net.decoder.parameters()],
        "discriminators": list(net.discriminator.parameters()),
        "generator": list(net.encoder.parameters()),
    }
    optimizers = {name: torch.optim.Adam(weights, lr=RATE, fused=compiled) for name, weights in of.items()}
    losses = {name: torch.compile(getattr(net, name)) if compiled else getattr(net, name) for name in of}

    def step() -> None:
        for name, optimizer in optimizers.items():
            net.zero_grad()
            losses[name](x).backward()
            optimizer.step()

    return step


def case() -> Case:
    """Recipe ``aae``."""
    model = VAE(SHAPE, LATENT, hidden_dims=(HIDDEN, HIDDEN), activation="relu")
    guide = GaussianGuide(model, hidden_dims=(HIDDEN, HIDDEN), activation="relu")
    objective = Matching(GAN((HIDDEN, HIDDEN), noise=NOISE, learning_rate=RATE), weight=WEIGHT)
    return Case(model, guide, objective, None, nn.Module())  # type: ignore[arg-type]


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--cpu-time", action="store_true", help="time of the process, for busy machines (one thread)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x = (torch.rand(100, *SHAPE, device=options.device) < 0.3).float()
    flat = x.flatten(1)
    by_hand = {
        "three updates by hand": three_updates(flat, False),
        "three updates by hand, losses compiled": three_updates(flat, True),
    }
    variants: dict[str, Any] = dict(by_hand)
    for mode, label in (("off", "ours, eager"), ("graph", "ours, recorded"), ("full", "ours, compiled")):
        variants[label] = ours(case(), x, mode)
    count = 2 if options.quick else 10
    variants = {label: times(run, count) for label, run in variants.items()}
    clock = time.process_time if options.cpu_time else time.perf_counter
    rounds = 5 if options.quick else 15
    rows = common.interleaved("aae", variants, None, rounds, options.device, fastest_of=list(by_hand), clock=clock)
    for row in rows:
        row["median_ms"] = round(row["median_ms"] / count, 4)
    pyro.clear_param_store()
    common.report(rows, options)


if __name__ == "__main__":
    main()
