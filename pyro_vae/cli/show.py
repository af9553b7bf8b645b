"""``pyro-vae figures``, ``recipes``, ``datasets``: pictures of a run, and what there is to train and to train on."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_vae.cli import columns
from pyro_vae.cli.parsing import make_parser, parse, run_parser
from pyro_vae.recipes import recipe_names, recipe_text


def figures(arguments: Sequence[str]) -> None:
    """Draw every figure that applies to a run, and print where they are."""
    from pyro_vae.plots.registry import draw_all
    from pyro_vae.runs import Run

    parser = run_parser("figures", figures.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = parse(parser, arguments)
    run = Run(options.dir, trust=options.trust)
    folder = run.file("figures")
    model, guide = run.programs()
    for path in draw_all(model, guide, run.data(), run.records(), folder, seed=options.seed):
        print(path)


def recipes(arguments: Sequence[str]) -> None:
    """List the recipes, or print one: pyro-vae recipes NAME."""
    parser = make_parser("recipes", recipes.__doc__)
    parser.add_argument("name", nargs="?", type=str, help="print this recipe's YAML")
    options = parse(parser, arguments)
    print(recipe_text(options.name) if options.name else columns(recipe_names()))


def datasets(arguments: Sequence[str]) -> None:
    """List the datasets that --data.name knows; paths to arrays, or folders, work too."""
    from pyro_vae.data import dataset_names
    from pyro_vae.data.registry import source_options

    parse(make_parser("datasets", datasets.__doc__), arguments)
    print(columns(dataset_names()))
    print("\nOptions that only some data have:")
    print(columns({f"--data.{option}": notes for option, (_, notes) in source_options().items()}))
