"""A run of the recipe colorization-shapes against the exact mixture of palettes.

    pyro-vae train colorization-shapes --out runs/colours
    python examples/colorization.py runs/colours        # of 500 data; a number after it: of so many

Of test data: conditional NLL against the exact one; how often draws have each palette, by chi-squared; how often one of
n draws has the palette of the datum, against 1 - (1 - w)^n; errors of the best of n draws.
"""

import sys

import torch
from scipy.stats import chi2

import pyro_vae
from pyro_vae.data.sources.coloured_shapes import PALETTES, palette_densities, palettes
from pyro_vae.data.sources.shapes import SHAPES
from pyro_vae.evaluation import best_of_draws
from pyro_vae.evaluation.best_draws import draws_given
from pyro_vae.evaluation.results import mean_and_error
from pyro_vae.runs import Run

DRAWS, PARTICLES = 8, 500


def main(folder: str, limit: int = 500) -> None:
    """Print what is measured of a run."""
    run = Run(folder)
    model, guide = run.programs()
    split = run.data().splits["test"].subset(limit)
    batch = split.batch(slice(None))
    exact = palette_densities(batch["x"], batch["image"], batch["y"]).logsumexp(1)
    bound = pyro_vae.log_likelihood(model, guide, split, num_particles=PARTICLES)
    print(f"log p(x | image), {len(exact)} data: exact {exact.mean():.2f}, model {bound.mean:.2f} (K = {PARTICLES}), ")
    print("gap {:.2f} +- {:.2f} nats".format(*mean_and_error(exact - bound.per_datum.cpu())))

    drawn = draws_given(model, batch, DRAWS, seed=1)  # (draws, n, 2, 32, 32): means of p(x | z, image)
    log_weights, means = palettes(batch["image"], batch["y"])
    distance = (drawn.unsqueeze(2) - means).square().mean((3, 4, 5)).sqrt()  # (draws, n, M)
    distance = distance.masked_fill(log_weights.isinf(), torch.inf)
    nearest, which = distance.min(2)
    print(f"draws' distance from the nearest palette (root mean square): {nearest.mean():.4f}, noise 0.03")
    for shape, known in enumerate(PALETTES):
        counts = torch.bincount(which[0, batch["y"] == shape], minlength=len(known)).double()  # one draw a datum
        expected = counts.sum() * torch.tensor([weight for weight, *_ in known], dtype=torch.float64)
        statistic = ((counts - expected).square() / expected).sum()
        p = chi2.sf(statistic, len(known) - 1)
        shown = ", ".join(f"{c:.3f} ({w})" for c, (w, *_) in zip(counts / counts.sum(), known, strict=True))
        print(f"{SHAPES[shape]}: palettes {shown}; chi-squared {statistic:.2f}, p = {p:.3f}")
    own = log_weights.exp().gather(1, batch["palette"][:, None])[:, 0].double()  # w of the datum's palette
    hit = which == batch["palette"]
    for n in (1, 2, 4, 8):
        found = hit[:n].any(0).double()
        print("one of {} draws has the palette: {:.3f} +- {:.3f}".format(n, *mean_and_error(found)), end="")
        print(f", 1 - (1 - w)^{n} = {(1 - (1 - own) ** n).mean():.3f}")
    print(best_of_draws(model, split, DRAWS, seed=1))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
