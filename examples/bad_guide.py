"""Annealing against importance weights at equal cost, for guides that are good and bad, where log p(x) is known.

python examples/bad_guide.py --latent_dim 10

A linear-Gaussian model: z ~ N(0, I), x | z ~ N(W z, 0.25 I), 2 latent_dim numbers in x. What each estimate lacks of
the exact log p(x), mean over data. Importance sampling has three particles for every gradient of annealing, which is
what a gradient costs.
"""

from __future__ import annotations

import argparse
import json

import pyro
import pyro.distributions as dist
import torch

from pyro_vae.evaluation import ais, log_likelihood
from pyro_vae.evaluation.results import mean_and_error

GUIDES = {  # standard deviations from the posterior's mean, times those of the best mean-field posterior
    "best mean-field": (0.0, 1.0),
    "half as wide": (0.0, 0.5),
    "half as wide, shifted by 2": (2.0, 0.5),
    "three times as wide, shifted by 2": (2.0, 3.0),
}


def main() -> None:
    """Print a line of JSON for each guide."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latent_dim", type=int, default=10)
    parser.add_argument("--num_data", type=int, default=20)
    parser.add_argument("--num_temperatures", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    d, generator = options.latent_dim, torch.Generator().manual_seed(options.seed)
    weight = torch.randn(2 * d, d, generator=generator)
    precision = torch.eye(d) + weight.T @ weight / 0.25
    widths = precision.diagonal() ** -0.5
    z = torch.randn(options.num_data, d, generator=generator)
    x = z @ weight.T + 0.5 * torch.randn(options.num_data, 2 * d, generator=generator)
    marginal = weight.double() @ weight.double().T + 0.25 * torch.eye(2 * d, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(torch.zeros(2 * d).double(), marginal).log_prob(x.double())

    def model(x: torch.Tensor | None = None, num_samples: int = 1) -> torch.Tensor:
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(d), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z @ weight.T, 0.5).to_event(1), obs=x)

    for name, (shift, width) in GUIDES.items():

        def guide(x: torch.Tensor, shift: float = shift, width: float = width) -> None:
            mean = torch.linalg.solve(precision, (x @ weight / 0.25).T).T
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(mean + shift * widths, width * widths).to_event(1))

        annealed = ais(model, guide, x, num_temperatures=options.num_temperatures, seed=options.seed)
        particles = 3 * annealed.settings.gradients
        weighted = log_likelihood(model, guide, x, num_particles=particles, seed=options.seed)
        row = {"guide": name, "latent_dim": d, "gradients": annealed.settings.gradients, "particles": particles}
        for how, result in {"annealing": annealed, "importance": weighted}.items():
            lacks, error = mean_and_error(exact - result.per_datum)
            row |= {f"{how} lacks": round(lacks, 4), f"{how} error": round(error, 4)}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
