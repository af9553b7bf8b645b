"""``pyro-vae train-prior`` and ``pyro-vae train-ranker``: what is learned for a run that has been trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from jsonargparse import ArgumentParser

from pyro_vae.cli.parsing import directory_first, parse, parse_over, recipe_of, run_parser
from pyro_vae.errors import UsageError, exit_status
from pyro_vae.runs import Run
from pyro_vae.runs.latent_stage import train_prior as train_prior_of
from pyro_vae.runs.learned_priors import add_prior_arguments, parse_prior_config
from pyro_vae.text_to_image import ranker
from pyro_vae.training import FitResult


def train_prior(arguments: Sequence[str]) -> None:
    """Learn priors over a trained run's codes or latents, parts of it from then on."""
    parser = run_parser("train-prior", train_prior.__doc__)
    parser.add_argument(
        "--site",
        type=str | None,
        default=None,
        help="of this site only; else of all code sites, one by one, or of the first latent that depends on no other",
    )

    def learn(run: Run, config: Any, recipe: str, options: Any) -> Mapping[str, FitResult]:
        found = train_prior_of(run, config, recipe, site=options.site, resume=options.resume)
        return {f"prior of '{site}'": result for site, result in found.items()}

    _learn(parser, arguments, add_prior_arguments, parse_prior_config, learn)


def train_ranker(arguments: Sequence[str]) -> None:
    """Learn which texts belong to which images, to rank a run's samples of texts."""
    parser = run_parser("train-ranker", train_ranker.__doc__)

    def learn(run: Run, config: Any, recipe: str, options: Any) -> Mapping[str, FitResult]:
        return {"ranker": ranker.train_ranker(run, config, resume=options.resume)}

    _learn(parser, arguments, ranker.add_ranker_arguments, ranker.parse_ranker_config, learn, recipe="ranker")


def _learn(
    parser: ArgumentParser,
    arguments: Sequence[str],
    add_sections: Callable[[ArgumentParser], None],
    parse_config: Callable[..., Any],
    learn: Callable[[Run, Any, str, Any], Mapping[str, FitResult]],
    recipe: str | None = None,
) -> None:
    """Parse the arguments of a second stage and learn it.

    Args:
        parser: with the command's own options.
        arguments: of the command line: the run directory, the recipe, options.
        add_sections: gives a parser those of the stage's configuration.
        parse_config: checks one.
        learn: ``(run, config or None, recipe, options)`` to what was trained, by what it is called.
        recipe: if none is named; None: one must be.

    Raises:
        UsageError: if there is no recipe, or a new one for a stage that is to be gone on with.
    """
    parser.add_argument("recipe", nargs="?", default=recipe, help="its recipe (pyro-vae recipes), or a .yaml file")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted one, as it was begun")
    own = {name for action in parser._actions for name in action.option_strings}
    arguments = directory_first(arguments)
    named = len(arguments) > 1 and not arguments[1].startswith("-")
    recipe = arguments[1] if named else recipe
    if "--resume" in arguments:
        given = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
        if named or given - own:
            raise UsageError(
                "--resume goes on with the recipe and options that it was begun with: "
                f"{parser.prog} {arguments[0]} --resume"
            )
        options, config = parse(parser, arguments), None
    else:
        add_sections(parser)
        if {"-h", "--help"} & set(arguments):
            parse(parser, arguments)
        if recipe is None:
            raise UsageError(f"after DIR, the recipe comes first: {parser.prog} DIR RECIPE [--prior.option value …]")
        trust = "--trust" in arguments
        read = partial(parse_config, recipe_of(recipe, trust), f"recipe {recipe}", trust=trust)
        options = parse_over(parser, arguments, read)
        config = options.clone(with_meta=False)
        for action in [name.lstrip("-") for name in own] + ["dir", "recipe"]:
            config.pop(action, None)
    try:
        found = learn(Run(options.dir, trust=options.trust), config, recipe or "", options)
    except KeyboardInterrupt as error:
        logging.warning("%s; go on with: %s %s --resume", str(error) or "interrupted", parser.prog, options.dir)
        raise SystemExit(exit_status(error)) from None
    for name, result in found.items():
        logging.info("%s: %d epochs in %.0f s (%s)", name, result.epochs, result.seconds, result.stopped)
