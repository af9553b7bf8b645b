"""``pyro-vae ais``, ``pyro-vae bidirectional``, ``pyro-vae gap``: log-likelihoods by annealing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from jsonargparse import ArgumentParser
from torch import Tensor

from pyro_vae.cli.measuring import tell
from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.errors import InputError, positive
from pyro_vae.evaluation.annealing.chains import Schedule
from pyro_vae.evaluation.annealing.path import Start
from pyro_vae.programs.context import needed_to_generate
from pyro_vae.programs.left_out import without_averaged
from pyro_vae.runs import Run
from pyro_vae.runs.measurements import SplitName, part_of
from pyro_vae.runtime import as_device, check_seed

ANNEALING = ("num_chains", "num_temperatures", "num_leapfrog", "schedule", "start")


def ais(arguments: Sequence[str]) -> None:
    """Measure a trained run by annealed importance sampling: tighter than weights, and dearer."""
    from pyro_vae.evaluation import ais as measure

    parser = _on_data(_annealing(run_parser("ais", ais.__doc__)))
    options = parse(parser, arguments)
    run = Run(options.dir, trust=options.trust)
    split = part_of(run.data(), options.split, options.limit)
    model, guide = run.programs()
    measured = partial(measure, without_averaged(model), guide, split, **_given(options), **_common(options))
    tell(run, f"ais-{options.split}", measured, options)


def bidirectional(arguments: Sequence[str]) -> None:
    """Bound log p(x) from below and above on data that a run's model has drawn.

    A conditional model is given the context of as many test data.
    """
    from pyro_vae.evaluation import bidirectional as measure

    parser = _annealing(run_parser("bidirectional", bidirectional.__doc__))
    parser.add_argument("--num", type=int, default=100, help="data to draw")
    options = parse(parser, arguments)
    run = Run(options.dir, trust=options.trust)
    model, guide = run.programs()
    context = _context(run, needed_to_generate(model), positive("--num", options.num))
    measured = partial(measure, model, guide, options.num, batch=context, **_given(options), **_common(options))
    tell(run, "bidirectional", measured, options)


def gap(arguments: Sequence[str]) -> None:
    """Tell what a run's ELBO and importance-weighted bounds lack of log p(x), and why."""
    from pyro_vae.evaluation import likelihood_gap
    from pyro_vae.evaluation.amortization import PARTICLES
    from pyro_vae.plots import likelihood_gap as draw
    from pyro_vae.plots.registry import save_figure

    parser = _on_data(_annealing(run_parser("gap", gap.__doc__)))
    parser.add_argument("--particles", type=list[int], default=list(PARTICLES), help="numbers of importance samples")
    parser.add_argument("--num-steps", type=int, default=500, help="of the guide's refinement")
    options = parse(parser, arguments)
    run = Run(options.dir, trust=options.trust)
    folder = run.file("figures")
    split = part_of(run.data(), options.split, options.limit)
    model, guide = run.programs()
    measured = partial(
        likelihood_gap,
        without_averaged(model),
        guide,
        split,
        particles=options.particles,
        refine_options={"num_steps": options.num_steps},
        annealing_options=_given(options),
        **_common(options),
    )
    found = tell(run, f"gap-{options.split}", measured, options)
    save_figure(draw(found), folder / "likelihood_gap.png")


def _annealing(parser: ArgumentParser) -> ArgumentParser:
    parser.add_argument("--num-chains", type=int, default=16, help="of each datum")
    parser.add_argument("--num-temperatures", type=int, default=2000, help="steps from the start to the posterior")
    parser.add_argument("--num-leapfrog", type=int, default=3, help="steps of a trajectory")
    parser.add_argument("--schedule", type=Schedule, default="sigmoid", help="of the temperatures")
    parser.add_argument("--start", type=Start, default="guide", help="what the chains start from")
    parser.add_argument("--memory-mib", type=int, default=512, help="memory budget of an evaluation")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--device", type=str, default="auto", help="auto (a GPU if there is one), cpu, cuda, …")
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")
    return parser


def _on_data(parser: ArgumentParser) -> ArgumentParser:
    parser.add_argument("--split", type=SplitName, default="test", help="which part of the data")
    parser.add_argument("--limit", type=int | None, default=100, help="measure the first so many data only; null: all")
    return parser


def _context(run: Run, needed: list[str], num: int) -> dict[str, Tensor]:
    """What a conditional model is given of the first test data."""
    if not needed:
        return {}
    split = part_of(run.data(), "test")
    if num > len(split):
        raise InputError(
            f"--num {num}: the model is given {', '.join(needed)} of test data, of which there are {len(split)}"
        )
    rows = split.batch(slice(0, num))
    return {name: rows[name] for name in needed}


def _given(options: Any) -> dict[str, Any]:
    return {name: options[name] for name in ANNEALING}


def _common(options: Any) -> dict[str, Any]:
    return {
        "memory_budget": positive("memory_mib", options.memory_mib) * 2**20,
        "seed": check_seed(options.seed),
        "device": as_device(options.device),
        "progress": not options.json,
    }
