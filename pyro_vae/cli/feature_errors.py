"""``pyro-vae feature-error``: how far a run's reconstructions are from data, in features and in pixels."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence

from pyro_vae.cli.inputs import add_data_arguments, chosen_data
from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.runs import Run
from pyro_vae.runs.measurements import check_options, plain, table, warned

MIB = 512  # said to the check of options, for nothing here takes a budget


def feature_error(arguments: Sequence[str]) -> None:
    """Measure how far reconstructions are from data in the features of a frozen network, and in pixels.

    The same network for every run, whatever it was trained with: a run and its twin without features compare.
    """
    from pyro_vae.evaluation import feature_error as measure
    from pyro_vae.runs.image_features import named_features
    from pyro_vae.runtime import as_device

    parser = run_parser("feature-error", feature_error.__doc__)
    add_data_arguments(parser)
    parser.add_argument("--layers", type=str | None, default=None, help="of the network: stem,stage1,stage2,stage3")
    parser.add_argument("--vgg", type=str | None, default=None, help="weights of VGG-19: its features instead")
    parser.add_argument("--seed", type=int, default=0, help="of the draws of the latents")
    parser.add_argument("--device", type=str, default="auto", help="auto (a GPU if there is one), cpu, cuda, …")
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")
    options = parse(parser, arguments)
    check_options(particles=None, limit=options.limit, memory_mib=MIB, seed=options.seed, device=options.device)
    features = named_features(options.layers, options.vgg)
    run = Run(options.dir, trust=options.trust)
    model, guide = run.programs()
    place = as_device(options.device)
    model.to(place), guide.to(place)
    split = chosen_data(run, model, guide, options)
    started = time.monotonic()
    found = measure(model, guide, split, features, seed=options.seed, device=place)
    result = warned({**found.to_dict(), "seed": options.seed, "seconds": round(time.monotonic() - started, 2)})
    print(json.dumps(plain(result), allow_nan=False) if options.json else table(run.path, result, found.rows))
    for sentence in result["warnings"]:
        logging.warning("warning: %s", sentence)
