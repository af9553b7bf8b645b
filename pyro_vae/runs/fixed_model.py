"""A run whose model is another run's, with its weights, and stays so, while a guide is fitted to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from jsonargparse import ArgumentParser, Namespace
from torch import nn

from pyro_vae.errors import InputError
from pyro_vae.files import digest_of
from pyro_vae.objectives import Objective
from pyro_vae.runs.config import NOT_CONFIGURED, PARTS
from pyro_vae.runs.directory import WEIGHTS
from pyro_vae.runs.sections import parse_stage
from pyro_vae.training import fit
from pyro_vae.training.checkpoint import copy_into, named_weights

MODEL_OF = "model_of"  # key of config.yaml: the run that the model is of, and the digest of its weights' file
SECTIONS = ("guide", "objective", "fit", "seed")  # what a refitted guide's configuration says anew
KEPT = ("batch_size", "precision", "device", "num_workers", "compile")  # options of fit that are the run's own


def add_refit_arguments(parser: ArgumentParser) -> None:
    """Give a parser the sections of a refitted guide's configuration."""
    parser.add_subclass_arguments(nn.Module, "guide", skip=PARTS["guide"][1], required=True)
    parser.add_subclass_arguments(Objective, "objective", skip=PARTS["objective"][1], required=False)
    parser.add_function_arguments(fit, "fit", skip=NOT_CONFIGURED)
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, data order and noise")


def parse_refit_config(
    config: Mapping[str, Any], source: str, *, trust: bool = False, defaults: bool = True
) -> Namespace:
    """Check a refitted guide's configuration and fill in the defaults, or leave them out.

    Raises:
        InputError: names what does not fit.
    """
    return parse_stage(config, SECTIONS, add_refit_arguments, source, trust=trust, defaults=defaults)


def take_model(ours: nn.Module, run: Path, model: nn.Module, guide: nn.Module) -> dict[str, str]:
    """Copy the weights of a run's model into one of the same class, just built.

    Args:
        ours: the model just built.
        run: the directory of the run.
        model, guide: its pair, with its weights.

    Returns:
        what ``config.yaml`` says of it: the run's path and the digest of its weights.

    Raises:
        InputError: if weights of its model come into being only when that is run.
    """
    theirs = {name: value for name, value in named_weights(model, guide).items() if name.startswith("model.")}
    with safetensors.safe_open(run / WEIGHTS, "pt") as file:
        awaited = sorted({name for name in file.keys() if name.startswith("model.")} - theirs.keys())
    if awaited:
        raise InputError(
            f"{run}: weight '{awaited[0]}' of its model comes into being only when the model is run (pyro.param), so "
            "that a new run cannot start from it: refit the guide in Python, pyro_vae.refit_guide"
        )
    copy_into({n: v for n, v in named_weights(ours, guide).items() if n.startswith("model.")}, theirs, str(run))
    return {"run": str(run.resolve()), "weights": digest_of(run / WEIGHTS)}


def check_can_be_refitted(config: Namespace, path: Path, out: Path, priors: list[str]) -> None:
    """Check that a guide can be refitted to a run's model, in a new run directory that harms nothing of it.

    Args:
        config: of the run.
        path: its directory.
        out: of the new one.
        priors: the names of the sites that it has learned priors of.

    Raises:
        InputError: says what stands against it.
    """
    if "pair" in config:
        raise InputError(
            f"{path}: its model and its guide are one class (section pair), so that a fresh guide would bring a model "
            "of its own: refit the guide in Python, pyro_vae.refit_guide"
        )
    if priors:
        raise InputError(
            f"{path}: priors were learned for its model afterwards ({', '.join(priors)}), which the new run would not "
            "have: refit the guide in Python, pyro_vae.refit_guide(model, ...) with model, _ = "
            f"pyro_vae.load('{path}'); or work on a copy of the run without its directory priors"
        )
    one, other = path.resolve(), out.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise InputError(
            f"--out {out}: lies in {path}, or the other way round; choose a directory beside it, so that nothing of "
            "that run is touched"
        )
