"""The codes of a run's data, extracted once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation.nodes import is_point_mass
from pyro_vae.files import write_atomically
from pyro_vae.program import as_programs
from pyro_vae.runtime import private_seed

BATCH = 250  # data encoded at once
Codes = dict[str, dict[str, Tensor]]  # by part of the data, then by site; and "y"
logger = logging.getLogger(__name__)


def digest(weights: Path) -> str:
    """What tells one run's weights from another's: the SHA-256 of the file, in hexadecimal."""
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def run_codes(
    cache: Path, trained: str, model: nn.Module, guide: nn.Module, data: Data, sites: Sequence[str], progress: bool
) -> Codes:
    """Codes of all parts of the data, from the cache if they are there and were made with the same weights.

    Args:
        cache: a safetensors file.
        trained: digest of the weights of model and guide.
        model, guide: programs.
        data: of which dynamically binarized ones are drawn once.
        sites: code sites to keep.
        progress: show a bar.
    """
    found = _read(cache, trained)
    if found is not None:
        logger.info("codes of the data: from %s", cache)
        return found
    parts = {part: split for part in ("train", "validation", "test") if (split := getattr(data, part)) is not None}
    codes = {part: extract_codes(model, guide, split, sites, progress) for part, split in parts.items()}
    flat = {f"{part}/{name}": value.contiguous() for part, values in codes.items() for name, value in values.items()}
    write_atomically(cache, lambda path: save_file(flat, path, {"trained": trained}))
    return codes


def _read(cache: Path, trained: str) -> Codes | None:
    try:
        with safetensors.safe_open(cache, "pt") as file:
            if (file.metadata() or {}).get("trained") != trained:
                return None
            codes: Codes = {}
            for key in file.keys():
                part, name = key.split("/")
                codes.setdefault(part, {})[name] = file.get_tensor(key)
            return codes
    except (OSError, safetensors.SafetensorError):  # not there, or cut short: made anew
        return None


@torch.no_grad()
def extract_codes(
    model: nn.Module, guide: nn.Module, split: Split, sites: Sequence[str], progress: bool = False
) -> dict[str, Tensor]:
    """The guide's codes of every datum, ``(N, *grid)`` int64 by site, and the labels ``y`` if the data have them.

    Codes that the guide draws are taken at the mode of its distribution, the most probable ones.

    Raises:
        InputError: if such a distribution has no mode.
    """
    parts: dict[str, list[Tensor]] = {}
    device = "cuda" if torch.cuda.is_available() else split.device
    programs = [program.to(device) for program in as_programs(model.eval(), guide.eval())]
    with private_seed(0, split.device), tqdm(total=len(split), unit="datum", disable=not progress) as bar:
        for batch in split.batches(BATCH):
            batch = {name: value.to(device) for name, value in batch.items()}
            with _AtMode(sites):
                trace = poutine.trace(programs[1]).get_trace(**batch)
            for name in sites:
                parts.setdefault(name, []).append(trace.nodes[name]["value"].cpu())
            if "y" in batch and batch["y"].dtype == torch.int64:
                parts.setdefault("y", []).append(batch["y"].cpu())
            bar.update(len(batch["x"]))
    return {name: torch.cat(values) for name, values in parts.items()}


class _AtMode(Messenger):
    """Gives sites that are drawn the modes of their distributions, so that later sites see them as well."""

    def __init__(self, sites: Sequence[str]) -> None:
        super().__init__()
        self.sites = sites

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.sites or is_point_mass(msg["fn"]):
            return
        try:
            msg["value"], msg["done"] = msg["fn"].mode, True
        except NotImplementedError as error:
            raise InputError(
                f"the guide draws the codes '{msg['name']}' from {type(msg['fn']).__name__}, which has no mode to take "
                "in place of a draw: give that distribution a property 'mode'"
            ) from error
