"""Rollouts of a run of the data vizdoom against what truly follows: the game is played anew under every action.

    python benchmarks/video_rollouts.py DIR [--contexts 40] [--seed 0] [--temperature 1] [--figure branches.png]

For contexts of the test part, the model lets follow T frames under each of the five actions, chosen at every step; the
true branches are rendered. A hit: at that step, the rollout's frame is nearer (mean squared error) to the true branch
of its own action than to the other four; chance is 0.2. PSNR is of the mean squared error over contexts and actions.
"""

from __future__ import annotations

import argparse

import torch

from pyro_vae.data import Actions
from pyro_vae.data.sources.vizdoom_clips import true_futures
from pyro_vae.evaluation import roll_out, rollout_accuracy
from pyro_vae.plots import branches, save_figure
from pyro_vae.runs import Run

SHOWN = ("forward", "right")  # in the figure, as in the paper


def main() -> None:
    """Print the table, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--contexts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--figure", help="a PNG file: given frames | forward | right for a few contexts, and the truth")
    options = parser.parse_args()
    run = Run(options.run)
    model, guide = run.programs()
    data = run.data()
    names, steps = data.extra(Actions).names, run.data_shape[0]
    place = torch.arange(options.contexts) * len(data.test) // options.contexts
    batch = data.test.batch(place)
    contexts = {"frames": batch["frames"]}
    actions = torch.arange(len(names))[:, None].expand(len(names), steps)
    truth = true_futures(batch["episode"], batch["frames"], actions)  # (A, N, T, 3, size, size)
    how = {"seed": options.seed, "temperature": options.temperature}
    found = rollout_accuracy(model, contexts, truth, guide=guide, batch_size=options.contexts, **how)
    said = f"{options.contexts} contexts of the test part, seed {options.seed}, temperature {options.temperature:g}"
    print(f"{options.run}: {said}")
    print(f"{'step':>4} {'accuracy':>16} {'PSNR rollout':>13} {'last frame':>11} {'reconstruction':>15}")
    for step in sorted({1, 2, 5, steps}):
        mean, error = found.accuracy_at(step)
        ratios = (found.psnr(errors)[step - 1].item() for errors in (None, found.copied, found.reconstructed))
        print("{:4} {:9.3f} ± {:.3f} {:13.2f} {:11.2f} {:15.2f}".format(step, mean, error, *ratios))
    print(f"\n{'by action':14} {'accuracy at 1, 5, 10':24} {'PSNR rollout':>20} {'last frame':>20}")
    for a, name in enumerate(names):
        at = sorted({0, min(4, steps - 1), steps - 1})
        hits = " ".join(f"{found.hits[a, :, t].mean():.2f}" for t in at)
        own, copied = (
            " ".join(f"{-10 * errors[a, :, t].mean().log10():.1f}" for t in at)
            for errors in (found.squared_errors, found.copied)
        )
        print(f"{name:14} {hits:24} {own:>20} {copied:>20}")
    if options.figure:
        chosen = [names.index(name) for name in SHOWN]
        few = {"frames": batch["frames"][:: max(1, options.contexts // 4)][:4]}
        made = roll_out(model, few, actions[chosen], **how)
        true = truth[chosen][:, :: max(1, options.contexts // 4)][:, :4].float() / 255
        save_figure(branches(few["frames"], made, true, [f"{name} x {steps}" for name in SHOWN]), options.figure)
        print(options.figure)


if __name__ == "__main__":
    main()
