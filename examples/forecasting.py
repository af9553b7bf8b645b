"""How near a run on the data 'moving-scenes' comes to the exact mixture that they were drawn from.

python examples/forecasting.py runs/forecasting --num_particles 500 --limit 200

A line of JSON each: nats of the model, of the exact mixture and of the best regressor in closed form; frequencies of
the motions of single scenes, by chi^2; the share of draws that go where nothing may go, or between two ways.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from scipy.stats import chi2
from torch import Tensor
from torch.distributions import Normal

from pyro_vae import log_likelihood, sample
from pyro_vae.data.moving_scenes import (
    DISTANCE,
    PROBABILITIES,
    Scenes,
    log_marginal,
    log_prob,
    log_prob_of_places,
    motion_of,
    read_scenes,
    regressor_nats,
)
from pyro_vae.errors import InputError
from pyro_vae.runs import Run

BETWEEN = 20.0  # degrees off the nearest way, from which on a draw is counted as one between two


def cost_of_gaussian_speeds() -> float:
    """Nats an object, by quadrature: speeds said by one Gaussian, whichever way, where the colour is not known.

    KL(p(way, speed) || p(way) N(speed)), the least of all Gaussians: what a model cannot do better whose latents of
    magnitude are Gaussian and know nothing of the direction, given a picture that does not show the kind.
    """
    colours, speed = DISTANCE, torch.linspace(-2, 18, 20_001, dtype=torch.float64)
    density = Normal(colours[:, :1], colours[:, 1:]).log_prob(speed).exp()  # (colours, speeds)
    joint = PROBABILITIES.mean(0).T @ density / len(colours)  # (ways, speeds)
    ways = PROBABILITIES.mean((0, 1))[:, None]
    mean = (joint * speed).sum() / joint.sum()
    deviation = ((joint * (speed - mean).square()).sum() / joint.sum()).sqrt()
    ratio = joint.clamp(min=1e-300).log() - ways.log() - Normal(mean, deviation).log_prob(speed)
    return float((joint * ratio).sum() * (speed[1] - speed[0]))


def nats(
    model: object, guide: object, split: object, num_particles: int, shuffled: bool, other_kinds: bool
) -> dict[str, object]:
    """What the model gives, and what the truth does, of the same data."""
    batch = split.batch(slice(None))
    found = log_likelihood(model, guide, split, num_particles=num_particles, progress=False)
    # the images that belong to the motions: shuffled data have those of the data before
    scenes = read_scenes(batch["image"].roll(-1, 0) if shuffled else batch["image"])
    x, ours = batch["x"], -found.per_datum.double()
    keep = slice(0, len(x) - 1) if shuffled else slice(None)  # of the last one of a part the image is elsewhere
    x, scenes, ours = x[keep], Scenes(scenes.kind[keep], scenes.place[keep]), ours[keep]
    given, alone = -log_prob(x, scenes), -log_marginal(x)
    places = -log_prob_of_places(x, scenes)  # what images say that show where things move, and nothing of how

    def mean(values: Tensor) -> list[float]:
        return [round(values.mean().item(), 2), round(values.std().item() / len(values) ** 0.5, 2)]

    result = {
        "data": len(x),
        "num_particles": num_particles,
        "model": mean(ours),
        "density_of": found.density_of or "x",
        "of the places alone, exactly": mean(places),
        "without the image, exactly": mean(alone),
    }
    if not other_kinds:  # else what the images show is not what moved
        result |= {
            "exact mixture": mean(given),
            "information of the image": mean(alone - given),
            "information of the kinds": mean(places - given),
            "best regressor": round(regressor_nats(scenes, x.shape[1] // 2), 2),
        }
    if other_kinds:
        objects = (scenes.place >= 0).sum(1).double().mean().item()
        result["cost of Gaussian speeds"] = round(objects * cost_of_gaussian_speeds(), 3)
    if not found.density_of:
        result["gap"] = mean(ours - (places if other_kinds else alone if shuffled else given))
    return result


def motions(model: object, split: object, num_scenes: int, num_draws: int, seed: int) -> list[dict[str, object]]:
    """Draws of single scenes by their motions against the table, and all draws together."""
    batch = split.batch(slice(0, num_scenes))
    images = batch["image"].repeat_interleave(num_draws, 0)
    drawn = sample(model, len(images), seed=seed, batch={"image": images})
    x = drawn.get("x.mean", drawn.get("trajectories.mean"))
    single = read_scenes(batch["image"])
    scenes = Scenes(*(value.repeat_interleave(num_draws, 0) for value in single))
    which, angle = motion_of(x, scenes)  # (scenes * draws, 2)
    there = which >= 0
    table = PROBABILITIES.flatten(0, 1)[scenes.kind.clamp(min=0)]  # (…, 2, 4)
    allowed = table.gather(2, which.clamp(min=0).unsqueeze(2)).squeeze(2) > 0
    between = angle > BETWEEN
    lines, passed, objects, statistic, freedom = [], 0, 0, 0.0, 0
    for i in range(len(single.kind)):
        rows = slice(i * num_draws, (i + 1) * num_draws)
        for o in range(2):
            if single.kind[i, o] < 0:
                continue
            p = PROBABILITIES.flatten(0, 1)[single.kind[i, o]]
            counts = which[rows, o].bincount(minlength=4).double()
            expected = num_draws * p[p > 0]
            found = ((counts[p > 0] - expected) ** 2 / expected).sum().item()
            value = float(chi2.sf(found, len(expected) - 1))
            objects, passed = objects + 1, passed + (value > 0.01)
            statistic, freedom = statistic + found, freedom + len(expected) - 1
            lines.append(
                {
                    "scene": i,
                    "object": o,
                    "table": p.tolist(),
                    "found": (counts / num_draws).tolist(),
                    "p": round(value, 4),
                }
            )
    shares = {
        "draws of objects": int(there.sum()),
        "nearest way is forbidden": (there & ~allowed).sum().item() / there.sum().item(),
        "forbidden, and not between two": (there & ~allowed & ~between).sum().item() / there.sum().item(),
        "between two ways": (there & between).sum().item() / there.sum().item(),
        "objects": objects,
        "with p > 0.01": passed,
        "chi^2": round(statistic, 1),
        "degrees of freedom": freedom,
    }
    return [*lines, shares]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="a run on the data 'moving-scenes'")
    parser.add_argument("--num_particles", type=int, default=500)
    parser.add_argument("--limit", type=int, default=None, help="of test data")
    parser.add_argument("--scenes", type=int, default=20, help="of which motions are drawn; 0: none")
    parser.add_argument("--draws", type=int, default=100, help="of each")
    parser.add_argument("--shuffled", action="store_true", help="give each datum the image of another one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run = Run(options.dir)
    data, (model, guide) = run.data(), run.programs()
    if not data.name.startswith("moving-scenes"):
        raise InputError(f"{options.dir} was trained on {data.name}, and not on moving-scenes")
    split = data.test if options.limit is None else data.test.subset(options.limit)
    trained_shuffled = bool(run.config.data.get("shuffled", False))
    if options.shuffled and not trained_shuffled:
        split = split.replaced({"image": split.tensors["image"].roll(1, 0)})
    shuffled = options.shuffled or trained_shuffled
    other_kinds = bool(run.config.data.get("other_kinds", False))
    print(json.dumps(nats(model, guide, split, options.num_particles, shuffled, other_kinds)), flush=True)
    if options.scenes and not other_kinds:
        for line in motions(model, split, options.scenes, options.draws, options.seed):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
