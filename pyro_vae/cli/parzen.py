"""``pyro-vae parzen``: a kernel estimate on samples of a run's model, as papers on adversarial models report it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pyro_vae.cli.measuring import tell
from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.errors import positive
from pyro_vae.runs import Run
from pyro_vae.runs.measurements import MEMORY_MIB, SplitName, part_of
from pyro_vae.runtime import check_seed


def parzen(arguments: Sequence[str]) -> None:
    """Measure a run by a Gaussian kernel estimate on its samples: a figure of papers, not log p(x)."""
    from pyro_vae.evaluation import parzen as measure

    parser = run_parser("parzen", parzen.__doc__)
    parser.add_argument("--samples", type=int, default=10_000, help="of the model, which kernels stand on")
    parser.add_argument(
        "--bandwidths",
        type=list[float] | None,
        default=None,
        help="to choose from on the validation data; else 17 from 0.03 to 3.2 of their standard deviations",
    )
    parser.add_argument("--draws", action="store_true", help="draws of x, in the place of means of p(x | z)")
    parser.add_argument("--split", type=SplitName, default="test", help="which part of the data")
    parser.add_argument("--limit", type=int | None, default=None, help="measure the first so many data only")
    parser.add_argument("--memory-mib", type=int, default=MEMORY_MIB, help="memory budget of what is computed at once")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")
    options = parse(parser, arguments)
    run = Run(options.dir, trust=options.trust)
    data = run.data()
    measured = partial(
        measure,
        run.programs()[0],
        part_of(data, options.split, options.limit),
        num_samples=positive("--samples", options.samples),
        bandwidths=options.bandwidths,
        validation=data.validation,
        draws=options.draws,
        memory_budget=positive("memory_mib", options.memory_mib) * 2**20,
        seed=check_seed(options.seed),
    )
    tell(run, f"parzen-{options.split}", measured, options)
