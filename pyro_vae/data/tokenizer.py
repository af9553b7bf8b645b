"""Captions as tokens: byte-level byte-pair encoding, learned from the training captions."""

from __future__ import annotations

import json
import math
import random
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.dataset import Data
from pyro_vae.data.split import Split
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_atomically

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

POOL = 64  # tokenizations drawn of a word; captions take from them


class BytePairs:
    """Byte-pair encoding with dropout, of a seed (the library's own has none).

    Args:
        model: the entry ``model`` of a tokenizer of the library ``tokenizers``, as JSON: vocabulary and merges.

    Source: Provilkov et al. 2020, arXiv:1910.13267, algorithm 1.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.numbers: dict[str, int] = model["vocab"]
        self.ranks = {(a, b): rank for rank, (a, b) in enumerate(model["merges"])}

    def merge(self, word: str, dropout: float, generator: Random) -> list[int]:
        """The tokens of one word.

        At every step each pair of neighbours that could be merged is left out with probability ``dropout``; of the
        others the one that was learned first is merged, the leftmost if there are several.
        """
        tokens = list(word)
        while len(tokens) > 1:
            best, at = math.inf, -1
            for place, pair in enumerate(pairwise(tokens)):
                rank = self.ranks.get(pair, math.inf)
                if rank < best and (dropout == 0 or generator.random() >= dropout):
                    best, at = rank, place
            if at < 0:
                break
            tokens[at : at + 2] = [tokens[at] + tokens[at + 1]]
        return [self.numbers[token] for token in tokens]

    def dropped_out(
        self, captions: Sequence[Sequence[str]], num_variants: int, dropout: float, generator: Random
    ) -> Iterator[tuple[tuple[int, int], list[int]]]:
        """Tokens of captions, given as words: ``((caption, variant), tokens)`` of each variant of each caption.

        A word's tokenizations are drawn when they are needed, but no more than 64: later ones are drawn from these.
        """
        drawn: dict[str, list[list[int]]] = defaultdict(list)
        for caption, words in enumerate(captions):
            for variant in range(num_variants):
                row: list[int] = []
                for word in words:
                    pool = drawn[word]
                    if len(pool) < POOL:
                        pool.append(self.merge(word, dropout, generator))
                        row += pool[-1]
                    else:
                        row += pool[int(generator.random() * POOL)]
                yield (caption, variant), row


PAD, PAD_TOKEN = 0, "<pad>"
FEWEST = 257  # tokens: all bytes, and the padding
FORMAT = "pyro_vae tokenizer 1"
MOST_BYTES, MOST_TOKENS, LONGEST = 1 << 26, 1 << 20, 1 << 16  # of a file; of a vocabulary; of a text, in tokens


class Tokenizer:
    """Captions to token numbers and back: lower case, single spaces, byte-pair encoding of words.

    A word starts with its space, so that it has the same tokens wherever it stands. As the smallest tokens are all 256
    bytes, every text can be encoded. The vocabulary's tokens are 1 … vocabulary_size - 1; 0 is the padding.

    Args:
        library: the tokenizer of the library ``tokenizers``.
        text_length: T, tokens that fit.
        characters: all that occurred in the training captions.

    Source: Sennrich et al. 2016, arXiv:1508.07909 (byte-pair encoding); Provilkov et al. 2020, arXiv:1910.13267
    (BPE dropout).
    """

    def __init__(self, library: Library, text_length: int, characters: str) -> None:
        self.library, self.text_length, self.characters = library, text_length, frozenset(characters)
        library.encode_special_tokens = True  # "<pad>" in a caption is text, and no padding
        self._pairs = BytePairs(json.loads(library.to_str())["model"])

    @classmethod
    def train(
        cls, captions: Sequence[str], *, vocabulary_size: int = 1024, text_length: int | None = None
    ) -> Tokenizer:
        """Learn a vocabulary.

        Args:
            captions: of the training data.
            vocabulary_size: most tokens, padding and bytes included; fewer if the captions have no more pairs to merge.
            text_length: T, tokens that fit; if None, twice as many as the longest caption has: with 10% BPE dropout
                captions of scenes become half as long again, and a tenth of the longest ones does not fit even so.

        Raises:
            InputError: for a vocabulary that cannot hold all bytes, empty captions or none, a caption longer than
                ``text_length``, and without the library ``tokenizers`` (what to install).
        """
        if vocabulary_size < FEWEST:
            raise InputError(
                f"vocabulary_size must be at least {FEWEST} (256 bytes and the padding), got {vocabulary_size}"
            )
        if vocabulary_size > MOST_TOKENS:
            raise InputError(f"vocabulary_size must be at most {MOST_TOKENS:,}, got {vocabulary_size}")
        if text_length is not None and not 1 <= text_length <= LONGEST:
            raise InputError(f"text_length must be an integer from 1 to {LONGEST:,}, got {text_length}")
        if not captions:
            raise InputError("there are no captions to learn a vocabulary from")
        _check_not_empty(captions)
        library = _learn(captions, vocabulary_size)
        texts = {normalized(caption) for caption in captions}
        if text_length is None:
            longest = max(len(encoding.ids) for encoding in library.encode_batch(list(texts)))
            text_length = min(2 * longest, LONGEST)
        tokenizer = cls(library, text_length, "".join(sorted(set("".join(texts)))))
        tokenizer.encode(list(texts))
        return tokenizer

    @property
    def vocabulary_size(self) -> int:
        """Tokens, padding included: what an embedding needs."""
        return self.library.get_vocab_size()

    def encode(self, texts: Sequence[str], *, new_characters: bool = False) -> Tensor:
        """Captions as tokens.

        Args:
            texts: N captions.
            new_characters: let characters pass that are in no training caption. They have tokens (their bytes), but no
                model has learned what these mean.

        Returns:
            int64 ``(N, T)``, padded with 0 at the end.

        Raises:
            InputError: for an empty text, one that has more tokens than fit (and how many), and new characters.
        """
        if not new_characters:
            self._check_characters(texts)
        rows = self.numbers(texts)
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self.text_length:
                raise InputError(
                    f"'{_short(text)}' is too long: it has {len(row)} tokens, but {self.text_length} fit (text_length)"
                )
        return self._padded(rows)

    def numbers(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, however many they are; new characters have those of their bytes.

        Raises:
            InputError: for an empty text.
        """
        _check_not_empty(texts)
        return [encoding.ids for encoding in self.library.encode_batch([normalized(text) for text in texts])]

    def encode_variants(
        self, texts: Sequence[str], num_variants: int, *, dropout: float = 0.1, seed: int = 0
    ) -> Tensor:
        """Captions in several tokenizations each: the usual one, and others by BPE dropout.

        In those, every merge is left out with probability ``dropout`` at every step. A tokenization of more than T
        tokens is replaced by the usual one.

        Args:
            texts: N captions, which may have new characters.
            num_variants: M.
            dropout: probability, from 0 to 1.
            seed: of the draws.

        Returns:
            int32 ``(N, M, T)``.

        Raises:
            InputError: as :meth:`encode`; for a dropout outside [0, 1], and less than one variant.
        """
        if not 0 <= dropout <= 1:
            raise InputError(f"dropout must be from 0 to 1, got {dropout}")
        if num_variants < 1:
            raise InputError(f"num_variants must be a positive integer, got {num_variants}")
        usual = self.encode(texts, new_characters=True)
        result = usual.int().unsqueeze(1).repeat(1, num_variants, 1)  # (N, M, T)
        words = [self._words(text) for text in texts]
        drawn = self._pairs.dropped_out(words, num_variants - 1, dropout, random.Random(seed))
        where, rows = [], []
        for place, row in drawn:
            if len(row) <= self.text_length:
                where.append(place), rows.append(row)
        if rows:
            datum, variant = torch.tensor(where).unbind(1)
            result[datum, variant + 1] = self._padded(rows).int()
        return result

    def decode(self, text: Tensor) -> list[str]:
        """Tokens ``(N, T)`` as captions, for display; bytes that are no UTF-8 become the replacement character."""
        texts = self.library.decode_batch([[i for i in row if i != PAD] for row in text.tolist()])
        return [text.strip() for text in texts]

    def plain(self) -> dict[str, Any]:
        """All of it, as texts, numbers, lists and mappings."""
        body: dict[str, Any] = {"format": FORMAT, "text_length": self.text_length}
        return body | {"characters": "".join(sorted(self.characters)), "tokenizer": json.loads(self.library.to_str())}

    @classmethod
    def from_plain(cls, body: Mapping[str, Any]) -> Tokenizer:
        """What :meth:`plain` gave, made anew of values that are not trusted; of the library's settings only vocabulary
        and merges are taken.

        Raises:
            Exception: of any class, if they are not such: the library's errors have no class of their own.
        """
        if body["format"] != FORMAT:
            raise ValueError(f"format '{str(body['format'])[:80]}'")
        length, characters = body["text_length"], body["characters"]
        if type(length) is not int or not 1 <= length <= LONGEST or not isinstance(characters, str):
            raise ValueError(f"text_length must be an integer from 1 to {LONGEST:,}, and characters a text")
        return cls(_from_model(body["tokenizer"]["model"]), length, characters)

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        body = self.plain()
        write_atomically(path, lambda file: file.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a file that :meth:`save` wrote. No code is run; of the library's settings only vocabulary and merges are
        taken, as others can make it abort the process.

        Raises:
            InputError: if there is none, or without the library ``tokenizers``.
            CorruptFileError: if it is damaged, or of another format.
        """
        _library()
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; it is written when a model of captions is trained")
        try:
            if Path(path).stat().st_size > MOST_BYTES:
                raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
            return cls.from_plain(json.loads(Path(path).read_text(encoding="utf-8")))
        except Exception as error:  # the library's errors have no class of their own
            raise CorruptFileError(f"{path}: no usable tokenizer ({error})") from error

    def _words(self, text: str) -> list[str]:
        """The words of a caption, their bytes written as the library's characters."""
        return [word for word, _ in self.library.pre_tokenizer.pre_tokenize_str(normalized(text))]

    def _padded(self, rows: list[list[int]]) -> Tensor:
        padded = np.full((len(rows), self.text_length), PAD, np.int64)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        return torch.from_numpy(padded)

    def _check_characters(self, texts: Sequence[str]) -> None:
        for text in texts:
            new = sorted(set(normalized(text)) - self.characters)
            if new:
                raise InputError(
                    f"'{_short(text)}' has {', '.join(map(repr, new))}, which is in no caption of the training data: a "
                    "model cannot know what it means; write it otherwise"
                )


def normalized(text: str, *, lower: bool = True) -> str:
    """A text with single spaces, characters that look alike made one (Unicode's NFKC), and in lower case."""
    text = unicodedata.normalize("NFKC", text)
    return " ".join((text.lower() if lower else text).split())


def _check_not_empty(texts: Sequence[str]) -> None:
    for place, text in enumerate(texts):
        if not text.strip():
            raise InputError(f"text {place + 1} of {len(texts)} is empty: describe the picture in words")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _empty(**model: Any) -> Library:
    """A tokenizer of the library, of words of bytes."""
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE(**model))
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = library.decoders.ByteLevel()
    return tokenizer


