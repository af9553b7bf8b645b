"""``pyro-vae evaluate``: the log-likelihood of a run, its ELBO and further metrics, printed and written."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.runs import Run
from pyro_vae.runs.measurements import (
    MEMORY_MIB,
    PARTICLES,
    SplitName,
    measure,
    plain,
    print_then_write,
    table,
)


def evaluate(arguments: Sequence[str]) -> None:
    """Measure a trained run: importance-weighted log-likelihood, ELBO with its parts, metrics."""
    parser = run_parser("evaluate", evaluate.__doc__)
    parser.add_argument("--particles", type=int, default=PARTICLES, help="importance samples per datum")
    parser.add_argument("--split", type=SplitName, default="test", help="which part of the data")
    parser.add_argument("--limit", type=int | None, default=None, help="measure the first so many data only")
    parser.add_argument("--memory-mib", type=int, default=MEMORY_MIB, help="memory budget of what is computed at once")
    parser.add_argument("--seed", type=int, default=0, help="of the particles")
    parser.add_argument("--device", type=str, default="auto", help="auto (a GPU if there is one), cpu, cuda, …")
    parser.add_argument(
        "--given",
        type=str | None,
        default=None,
        help="what of the data to condition on, such as y, where a model averages over what it is not given",
    )
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")
    options = parse(parser, arguments)
    run = Run(options.dir, trust=options.trust)
    model, guide = run.programs()
    measured = measure(
        model,
        guide,
        run.data(),
        options.split,
        particles=options.particles,
        limit=options.limit,
        memory_mib=options.memory_mib,
        seed=options.seed,
        device=options.device,
        progress=not options.json,
        given=[] if options.given is None else [name.strip() for name in options.given.split(",")],
    )
    result = measured.result
    text = json.dumps(plain(result), allow_nan=False) if options.json else table(run.path, result, measured.rows)
    print_then_write(text, lambda: measured.write(run.path))
    for sentence in result["warnings"]:
        logging.warning("warning: %s", sentence)
