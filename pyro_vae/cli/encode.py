"""``pyro-vae encode``: the latents of data under a run's guide, as arrays or a table."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pyro_vae.cli.inputs import add_data_arguments, chosen_data
from pyro_vae.cli.output import check_output, write_numbers
from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.runs import Run


def encode(arguments: Sequence[str]) -> None:
    """Write the latents of data, or files of one's own, under the guide: means and scales, or codes.

    Of each latent site SITE the file has SITE.mean and SITE.scale (the standard deviation) where its distribution has
    them, else SITE, a draw or codes; and id, the files' names or the data's places.
    """
    from pyro_vae.evaluation import posterior_moments
    from pyro_vae.evaluation.scoring import data_ids
    from pyro_vae.runtime import as_device

    parser = run_parser("encode", encode.__doc__)
    add_data_arguments(parser)
    parser.add_argument("--out", type=str, required=True, help="the file to write, .npz or .parquet (a row a datum)")
    parser.add_argument("--force", action="store_true", help="replace that file if it is there")
    parser.add_argument("--batch-size", type=int, default=500, help="data at once")
    parser.add_argument("--seed", type=int, default=0, help="of the draws of sites without a mean")
    parser.add_argument("--device", type=str, default="auto", help="auto (a GPU if there is one), cpu, cuda, …")
    options = parse(parser, arguments)
    out, device = check_output(options.out, (".npz", ".parquet"), options.force), as_device(options.device)
    run = Run(options.dir, trust=options.trust)
    model, guide = (program.to(device) for program in run.stage_one())  # a learned prior has no part in it
    split = chosen_data(run, model, guide, options)
    found = posterior_moments(model, guide, split, batch_size=options.batch_size, seed=options.seed)
    arrays = {name: value.numpy() for name, value in found.items()}
    write_numbers(out, data_ids(split.names, len(split)), arrays)
    for name, array in arrays.items():
        logging.info("%s: %s", name, " x ".join(map(str, array.shape)))
    print(out)
