"""The file that says what a run's tokens stand for, read without trust."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae.data.music.melody import Melody
from pyro_vae.data.tokens import MOST_TOKENS, Tokens
from pyro_vae.data.vocabulary import BytePairVocabulary, CharacterVocabulary, WordVocabulary
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_atomically
from pyro_vae.runtime import check_room

KINDS: dict[str, type[Tokens]] = {
    cls.kind: cls for cls in (WordVocabulary, CharacterVocabulary, BytePairVocabulary, Melody)
}
FORMAT = "pyro_vae tokens 1"
MOST_BYTES = 1 << 26  # of a file
IN_MEMORY = 12  # bytes for one of the file, a third of what lists of nothing take


def token_facts(tokens: Tokens) -> dict[str, Any]:
    """What a configuration says of tokens: their kind, how many they are, and the digest of all that the file says.

    Raises:
        InputError: for tokens of a class that no file can be of.
    """
    if KINDS.get(tokens.kind) is not type(tokens):
        raise InputError(f"{type(tokens).__name__}: a run keeps tokens of these kinds alone: {', '.join(KINDS)}")
    return {"kind": tokens.kind, "num_tokens": tokens.num_tokens, "digest": tokens.digest}


def checked_facts(facts: Any) -> dict[str, Any]:
    """What :func:`token_facts` gave, from a file that is not trusted.

    Raises:
        ValueError, KeyError, TypeError: if they are not such.
    """
    kind, count, digest = (facts[key] for key in ("kind", "num_tokens", "digest"))
    if kind not in KINDS or type(count) is not int or not 2 <= count <= MOST_TOKENS or not isinstance(digest, str):
        raise ValueError("tokens have a known kind, a number of them and a digest")
    return {"kind": kind, "num_tokens": count, "digest": digest}


def write_tokens(path: str | Path, tokens: Tokens) -> None:
    """Write the file of some tokens, as JSON.

    Raises:
        InputError: if it cannot be written, or is too large to be read again.
    """
    content = json.dumps({"format": FORMAT, **tokens.plain()}, indent=1) + "\n"
    if len(content) > MOST_BYTES:
        raise InputError(
            f"the vocabulary is too large to be saved: {len(content):,} bytes; keep fewer words (num_words)"
        )
    write_atomically(path, lambda file: file.write_text(content, encoding="utf-8"))


def read_tokens(path: str | Path, facts: Mapping[str, Any] | None = None) -> Tokens:
    """Read a file that :func:`write_tokens` wrote; no code is run.

    Args:
        path: of the file.
        facts: what the configuration beside it says of the tokens.

    Raises:
        InputError: if there is no such file, or its values would not fit the memory.
        CorruptFileError: if it is damaged, of another format, or not the one that the facts are of.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; it says what the run's tokens stand for: put it back, from a copy")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
        check_room(path, IN_MEMORY * path.stat().st_size, "the file is no vocabulary that one learns")
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format '{str(values['format'])[:80]}'")
        if values["kind"] not in KINDS:
            raise ValueError(f"kind '{str(values['kind'])[:80]}'")
        tokens = KINDS[values["kind"]].from_plain(values)
    except InputError:
        raise  # a library that is missing, or memory
    except Exception as error:  # of the file, of JSON, of its values, of the library of byte pairs
        raise CorruptFileError(f"{path}: no usable vocabulary ({error})") from error
    if facts is not None and token_facts(tokens) != dict(facts):
        raise CorruptFileError(f"{path} is not the one that the run was begun with: put that back, from a copy")
    return tokens
