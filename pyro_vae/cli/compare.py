"""``pyro-vae compare``: a page on runs side by side, with paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyro_vae.cli.parsing import make_parser, parse
from pyro_vae.reports import write_comparison
from pyro_vae.runs.measurements import MEMORY_MIB, PARTICLES, SplitName
from pyro_vae.sweeps.plan import is_sweep
from pyro_vae.sweeps.results import finished_runs


def compare(arguments: Sequence[str]) -> None:
    """Set runs side by side (comparison.html), with paired differences and their errors."""
    parser = make_parser("compare", compare.__doc__)
    parser.add_argument("dirs", nargs="*", type=Path, help="run directories, two or more; or a sweep: its runs")
    parser.add_argument("--against", type=Path | None, default=None, help="the run to compare with (the first)")
    parser.add_argument("--split", type=SplitName, default="test", help="which part of the data")
    parser.add_argument(
        "--particles",
        type=int | None,
        default=None,
        help=f"measure all anew with so many importance samples per datum ({PARTICLES} where they must be measured)",
    )
    parser.add_argument("--limit", type=int | None, default=None, help="measure all anew, the first so many data only")
    parser.add_argument("--memory-mib", type=int, default=MEMORY_MIB, help="memory budget of what is computed at once")
    parser.add_argument("--seed", type=int, default=0, help="of the particles")
    parser.add_argument("--device", type=str, default="auto", help="auto (a GPU if there is one), cpu, cuda, …")
    parser.add_argument("--out", type=Path, default=Path(), help="the directory to write into (this one)")
    parser.add_argument(
        "--trust", action="store_true", help="run the code of classes outside pyro_vae that the configurations name"
    )
    options = parse(parser, arguments)
    names = ("against", "split", "particles", "limit", "memory_mib", "seed", "device", "trust")
    runs = [run for path in options.dirs for run in (finished_runs(path) if is_sweep(path) else [path])]
    page = write_comparison(runs, options.out, progress=True, **{name: options[name] for name in names})
    print(page)
    print(page.with_suffix(".json"))
