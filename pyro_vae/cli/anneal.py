"""``pyro-vae ais``, ``pyro-vae bidirectional``, ``pyro-vae gap``: log-likelihoods by annealing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from jsonargparse import ArgumentParser
from torch import Tensor

from pyro_vae.cli import columns
from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.errors import InputError, positive
from pyro_vae.evaluation.amortization import LikelihoodGap
from pyro_vae.evaluation.annealing.chains import Schedule
from pyro_vae.evaluation.annealing.path import Start
from pyro_vae.evaluation.annealing.results import AnnealedLikelihood, BidirectionalBounds
from pyro_vae.programs.context import needed_to_generate
from pyro_vae.runs import Run
from pyro_vae.runs.measurements import (
    SplitName,
    bits_in_words,
    part_of,
    plain,
    told_then_written,
    warned,
    with_id,
    write_measurement,
)
from pyro_vae.runtime import as_device, check_seed

Found = TypeVar("Found", AnnealedLikelihood, BidirectionalBounds, LikelihoodGap)
ANNEALING = ("num_chains", "num_temperatures", "num_leapfrog", "schedule", "start")


def ais(arguments: Sequence[str]) -> None:
    """Measure a trained run by annealed importance sampling: tighter than weights, and dearer."""
    from pyro_vae.evaluation import ais as measure

    parser = _on_data(_annealing(run_parser("ais", ais.__doc__)))
    options = parse(parser, arguments)
    run = Run(options.dir, trust=options.trust)
    split = part_of(run.data(), options.split, options.limit)

    def measured() -> AnnealedLikelihood:
        return measure(*run.programs(), split, **_given(options), **_common(options))

    _tell(run, f"ais-{options.split}", measured, options, _of_estimate)


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

    def measured() -> BidirectionalBounds:
        return measure(model, guide, options.num, batch=context, **_given(options), **_common(options))

    _tell(run, "bidirectional", measured, options, _of_bidirectional)


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

    def measured() -> LikelihoodGap:
        return likelihood_gap(
            *run.programs(),
            split,
            particles=options.particles,
            refine_options={"num_steps": options.num_steps},
            annealing_options=_given(options),
            **_common(options),
        )

    found = _tell(run, f"gap-{options.split}", measured, options, _of_gap)
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


def _tell(
    run: Run,
    name: str,
    measured: Callable[[], Found],
    options: Any,
    rows: Callable[[Any], dict[str, str]],
) -> Found:
    """Measure, print, write DIR/name.npz (each datum) and DIR/name.json."""
    started = time.monotonic()
    found = measured()
    arrays = {key: value.double().numpy() for key, value in found.arrays().items()}
    result = warned({**found.to_dict(), "seed": options.seed, "seconds": round(time.monotonic() - started, 2)})
    result = with_id(result, arrays)
    if options.json:
        text = json.dumps(plain(result), allow_nan=False)
    else:
        told = {**rows(result), "seconds": f"{result['seconds']:.1f}"}
        head = f"{run.path} on {result['num_data']} data ({result['split']}), +- one standard error over data"
        warnings = [f"  warning: {warning}" for warning in result["warnings"]]
        text = "\n".join([head, columns({f"  {k}": v for k, v in told.items()}), *warnings])
    told_then_written(text, lambda: write_measurement(run.path, name, result, arrays))
    return found


def _nats(value: float, error: float) -> str:
    return f"{value:.3f} +- {error:.3f} nats"


def _of_estimate(result: dict[str, Any]) -> dict[str, str]:
    return {
        "log-likelihood, annealed": _nats(result["log_likelihood"], result["standard_error"]),
        "bits per dimension": bits_in_words(result),
        **_of_chains(result),
        "effective sample size": f"{result['effective_sample_size']:.1f} of {result['num_chains']} chains",
    }


def _of_bidirectional(result: dict[str, Any]) -> dict[str, str]:
    sides = {f"{side} bound": _nats(result[side], result[f"{side}_standard_error"]) for side in ("lower", "upper")}
    gaps = {
        "gap": _nats(result["gap"], result["gap_standard_error"]),
        "gap of a datum": f"median {result['gap_median']:.3f}, largest {result['gap_largest']:.3f} nats",
    }
    return {**sides, **gaps, **_of_chains(result)}


def _of_gap(result: dict[str, Any]) -> dict[str, str]:
    rows = {
        row["bound"]: f"{row['mean']:.3f} nats, lacks {row['missing']:.3f} +- {row['missing_standard_error']:.3f}"
        for row in result["bounds"]
    }
    parts = {
        f"{part} gap of the ELBO": _nats(result[f"{part}_gap"], result[f"{part}_gap_standard_error"])
        for part in ("approximation", "amortization")
    }
    return {**_of_estimate(result["annealed"]), **rows, **parts}


def _of_chains(result: dict[str, Any]) -> dict[str, str]:
    told = f"{result['num_chains']} x {result['num_temperatures']} x {result['num_leapfrog']}"
    return {
        "chains x temperatures x leapfrog": f"{told}, from the {result['start']}, {result['schedule']}",
        "acceptance": "no transition" if result["acceptance"] is None else f"{result['acceptance']:.2f}",
    }
