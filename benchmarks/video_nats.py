"""Nats of a video run's next frames: with the true actions, without, and with other clips' actions.

    python benchmarks/video_nats.py DIR [--without DIR2] [--limit 500]

DIR has a codec and a prior given actions (pyro-vae train-prior DIR frame-pixelcnn). DIR2 is a copy of it whose prior is
told none (--conditional false): what is best to know without them. "shuffled" are the actions of another clip. The
codes' nats are -log p(codes of x | frames, actions) / T, a probability; frames and codes have -log p(x | codes) / T
added, and are a bound on -log p(x | frames, actions) / T. Of grid-world the exact figures stand beside: if all its
different frames have different codes, the codes' nats are on average no less than the exact ones.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import pyro_vae
from pyro_vae.data.sources import grid_world
from pyro_vae.runs import Run


def nats(model: torch.nn.Module, guide: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """-log p per frame of the codes, and of frames and codes, float64 ``(N,)`` each."""
    steps, parts = batch["x"].shape[1], []
    for start in range(0, len(batch["x"]), 50):
        some = {name: value[start : start + 50] for name, value in batch.items()}
        bound = pyro_vae.elbo(model, guide, some, num_particles=1)
        parts.append((bound.kl["codes"].double() / steps, -bound.per_datum.double() / steps))
    codes, frames = zip(*parts, strict=True)
    return torch.cat(codes), torch.cat(frames)


def told(values: Tensor) -> str:
    """Mean and standard error over data."""
    return f"{values.mean().item():9.4f} ± {values.std().item() / len(values) ** 0.5:.4f}"


def distinct(model: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[int, int]:
    """How many different frames there are, and how many different grids of codes they have."""
    frames = torch.cat([batch["frames"], batch["x"]], 1).flatten(0, 1)
    with torch.no_grad():
        codes = [model.quantizer.nearest(model.vectors(some)) for some in frames.split(500)]
    return len(frames.flatten(1).unique(dim=0)), len(torch.cat(codes).flatten(1).unique(dim=0))


def drawn_worlds(model: torch.nn.Module, batch: dict[str, Tensor]) -> str:
    """Of clips that the model draws: how many frames can follow from those before, and how often chance is as it is."""
    given = {name: batch[name] for name in ("frames", "actions")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = pyro_vae.sample(model, len(batch["x"]), batch=given)["x.mean"]
    exact = grid_world.frame_log_prob(grid_world.nearest(x), batch["frames"], batch["actions"])
    possible = exact.isfinite().all(1)
    chance = grid_world.frame_log_prob(grid_world.nearest(x)[possible], *(v[possible] for v in given.values()))
    entropy = grid_world.frame_entropy(grid_world.nearest(x)[possible], *(v[possible] for v in given.values()))
    return (
        f"drawn: {exact.isfinite().double().mean():.4f} of frames can follow from those before; of the "
        f"{int(possible.sum())} clips that can be, exact -log p - entropy per frame {told((-chance - entropy).mean(1))}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--without", help="a copy of the run, with a prior that is told no actions")
    parser.add_argument("--limit", type=int, default=500, help="clips of the test part")
    options = parser.parse_args()
    run = Run(options.run)
    model, guide = run.programs()
    data = run.data()
    batch = data.test.batch(slice(0, options.limit))
    cases = {"true actions": nats(model, guide, batch)}
    if options.without:
        cases["without actions"] = nats(*Run(options.without).programs(), batch)
    cases["shuffled actions"] = nats(model, guide, batch | {"actions": batch["actions"].roll(1, 0)})
    print(f"{data.name}, {len(batch['x'])} clips of the test part, nats per frame ± standard error over clips")
    print(f"{'':18}{'codes':>20}{'frames and codes':>24}{'codes - true':>24}")
    for name, (codes, frames) in cases.items():
        print(f"{name:18}{told(codes):>20}{told(frames):>24}{told(codes - cases['true actions'][0]):>24}")
    if data.name == "grid-world":
        exact = {
            "true actions": -grid_world.frame_log_prob(batch["x"], batch["frames"], batch["actions"]).mean(1),
            "without actions": -grid_world.frame_log_prob(batch["x"], batch["frames"], None).mean(1),
        }
        entropy = grid_world.frame_entropy(batch["x"], batch["frames"], batch["actions"]).mean(1)
        print(f"{'exact entropy':18}{told(entropy):>20}")
        for name, values in exact.items():
            print(f"{'exact, ' + name.split()[0]:18}{told(values):>20}")
            if name in cases:
                print(f"{'  gap':18}{told(cases[name][0] - values):>20}")
        print("{} different frames, {} different grids of codes".format(*distinct(model, batch)))
        print(drawn_worlds(model, batch))


if __name__ == "__main__":
    main()
