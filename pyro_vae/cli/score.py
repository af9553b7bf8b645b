"""``pyro-vae score``: the log-likelihood of single data under a run, and the lowest of them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae.cli.inputs import add_data_arguments, chosen_data, run_or_pair
from pyro_vae.cli.output import check_output, write_numbers
from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.errors import positive, printable
from pyro_vae.programs.context import X
from pyro_vae.programs.left_out import averaged_names, without_averaged
from pyro_vae.runs.measurements import (
    MEMORY_MIB,
    PARTICLES,
    check_options,
    plain,
    print_then_write,
    table,
    warned,
)


def score(arguments: Sequence[str]) -> None:
    """Bound the log-likelihood of single data, or files of one's own, and list the lowest: anomalies.

    In nats by importance sampling, as pyro-vae evaluate; with effective sample sizes and Pareto k-hats, and what tokens
    stand for.
    """
    from pyro_vae.evaluation.scoring import score as measure
    from pyro_vae.runtime import as_device

    parser = run_parser("score", score.__doc__, "; or a .yaml file that names data and a pair trained elsewhere")
    add_data_arguments(parser)
    parser.add_argument("--out", type=str | None, default=None, help="a file to write: .npz, .csv or .parquet")
    parser.add_argument("--force", action="store_true", help="replace that file if it is there")
    parser.add_argument("--particles", type=int, default=PARTICLES, help="importance samples per datum")
    parser.add_argument("--lowest", type=int, default=10, help="how many of the lowest to list")
    parser.add_argument("--memory-mib", type=int, default=MEMORY_MIB, help="memory budget of what is computed at once")
    parser.add_argument("--seed", type=int, default=0, help="of the particles")
    parser.add_argument("--device", type=str, default="auto", help="auto (a GPU if there is one), cpu, cuda, …")
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")
    options = parse(parser, arguments)
    common = {"memory_mib": options.memory_mib, "seed": options.seed, "device": options.device}
    check_options(particles=options.particles, limit=options.limit, **common)
    positive("lowest", options.lowest)
    out = None if options.out is None else check_output(options.out, (".npz", ".csv", ".parquet"), options.force)
    run = run_or_pair(options.dir, options.trust)
    model, guide = run.programs()
    split = chosen_data(run, model, guide, options)
    started = time.monotonic()
    said = [name for name in averaged_names(model) if name == "y" and options.y is not None]
    found = measure(
        without_averaged(model, said),
        guide,
        split,
        num_particles=options.particles,
        memory_budget=options.memory_mib * 2**20,
        seed=options.seed,
        device=as_device(options.device),
        progress=not options.json,
    )
    places = found.lowest(options.lowest)
    lowest, tokens = [found.row(place) for place in places], run.tokens
    if tokens is not None:
        x = split.fixed(torch.tensor(places)).batch(slice(None))[X]
        lowest = [row | {"decoded": thing} for row, thing in zip(lowest, tokens.decode(x.cpu()), strict=True)]
    result = {**found.to_dict(), "lowest": lowest, "seed": options.seed}
    result = warned({**result, "seconds": round(time.monotonic() - started, 2)})
    if options.json:
        text = json.dumps(plain(result), allow_nan=False)
    else:
        rows = {name: words for name, words in found.rows.items() if not name.startswith("lowest")}
        text = "\n".join([table(run.path, result, rows), *_listed(lowest, len(found))])
    arrays = {name: value.double().numpy() for name, value in found.arrays().items()}
    print_then_write(text, lambda: _write(out, found.ids, arrays))
    for sentence in result["warnings"]:
        logging.warning("warning: %s", sentence)


def _listed(lowest: Sequence[Mapping[str, Any]], count: int) -> list[str]:
    """The lowest data, a line each."""
    names = [str(row["id"]) for row in lowest]
    width = max(map(len, [*names, "id"]))
    lines = [f"the {len(lowest)} lowest of {count}:", f"  {'id':<{width}}  {'nats':>10}  {'ESS':>8}  k-hat"]
    for name, row in zip(names, lowest, strict=True):
        size, shape = row["effective_sample_size"], row["pareto_k"]
        k_hat = "none" if shape is None else f"{shape:.2f}"
        told = printable(f"  {' '.join(row['decoded'].splitlines())}") if "decoded" in row else ""
        lines.append(f"  {name:<{width}}  {row['log_likelihood']:>10.2f}  {size:>8.1f}  {k_hat:>5}{told}")
    return lines


def _write(out: Path | None, ids: Sequence[str] | Sequence[int], arrays: Mapping[str, np.ndarray]) -> None:
    if out is not None:
        write_numbers(out, ids, arrays)
        logging.info("%s", out)
