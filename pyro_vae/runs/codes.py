"""The codes and the tokenizer of a run's data, made once."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_vae.data import Data, Split, Tokenizer
from pyro_vae.data.tokenizer import LONGEST, MOST_TOKENS
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import digest_of, write_atomically
from pyro_vae.programs.checks import check_data
from pyro_vae.programs.context import X, unwrapped
from pyro_vae.programs.program import as_programs
from pyro_vae.programs.sites import is_point_mass
from pyro_vae.runtime import private_seed
from pyro_vae.training.experiment import state_digest

logger = logging.getLogger(__name__)

DIGEST = "digest"  # of the codes, beside what they are made of

BATCH = 250  # data encoded at once, if they are small:
MOST_NUMBERS = 2**22  # in x of these data
Codes = dict[str, dict[str, Tensor]]  # by part of the data, then by site; and "y"


def run_codes(
    cache: Path,
    made_of: dict[str, str],
    model: nn.Module,
    guide: nn.Module,
    data: Data,
    sites: Sequence[str],
    progress: bool,
    draws: int = 0,
) -> Codes:
    """Codes of all parts of the data, from the cache if they are there and were made in the same way.

    Args:
        cache: a safetensors file.
        made_of: digests of the weights and of the parts of the data.
        model, guide: programs.
        data: of which dynamically binarized ones are drawn once.
        sites: code sites to keep.
        progress: show a bar.
        draws: of a training datum's codes from the guide, ``(N, draws, *grid)``; of other data's it is then one,
            ``(N, *grid)``. 0: the most probable codes, of all data.
    """
    made = {**made_of, "draws": str(draws)}
    found = _read(cache, made)
    if found is not None:
        logger.info("codes of the data: from %s", cache)
        return found
    codes = {}
    for part, split in data.splits.items():
        wanted = draws if part == "train" else min(draws, 1)
        codes[part] = extract_codes(model, guide, split, sites, progress, wanted)
        if draws and part != "train":
            codes[part] |= {name: codes[part][name][:, 0].long() for name in sites}
    flat = {f"{part}/{name}": value.contiguous() for part, values in codes.items() for name, value in values.items()}
    about = made | {DIGEST: state_digest(dict(sorted(flat.items())))}
    write_atomically(cache, lambda path: save_file(flat, path, about))
    return codes


def _read(cache: Path, made: dict[str, str]) -> Codes | None:
    try:
        with safetensors.safe_open(cache, "pt") as file:
            about = dict(file.metadata() or {})
            digest = about.pop(DIGEST, None)
            if about != made:
                return None
            flat = {key: file.get_tensor(key) for key in sorted(file.keys())}
    except (OSError, safetensors.SafetensorError):  # not there, or cut short: made anew
        return None
    if digest != state_digest(flat) or not any(key.startswith("train/") for key in flat):
        logger.warning("%s is not as it was written: the codes are made anew", cache)
        return None
    codes: Codes = {}
    for key, value in flat.items():
        part, _, name = key.partition("/")
        codes.setdefault(part, {})[name] = value
    return codes


@torch.no_grad()
def extract_codes(
    model: nn.Module, guide: nn.Module, split: Split, sites: Sequence[str], progress: bool = False, draws: int = 0
) -> dict[str, Tensor]:
    """The guide's codes of every datum, by site, and what priors are given beside: labels ``y``, if the data have
    them, and what the model makes of its context (``prior_context``, if it has such a method).

    Args:
        model, guide: programs.
        split: N data.
        sites: of codes.
        progress: show a bar.
        draws: of every datum's codes from the guide, int32 ``(N, draws, *grid)``, the sites of a draw together. 0:
            codes that the guide draws are taken at the mode of its distribution, the most probable ones, int64
            ``(N, *grid)``.

    Raises:
        InputError: if the data are not those of the programs, such a distribution has no mode, or draws are wanted of a
            guide that draws none.
    """
    parts: dict[str, list[Tensor]] = {}
    device = "cuda" if torch.cuda.is_available() else split.device
    programs = [program.to(device) for program in as_programs(model.eval(), guide.eval())]
    check_data(*programs, split.to(device))
    given = getattr(unwrapped(programs[0]), "prior_context", lambda **_: {})
    rows = max(1, min(BATCH, MOST_NUMBERS // math.prod(split.shape)) // max(1, draws))
    with private_seed(0, split.device), tqdm(total=len(split), unit="datum", disable=not progress) as bar:
        for batch in split.batches(rows):
            if "y" in batch and batch["y"].dtype == torch.int64:
                parts.setdefault("y", []).append(batch["y"].cpu())
            size = len(batch[X])
            batch = {name: value.to(device) for name, value in batch.items()}
            context = {name: value for name, value in batch.items() if name != X}
            for name, value in given(**context).items():
                parts.setdefault(name, []).append(value.cpu())
            if draws:
                batch = {name: value.repeat_interleave(draws, 0) for name, value in batch.items()}  # (B * draws, ...)
            with nullcontext() if draws else _AtMode(sites):
                trace = poutine.trace(programs[1]).get_trace(**batch)
            if draws and all(is_point_mass(trace.nodes[name]["fn"]) for name in sites):
                raise InputError(
                    f"draws={draws}: the guide is certain of {', '.join(sites)}, all draws would be the same; "
                    "leave draws out, and the codes themselves are taken"
                )
            for name in sites:
                value = trace.nodes[name]["value"].cpu()
                value = value.unflatten(0, (size, draws)).to(torch.int32) if draws else value
                parts.setdefault(name, []).append(value)
            bar.update(size)
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


TOKENIZER = "tokenizer.json"


@dataclass
class TextOptions:
    """How the captions become texts.

    Args:
        vocabulary_size: most tokens, bytes and padding included; None: the prior is over codes alone.
        text_length: T, tokens that fit; if None, twice as many as the longest caption has.
        dropout: of merges, in training (BPE dropout).
    """

    vocabulary_size: int | None = None
    text_length: int | None = None
    dropout: float = 0.1


def make_tokenizer(file: Path, data: Data, vocabulary_size: int, text_length: int | None = None) -> Tokenizer:
    """The tokenizer in a file; if there is none, one that is learned from the training captions (and not saved yet).

    Raises:
        InputError: if the data have no captions, or the one that is there was made with other options.
    """
    if data.train.captions is None:
        raise InputError(
            f"{data.name}: the data have no captions that a prior over texts could learn; leave text.vocabulary_size "
            "out, or give the images captions (docs/data.md)"
        )
    if not file.is_file():
        return Tokenizer.train(data.train.captions, vocabulary_size=vocabulary_size, text_length=text_length)
    tokenizer = Tokenizer.load(file)
    if tokenizer.vocabulary_size > vocabulary_size or text_length not in (None, tokenizer.text_length):
        raise InputError(
            f"{file} has {tokenizer.vocabulary_size} tokens and texts of {tokenizer.text_length}, for all priors of "
            "the run: give text.vocabulary_size and text.text_length that fit, or remove it and the priors that use it"
        )
    return tokenizer


def sizes_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a prior over texts is built with."""
    return {"text_length": tokenizer.text_length, "num_words": tokenizer.vocabulary_size}


def saved(file: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Save a tokenizer where there is none; its sizes, and the digest that tells it from others."""
    if not file.is_file():
        tokenizer.save(file)
        logger.info("%s: %d tokens, texts of %d", file, tokenizer.vocabulary_size, tokenizer.text_length)
    return sizes_of(tokenizer) | {"digest": digest_of(file)}


def check_tokenizer(file: Path, facts: dict[str, Any], of: Path) -> None:
    """Check that a tokenizer is the one that something was trained with.

    Raises:
        InputError: if it is missing, or another.
        CorruptFileError: if the facts are none.
    """
    if not file.is_file():
        raise InputError(f"{file} is missing, the tokenizer that {of} was trained with")
    for name, most in (("text_length", LONGEST), ("num_words", MOST_TOKENS)):
        size = facts.get(name) if isinstance(facts, Mapping) else None
        if type(size) is not int or not 1 <= size <= most:
            raise CorruptFileError(
                f"{of}: the configuration's section 'tokenizer' should say {name}, an integer from 1 to {most:,}, but "
                f"says {str(size)[:80]}"
            )
    if digest_of(file) != facts.get("digest"):
        raise InputError(f"{file} is another tokenizer than {of} was trained with: put that one back, or train anew")