def _from_model(model: Any) -> Library:
    """A tokenizer of a vocabulary and merges that come from a file.

    Raises:
        ValueError: if they are not such as are learned.
    """
    vocab, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    if not isinstance(vocab, dict) or not isinstance(merges, list) or not FEWEST <= len(vocab) <= MOST_TOKENS:
        raise ValueError(f"a vocabulary has {FEWEST} to {MOST_TOKENS:,} tokens, and a list of merges")
    numbers = vocab.values()
    if not all(type(number) is int for number in numbers) or sorted(numbers) != list(range(len(vocab))):
        raise ValueError(f"the tokens' numbers must be 0 to {len(vocab) - 1}, each once")
    if vocab.get(PAD_TOKEN) != PAD or not vocab.keys() >= set(_library().pre_tokenizers.ByteLevel.alphabet()):
        raise ValueError(f"token {PAD} must be {PAD_TOKEN}, and every byte a token")
    for pair in merges:
        if not isinstance(pair, list) or [type(each) for each in pair] != [str, str]:
            raise ValueError("a merge is of two texts")
        if not vocab.keys() >= {*pair, "".join(pair)}:
            raise ValueError("a merge is of two tokens, and makes one")
    tokenizer = _empty(vocab=vocab, merges=[tuple(pair) for pair in merges])
    tokenizer.add_special_tokens([PAD_TOKEN])
    return tokenizer


def _learn(captions: Sequence[str], vocabulary_size: int) -> Library:
    library, tokenizer = _library(), _empty()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PAD_TOKEN],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(normalized, captions), trainer)
    return tokenizer


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise InputError(
            "captions need the library tokenizers, which is not installed: pip install 'pyro-vae[text]'"
        ) from error
    return tokenizers


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
    splits: dict[str, Split] = {}
    for part, split in data.splits.items():
        if split.captions is None:
            raise InputError(
                f"{data.name}: the data have no captions; see docs/data.md for how a folder of images has them"
            )
        several = bool(dropout) and part == "train"
        text = tokenizer.encode_variants(split.captions, num_variants if several else 1, dropout=dropout, seed=seed)
        splits[part] = split.with_variants({KEY: text.to(split.device)})
    return replace(data, **splits)
