"""Data with captions, as data with tokens."""

from __future__ import annotations

from dataclasses import replace

from pyro_vae.data.data import Data
from pyro_vae.data.parts import PARTS
from pyro_vae.data.split import Split
from pyro_vae.data.tokenizer import Tokenizer
from pyro_vae.errors import InputError

KEY = "text"


def with_text(data: Data, tokenizer: Tokenizer, *, dropout: float = 0.0, num_variants: int = 8, seed: int = 0) -> Data:
    """Give every datum its caption as ``text``, int64 ``(T,)``, padded with 0.

    With BPE dropout, training captions are tokenized several times beforehand, and a batch has one of a caption's
    tokenizations, drawn anew whenever the datum is seen. So training costs no more, stays on the device, and
    is a function of the seed; validation and test captions have their usual tokens.

    Args:
        data: with captions.
        tokenizer: of the training captions.
        dropout: of merges, 0.1 in the literature; 0 for none.
        num_variants: tokenizations of a training caption, the usual one among them, if there is dropout.
        seed: of their draws.

    Raises:
        InputError: for data without captions, a caption that does not fit, and what
            :meth:`Tokenizer.encode_variants` refuses.

    Source: Provilkov et al. 2020, arXiv:1910.13267; Ramesh et al. 2021, arXiv:2102.12092 (10%).
    """
    if data.captions is None:
        raise InputError(
            f"{data.name}: the data have no captions; see docs/data.md for how a folder of images has them"
        )
    splits: dict[str, Split] = {}
    for part in PARTS:
        split: Split | None = getattr(data, part)
        if split is not None:
            captions = data.captions[part]
            several = bool(dropout) and part == "train"
            text = tokenizer.encode_variants(captions, num_variants if several else 1, dropout=dropout, seed=seed)
            splits[part] = split.with_variants({KEY: text.to(split.device)})
    return replace(data, **splits)
