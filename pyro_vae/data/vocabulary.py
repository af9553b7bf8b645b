"""Texts as sequences of tokens: words, characters or byte pairs, learned from the training texts."""

from __future__ import annotations

import copy
import logging
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.split import Split
from pyro_vae.data.tokenizer import FEWEST, Tokenizer, normalized
from pyro_vae.data.tokens import END, LONGEST, MOST_TOKENS, Tokens, lengths_of
from pyro_vae.errors import InputError, positive, unknown

if TYPE_CHECKING:
    from typing import Self

logger = logging.getLogger(__name__)

Kind = Literal["words", "characters", "byte-pairs"]
UNKNOWN, UNKNOWN_WORD, UNKNOWN_CHARACTER = 1, "<unk>", "\ufffd"  # the token of what the vocabulary has not
FIRST = 2  # the number of the first token that stands for something
BYTE_PAIRS = 1024  # most tokens that are learned, if nothing is said

_LETTER = "(?:\\w|[^\\x00-\\u02ff\\u2000-\\u2bff\\u3000-\\u303f\\U0001f000-\\U0001faff\\s])"  # and marks, of any script
WORD = re.compile(f"<unk>|\\d+(?:[.,]\\d+)+(?!{_LETTER})|{_LETTER}+(?:['’-]{_LETTER}+)*|\\S")
CLOSING, OPENING, QUOTE = frozenset(".,;:!?%)]}'’”»…"), frozenset("([{“«$£€"), '"'


