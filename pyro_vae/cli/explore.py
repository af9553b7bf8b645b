"""``pyro-vae explore``: a page on which a run's latents are moved by hand."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.runs.measurements import SplitName


def explore(arguments: Sequence[str]) -> None:
    """Write explorer.html: sliders over latents, the latent plane, morphs between data, decoded in the browser.

    One page that needs no other file and no network.
    """
    from pyro_vae.reports import write_explorer

    parser = run_parser("explore", explore.__doc__)
    parser.add_argument(
        "--site", type=str | None, default=None, help="the latent site (the one that the model draws first)"
    )
    parser.add_argument("--split", type=SplitName, default="test", help="which part of the data is shown")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    options = parse(parser, arguments)
    print(write_explorer(options.dir, site=options.site, split=options.split, seed=options.seed, trust=options.trust))
