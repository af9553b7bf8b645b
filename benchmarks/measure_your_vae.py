"""VAEs that were trained without this package, measured by it, by hand, and by pythae's own ``get_nll``.

A hand-written PyTorch VAE and pythae's VAE, IWAE and BetaVAE are trained on mnist5k for seconds each; the latter are
saved by pythae, and read back by ``adapters.from_pythae``. log p(x) of the first test data by K importance samples is

- measured: ``pyro_vae.log_likelihood`` of the adapted pair;
- by hand: the same estimate written out in plain torch, in float64, from the networks, with draws of its own;
- get_nll: pythae's, of the same model (which is log p(x), not its negative, in spite of its name).

Both of the first are repeated with draws of their own, and ``error`` is the standard error of the mean difference over
the repetitions: estimates of one kind and one K have one expectation, whatever k-hat is. What does not depend on draws
stands beside it: the largest difference of the log-weights at the same z.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import common
import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

import pyro_vae
from pyro_vae.adapters import from_modules, from_pythae
from pyro_vae.likelihoods import Bernoulli

LATENT = 20
Networks = tuple[Callable[[Tensor], tuple[Tensor, Tensor]], Callable[[Tensor], Tensor]]


class PlainVAE(nn.Module):
    """A VAE as it is written everywhere: no Pyro, nothing of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Dropout(0.1))
        self.mean, self.log_variance = nn.Linear(300, LATENT), nn.Linear(300, LATENT)
        self.decoder = nn.Sequential(nn.Linear(LATENT, 300), nn.ReLU(), nn.Linear(300, 784))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x)
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z).view(-1, 1, 28, 28)

    def loss(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encode(x)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        cross_entropy = binary_cross_entropy_with_logits(self.decode(z), x, reduction="sum")
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
        return (cross_entropy + kl) / len(x)


def trained(module: nn.Module, loss: Callable[[Tensor], Tensor], x: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    module.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            loss(x[rows]).backward()
            optimizer.step()
    module.eval()


def log_density(given: Tensor, pixels: Tensor, deviation: float | None) -> Tensor:
    """log p(x | z), ``(..., D)`` to ``(...)``: Bernoulli of logits, or Gaussian of means."""
    if deviation is None:
        return (pixels * logsigmoid(given) + (1 - pixels) * logsigmoid(-given)).sum(-1)
    constant = math.log(deviation) + 0.5 * math.log(2 * math.pi)
    return (-0.5 * ((pixels - given) / deviation).square() - constant).sum(-1)


@torch.no_grad()
def by_hand(networks: Networks, x: Tensor, num_particles: int, deviation: float | None) -> float:
    """Mean log p(x) in float64; Bernoulli of logits, or Gaussian of means."""
    encode, decode = networks
    bounds = []
    for one in x.double().split(1):
        mean, log_variance = encode(one)  # (1, d)
        noise = torch.randn(num_particles, mean.shape[1], dtype=torch.float64)
        z = mean + noise * (0.5 * log_variance).exp()
        log_w = (
            -0.5 * z.square().sum(1) + 0.5 * noise.square().sum(1) + 0.5 * log_variance.sum(1)
        )  # log p(z) - log q(z)
        log_w += log_density(decode(z).flatten(1), one.flatten(1), deviation)
        bounds.append(log_w.logsumexp(0) - math.log(num_particles))
    return torch.stack(bounds).mean().item()


@torch.no_grad()
def same_draws(pair: Any, networks: Networks, x: Tensor, deviation: float | None) -> float:
    """The largest difference of log p(x, z) - log q(z | x), the programs' against by hand, at the same z."""
    model, guide = pair
    with pyro.plate("particles", 50, dim=-2):
        of_guide = poutine.trace(guide).get_trace(x)
        of_model = poutine.trace(poutine.replay(model, trace=of_guide)).get_trace(x)
    of_guide.compute_log_prob()
    of_model.compute_log_prob()
    ours = sum(of_model.nodes[name]["log_prob"] for name in ("z", "x")) - of_guide.nodes["z"]["log_prob"]
    z = of_guide.nodes["z"]["value"].double()  # (50, N, d)
    (mean, log_variance), decode = networks[0](x.double()), networks[1]
    log_w = 0.5 * ((z - mean).square() / log_variance.exp() + log_variance - z.square()).sum(-1)
    log_w += log_density(decode(z.flatten(0, 1)).reshape(*z.shape[:2], -1), x.double().flatten(1), deviation)
    return (ours - log_w).abs().max().item()


def of_pythae(model: Any, logits: bool) -> Networks:
    """pythae's own networks in float64; of Bernoulli logits, without the last sigmoid."""
    encoder, decoder = model.encoder.double(), model.decoder.double()
    if logits:
        decoder.layers[-1] = decoder.layers[-1][:-1]

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        found = encoder(x)
        return found["embedding"], found["log_covariance"]

    return encode, lambda z: decoder(z)["reconstruction"]


def pythae_kinds(loss: str) -> dict[str, Callable[[], Any]]:
    """pythae's models that are read, by name; none where it is not installed."""
    try:
        from pythae.models import IWAE, VAE, BetaVAE, BetaVAEConfig, IWAEConfig, VAEConfig
    except ImportError:
        return {}
    sizes = {"input_dim": (1, 28, 28), "latent_dim": LATENT, "reconstruction_loss": loss}
    kinds: dict[str, Callable[[], Any]] = {f"pythae VAE, {loss}": lambda: VAE(VAEConfig(**sizes))}
    if loss == "bce":
        kinds["pythae IWAE, bce"] = lambda: IWAE(IWAEConfig(**sizes, number_samples=5))
        kinds["pythae BetaVAE of 4, bce"] = lambda: BetaVAE(BetaVAEConfig(**sizes, beta=4.0))
    return kinds


def compared(
    name: str, pair: Any, networks: Networks, x: Tensor, options: Any, deviation: float | None, nll: Any
) -> Any:
    began, repeats = time.perf_counter(), range(options.repeats)
    found = [
        pyro_vae.log_likelihood(*pair, x, num_particles=options.particles, progress=False, seed=seed)
        for seed in repeats
    ]
    seconds, ours = (time.perf_counter() - began) / options.repeats, found[0]
    measured = torch.tensor([one.mean for one in found], dtype=torch.float64)
    theirs = torch.tensor([by_hand(networks, x, options.particles, deviation) for _ in repeats], dtype=torch.float64)
    differences = measured - theirs
    print(f"{name}: measured", file=sys.stderr)
    return {
        "name": name,
        "measured": measured.mean().item(),
        "standard_error": ours.standard_error,
        "bits_per_dim": ours.bits_per_dim,
        "by_hand": theirs.mean().item(),
        "difference": differences.mean().item(),
        "error": differences.std().item() / options.repeats**0.5,
        "same_draws": same_draws(pair, networks, x, deviation),
        "get_nll": nll,
        "k_hat_above_0.7": (ours.pareto_k > 0.7).double().mean().item(),
        "seconds": seconds,
    }


def rows(options: Any) -> list[dict[str, Any]]:
    binary = pyro_vae.load_data("mnist5k", binarization="static")
    grey = pyro_vae.load_data("mnist5k")
    found = []
    torch.manual_seed(0)
    x, test = _tensor(binary.train), _tensor(binary.test)[: options.data]
    plain = PlainVAE()
    trained(plain, plain.loss, x, options.epochs)
    plain.train()  # as one may have left it: dropout must not count
    pair = from_modules(plain.encode, plain.decode, test, likelihood=Bernoulli())
    double = PlainVAE().double().eval()
    double.load_state_dict(plain.state_dict())
    found.append(compared("hand-written VAE", pair, (double.encode, double.decode), test, options, None, None))
    for loss, data in (("bce", binary), ("mse", grey)):
        x, test = _tensor(data.train), _tensor(data.test)[: options.data]
        for name, make in pythae_kinds(loss).items():
            model = make()
            trained(model, lambda rows, model=model: model({"data": rows}).loss, x, options.epochs)
            with torch.no_grad():
                nll = float(model.get_nll(test, n_samples=options.particles, batch_size=1000))
            with tempfile.TemporaryDirectory() as folder:
                model.save(folder)
                pair = from_pythae(folder, test)
            networks = of_pythae(model, logits=loss == "bce")
            found.append(compared(name, pair, networks, test, options, None if loss == "bce" else 1.0, nll))
    return found


def _tensor(split: Any) -> Tensor:
    return split.batch(slice(0, len(split)))["x"]


def main() -> None:
    parser = common.arguments(__doc__)
    options = parser.parse_args()
    options.data, options.particles, options.epochs = (20, 1000, 3) if options.quick else (50, 2000, 15)
    options.repeats = 4 if options.quick else 20
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    logging.getLogger("pythae").setLevel(logging.ERROR)
    found = rows(options)
    if options.json:
        print(json.dumps({**common.environment("cpu"), **vars(options), "rows": found}))
        return
    print(
        f"log p(x), nats, of {options.data} test data by K = {options.particles}, {options.repeats} times; "
        f"{options.epochs} epochs of training"
    )
    for row in found:
        nll = "" if row["get_nll"] is None else f"  get_nll {row['get_nll']:9.3f}"
        print(
            f"{row['name']:26s} measured {row['measured']:9.3f} +- {row['standard_error']:.2f} "
            f"({row['bits_per_dim']:.4f} bits/dim)  by hand {row['by_hand']:9.3f}  difference "
            f"{row['difference']:+.4f} +- {row['error']:.4f} (at the same z {row['same_draws']:.0e}){nll}  "
            f"k-hat > 0.7: {100 * row['k_hat_above_0.7']:.0f}%  "
            f"{row['seconds']:.1f} s"
        )


if __name__ == "__main__":
    main()
