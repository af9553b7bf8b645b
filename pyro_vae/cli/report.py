"""``pyro-vae report``: one HTML page on a run."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.reports import write_report
from pyro_vae.runs.measurements import MEMORY_MIB, PARTICLES, SplitName


def report(arguments: Sequence[str]) -> None:
    """Write a page on a run (report.html): likelihood, latents, figures, configuration."""
    parser = run_parser("report", report.__doc__)
    parser.add_argument("--split", type=SplitName, default="test", help="which part of the data is shown and measured")
    parser.add_argument(
        "--particles",
        type=int | None,
        default=None,
        help=f"importance samples per datum, if the run is not evaluated yet ({PARTICLES})",
    )
    parser.add_argument("--limit", type=int | None, default=None, help="measure the first so many data only")
    parser.add_argument("--memory-mib", type=int, default=MEMORY_MIB, help="memory budget of what is computed at once")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--device", type=str, default="auto", help="auto (a GPU if there is one), cpu, cuda, …")
    options = parse(parser, arguments)
    names = ("split", "particles", "limit", "memory_mib", "seed", "device", "trust")
    page = write_report(options.dir, progress=True, **{name: options[name] for name in names})
    print(page)
    print(page.with_suffix(".json"))
