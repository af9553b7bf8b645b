"""``pyro-vae push`` and ``pyro-vae pull``: a run to a hub of models, and from one."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from pyro_vae.cli.parsing import make_parser, parse, run_parser
from pyro_vae.sharing import pull as pull_run
from pyro_vae.sharing import push as push_run


def push(arguments: Sequence[str]) -> None:
    """Put a trained run into a repository of a hub (HF_ENDPOINT), with a card of what was measured."""
    parser = run_parser("push", push.__doc__)
    parser.add_argument("repository", help="USER/NAME; it is made if it is not there")
    parser.add_argument("--private", action="store_true", help="make it private, if it is made")
    _add_what(parser)
    options = parse(parser, arguments)
    what = {"everything": options.all, "figures": options.figures, "private": options.private}
    print(push_run(options.dir, options.repository, trust=options.trust, **what))


def pull(arguments: Sequence[str]) -> None:
    """Get a run from a repository of a hub (HF_ENDPOINT) into a new directory; nothing in it is run."""
    parser = make_parser("pull", pull.__doc__)
    parser.add_argument("repository", help="USER/NAME")
    parser.add_argument("out", help="the directory to make")
    parser.add_argument("--revision", type=str | None, default=None, help="a branch, tag or commit (the newest)")
    _add_what(parser)
    options = parse(parser, arguments)
    what = {"everything": options.all, "figures": options.figures, "revision": options.revision}
    print(pull_run(options.repository, options.out, **what))


def _add_what(parser: ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="with checkpoints, to go on training")
    parser.add_argument("--figures", action="store_true", help="with figures and the report")
