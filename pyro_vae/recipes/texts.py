"""The tokenizer of a run: made of the training captions, once, and saved with the run's priors."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vae.data import Data, Tokenizer
from pyro_vae.errors import InputError
from pyro_vae.recipes.codes import digest

TOKENIZER = "tokenizer.json"
logger = logging.getLogger(__name__)


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
    if data.captions is None:
        raise InputError(
            f"{data.name}: the data have no captions that a prior over texts could learn; leave text.vocabulary_size "
            "out, or give the images captions (docs/data.md)"
        )
    if not file.is_file():
        return Tokenizer.train(data.captions["train"], vocabulary_size=vocabulary_size, text_length=text_length)
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
    return sizes_of(tokenizer) | {"digest": digest(file)}


def check_tokenizer(file: Path, facts: dict[str, Any], of: Path) -> None:
    """Check that a tokenizer is the one that something was trained with.

    Raises:
        InputError: if it is missing, or another.
    """
    if not file.is_file():
        raise InputError(f"{file} is missing, the tokenizer that {of} was trained with")
    if digest(file) != facts["digest"]:
        raise InputError(f"{file} is another tokenizer than {of} was trained with: put that one back, or train anew")