class Vocabulary(Tokens):
    """Texts as sequences of tokens, of one of three kinds; :meth:`learn` makes it of training texts.

    ========== ============================================== ========================== ==============================
    kind       tokens                                         token 1                    what cannot be written
    ========== ============================================== ========================== ==============================
    words      words, numbers, and each punctuation mark      ``<unk>``, an unknown word unknown words: as ``<unk>``
    characters single characters, the space among them        an unknown character       unknown characters: as U+FFFD
    byte-pairs pieces of words (Sennrich et al. 2016), bytes  one of them                nothing: every text has bytes
    ========== ============================================== ========================== ==============================

    A text has single spaces, characters that look alike made one (Unicode's NFKC), and is in lower case, unless it is
    learned with ``lower=False``. ``decode(encode(text))`` is the text so normalized; of words with the usual spaces
    around punctuation. What is unknown is counted, and the log says it.

    Args:
        length: T, integers of a sequence: the longest text's tokens and an end.
        lower: texts are in lower case.

    Source: Sennrich et al. 2016, arXiv:1508.07909 (byte pairs).

    Example:
        >>> from pyro_vae.data import Vocabulary
        >>> words = Vocabulary.learn(["A red circle.", "A red, red square."])
        >>> words.num_tokens, words.length
        (8, 7)
        >>> words.encode(["a red square", "a circle."])
        tensor([[4, 2, 7, 0, 0, 0, 0],
                [4, 6, 3, 0, 0, 0, 0]])
        >>> words.decode(words.encode(["A square, red ."]))
        ['a square, red.']
    """

    def __init__(self, length: int, lower: bool) -> None:
        self.length, self.lower = length, lower

    @staticmethod
    def learn(
        texts: Sequence[str],
        *,
        kind: Kind = "words",
        max_length: int | None = None,
        num_words: int | None = None,
        min_count: int = 1,
        lower: bool = True,
    ) -> Vocabulary:
        """Learn a vocabulary.

        Args:
            texts: of the training data.
            kind: of tokens.
            max_length: most tokens of a text; if None, those of the longest one.
            num_words: most words (or characters) that are kept, the most frequent ones; of byte pairs, most tokens,
                1,024 if it is None.
            min_count: words (or characters) that occur less often are unknown.
            lower: write all in lower case; byte pairs are always.

        Raises:
            InputError: for no texts or an empty one, one that is longer than ``max_length``, for what no vocabulary can
                be learned with, and for byte pairs without the library ``tokenizers``.
        """
        check_learning(kind, max_length, num_words, min_count, lower)
        if not texts:
            raise InputError("there are no texts to learn a vocabulary from")
        check_texts(texts)
        found: Vocabulary
        if kind == "byte-pairs":
            found = BytePairVocabulary(Tokenizer.train(texts, vocabulary_size=num_words or BYTE_PAIRS), FIRST)
        else:
            cls = WordVocabulary if kind == "words" else CharacterVocabulary
            counts = Counter(chain.from_iterable(cls.pieces(normalized(text, lower=lower)) for text in texts))
            counts.pop(cls.strange, None)
            known = [piece for piece, count in sorted(counts.items(), key=_rank) if count >= min_count]
            found = cls(known[: min(num_words or MOST_TOKENS, MOST_TOKENS - FIRST)], FIRST, lower)
        counted = list(map(len, found.numbers(texts)))
        found = found.with_max_length(max(counted) if max_length is None else max_length)
        for text, count in zip(texts, counted, strict=True):
            found.check_fits(text, count)
        return found

    def with_max_length(self, most: int) -> Self:
        """The vocabulary for texts of up to so many tokens; T is one more, for the end."""
        other = copy.copy(self)
        other.length = _within("max_length", most, LONGEST) + 1
        return other

    @abstractmethod
    def numbers(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, however many they are, without an end."""

    @abstractmethod
    def joined(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""

    @abstractmethod
    def strangers(self, texts: Iterable[str]) -> Counter[str]:
        """What the vocabulary has not, with how often it occurs in texts."""

    def encode(self, things: Sequence[str]) -> Tensor:
        """Texts as tokens; the log says what the vocabulary does not have.

        Args:
            things: N texts.

        Returns:
            int64 ``(N, T)``, padded with 0, which is also the end.

        Raises:
            InputError: for an empty text, and one of more than T - 1 tokens (names it).
        """
        check_texts(things)
        rows = self.numbers(things)
        for text, row in zip(things, rows, strict=True):
            self.check_fits(text, len(row))
        self.say_unknown(things)
        return self.padded(rows)

    def check_fits(self, text: str, count: int, remedy: str = "shorten it") -> None:
        """Check that a text of so many tokens fits.

        Raises:
            InputError: names the text, and what to do.
        """
        if count >= self.length:
            raise InputError(
                f"'{short(text)}' is too long: it has {count:,} tokens ({self.kind}), but {self.length - 1:,} fit; "
                f"{remedy}"
            )

    def say_unknown(self, texts: Iterable[str], name: str = "texts") -> None:
        """Tell the log what of texts the vocabulary does not have."""
        found = self.strangers(texts)
        if found:
            said = ", ".join(f"'{short(piece)}'" for piece, _ in found.most_common(5))
            what = "words" if self.kind == "words" else "characters"
            become = "are written by their bytes" if self.kind == "byte-pairs" else f"become token {UNKNOWN}"
            logger.info(
                "%s: %s %s (%s%s) are not in the vocabulary, and %s",
                *(name, f"{found.total():,}", what, said, ", …" if len(found) > 5 else "", become),
            )

    def padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Rows of at most T - 1 tokens as int64 ``(N, T)``."""
        padded = np.full((len(rows), self.length), END, np.int64)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        return torch.from_numpy(padded)

    def decode(self, tokens: Tensor) -> list[str]:
        """Tokens as texts.

        Args:
            tokens: integers ``(N, T)`` of any T; what stands behind the first 0 is not looked at.

        Raises:
            InputError: for numbers that are no tokens.
        """
        if tokens.dim() != 2 or tokens.is_floating_point():
            raise InputError(f"tokens must be integers (N, T), got {tokens.dtype} {tuple(tokens.shape)}")
        rows = [row[:length] for row, length in zip(tokens.tolist(), lengths_of(tokens).tolist(), strict=True)]
        for place, row in enumerate(rows):
            if row and not (min(row) > END and max(row) < self.num_tokens):
                raise InputError(f"text {place + 1} has numbers outside 0 … {self.num_tokens - 1}, which are no tokens")
        return [self.joined(row) for row in rows]

    def describe(self, train: Split) -> str:
        """How many tokens there are, how long the texts are, and what of them is unknown."""
        x = train.column("x")
        lengths = lengths_of(x)
        line = (
            f"texts as {self.kind}: {self.num_tokens:,} tokens with the end; {lengths.double().mean():.1f} of them a "
            f"text on average, at most {self.length - 1:,} fit"
        )
        if self.kind == "byte-pairs":
            return line
        share = int((x == UNKNOWN).sum()) / max(1, int(lengths.sum()))
        return f"{line}; {share:.2%} of the training {self.kind} are unknown"


class PieceVocabulary(Vocabulary):
    """A vocabulary that is a list of pieces, beside the end and what is unknown.

    Args:
        known: the pieces, whose numbers are 2, 3, …
        length, lower: as for :class:`Vocabulary`.
    """

    strange: str  # what stands for token 1 in a text

    def __init__(self, known: Sequence[str], length: int, lower: bool) -> None:
        super().__init__(length, lower)
        self.names = (None, self.strange, *known)
        self.places = {piece: number for number, piece in enumerate(known, FIRST)}
        self.num_tokens = FIRST + len(known)

    @staticmethod
    @abstractmethod
    def pieces(text: str) -> Sequence[str]:
        """The pieces of a normalized text."""

    def numbers(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, however many they are, without an end."""
        find = self.places.get
        return [[find(piece, UNKNOWN) for piece in self.pieces(normalized(text, lower=self.lower))] for text in texts]

    def strangers(self, texts: Iterable[str]) -> Counter[str]:
        """Pieces that the vocabulary has not, with how often they occur in texts."""
        every = chain.from_iterable(self.pieces(normalized(text, lower=self.lower)) for text in texts)
        return Counter(piece for piece in every if piece not in self.places)

    def plain(self) -> dict[str, Any]:
        """Kind, length, lower case or not, and the pieces in order."""
        return {"kind": self.kind, "length": self.length, "lower": self.lower, "tokens": list(self.names[FIRST:])}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`plain` gave."""
        length, lower, known = _length(values), values["lower"], values["tokens"]
        if not isinstance(lower, bool) or not isinstance(known, list) or len(known) > MOST_TOKENS - FIRST:
            raise ValueError(f"lower is true or false, and tokens a list of up to {MOST_TOKENS - FIRST:,} texts")
        if not all(isinstance(piece, str) and piece for piece in known) or len({*known}) < len(known):
            raise ValueError("tokens must be texts, none of them empty, each once")
        "".join(known).encode()  # halves of characters, which JSON may hold, could be neither printed nor written
        return cls(known, length, lower)


class WordVocabulary(PieceVocabulary):
    """Words, numbers and punctuation marks; see :class:`Vocabulary`."""

    kind, strange = "words", UNKNOWN_WORD

    @staticmethod
    def pieces(text: str) -> Sequence[str]:
        """Words, with apostrophes and hyphens inside them; numbers; each other mark by itself."""
        return WORD.findall(text)

    def joined(self, tokens: Sequence[int]) -> str:
        """Words with single spaces, none before a closing mark or behind an opening one."""
        text, tight, quoted = [], True, False
        for word in (self.names[number] for number in tokens):
            opening = word in OPENING or (word == QUOTE and not quoted)
            closing = word in CLOSING or (word == QUOTE and quoted)
            text += [word] if tight or closing else [" ", word]
            tight, quoted = opening, quoted ^ (word == QUOTE)
        return "".join(text)


class CharacterVocabulary(PieceVocabulary):
    """Single characters; see :class:`Vocabulary`."""

    kind, strange = "characters", UNKNOWN_CHARACTER

    @staticmethod
    def pieces(text: str) -> Sequence[str]:
        """The characters of a text."""
        return text

    def joined(self, tokens: Sequence[int]) -> str:
        """The characters one after another."""
        return "".join(self.names[number] for number in tokens)


class BytePairVocabulary(Vocabulary):
    """Pieces of words that were learned, and all bytes; see :class:`Vocabulary`.

    Args:
        tokenizer: what was learned.
        length: as for :class:`Vocabulary`.
    """

    kind = "byte-pairs"

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        super().__init__(length, lower=True)
        self.tokenizer, self.num_tokens = tokenizer, tokenizer.vocabulary_size

    def numbers(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, however many they are, without an end."""
        return self.tokenizer.numbers(texts)

    def joined(self, tokens: Sequence[int]) -> str:
        """The text of some tokens; bytes that are no UTF-8 become U+FFFD."""
        return self.tokenizer.library.decode(list(tokens)).strip()

    def strangers(self, texts: Iterable[str]) -> Counter[str]:
        """Characters that no training text has, with how often they occur."""
        every = chain.from_iterable(map(normalized, texts))
        return Counter(character for character in every if character not in self.tokenizer.characters)

    def plain(self) -> dict[str, Any]:
        """Kind, length, and the tokenizer's vocabulary, merges and characters."""
        body = self.tokenizer.plain()
        model = {key: body["tokenizer"]["model"][key] for key in ("vocab", "merges")}
        body = {"format": body["format"], "characters": body["characters"], "tokenizer": {"model": model}}
        return {"kind": self.kind, "length": self.length, "tokenizer": body}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`plain` gave."""
        length = _length(values)
        return cls(Tokenizer.from_plain({**values["tokenizer"], "text_length": length - 1}), length)


def check_learning(kind: str, max_length: int | None, num_words: int | None, min_count: int, lower: bool) -> None:
    """Check the options of :meth:`Vocabulary.learn`.

    Raises:
        InputError: names the option.
    """
    if kind not in get_args(Kind):
        raise unknown("vocabulary", str(kind), get_args(Kind))
    if max_length is not None:
        _within("max_length", max_length, LONGEST)
    if num_words is not None:
        _within("num_words", num_words, MOST_TOKENS)
    positive("min_count", min_count)
    if kind == "byte-pairs":
        if num_words is not None and num_words < FEWEST:
            raise InputError(
                f"num_words of byte pairs must be at least {FEWEST} (256 bytes and the end), got {num_words}"
            )
        if min_count != 1 or not lower:
            raise InputError("byte pairs are of lower-case texts, and have no min_count; leave out min_count and lower")


def check_texts(texts: Sequence[str], name: str = "text") -> None:
    """Check that texts are such, and none is empty.

    Raises:
        InputError: names the first that is not.
    """
    if isinstance(texts, str):
        raise InputError("texts must be a list of texts, got one text; write [text]")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{name} {place + 1} of {len(texts)} is no text but {type(text).__name__}")
        if not text.strip():
            raise InputError(f"{name} {place + 1} of {len(texts)} is empty")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f"{name} {place + 1} of {len(texts)} has halves of characters (\\ud800 to \\udfff)")


def short(text: str) -> str:
    """A text as errors show it: at most 60 characters of it."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def _within(name: str, value: int, most: int) -> int:
    if positive(name, value) > most:
        raise InputError(f"{name} must be at most {most:,}, got {value:,}")
    return value


def _length(values: Mapping[str, Any]) -> int:
    length = values["length"]
    if type(length) is not int or not FIRST <= length <= LONGEST + 1:
        raise ValueError(f"length must be an integer from {FIRST} to {LONGEST + 1:,}")
    return length


def _rank(entry: tuple[str, int]) -> tuple[int, str]:
    """The most frequent first; of these, in the order of the alphabet."""
    return -entry[1], entry[0]
