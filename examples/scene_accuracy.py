"""How many scenes of held-out captions a run draws right, one image a caption or the best of many by its ranker.

python examples/scene_accuracy.py runs/emoji --best-of 1 64 --limit 64
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from pyro_vae.data import Scenes
from pyro_vae.errors import InputError
from pyro_vae.runs import Run
from pyro_vae.text_to_image.ranker import load_ranker
from pyro_vae.text_to_image.ranking import draw_best
from pyro_vae.text_to_image.scene_accuracy import score_scenes


def main() -> None:
    """Draw, rank, score, print a line of JSON for each number of candidates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="a run on the data 'emoji', with a prior over texts and a ranker")
    parser.add_argument("--best-of", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--limit", type=int, default=None, help="of test captions, evenly over all of them")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    for name, kind in {"temperature": float, "top_k": int, "top_p": float, "guidance": float}.items():
        parser.add_argument(f"--{name}", type=kind, default=None)
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "guidance")}
    how = {name: value for name, value in given.items() if value is not None}
    run = Run(options.dir)
    (model, _), data, scorer = run.programs(), run.data(), load_ranker(run)
    if scorer is None and max(options.best_of) > 1:
        raise InputError(f"{options.dir} has no ranker: pyro-vae train-ranker {options.dir}, or --best-of 1")
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit must be a positive integer, got {options.limit}")
    scenes, captions = data.extra(Scenes), data.splits[options.split].captions
    if scenes is None or captions is None:
        raise InputError(f"{data.name} are no scenes that could be scored: train on the data 'emoji'")
    limit = min(options.limit or len(captions), len(captions))
    captions = tuple(captions[i] for i in torch.linspace(0, len(captions) - 1, limit).round().long().tolist())
    for many in options.best_of:
        best = draw_best(
            model,
            run.tokenizer(),
            captions,
            best_of_many=many,
            scorer=scorer if many > 1 else None,
            seed=options.seed,
            batch_size=options.batch_size,
            **how,
        )
        judged = score_scenes(best.images[:, 0].clamp(0, 1), captions, scenes).to_dict()
        print(json.dumps({"best_of": many, "split": options.split, **how, **judged}), flush=True)


if __name__ == "__main__":
    main()
