"""Damaged and hostile files through every door: what comes out is data, or an error of the package."""

import collections
import random
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_files import BYTES, GREY, idx, idx_gz, npy, npz, picture, wav

from pyro_vae.cli.inputs import read_files
from pyro_vae.data import load_data
from pyro_vae.data.sound import Sound
from pyro_vae.data.sources.idx import read_idx
from pyro_vae.errors import CorruptFileError, InputError

NUMBERS = np.arange(40, dtype=np.uint8).reshape(10, 4)
DEEP = (GREY * 65535).astype(np.uint16)
CAPTIONS = b'{"a.png": "a cat"}'


def _image(path):
    read_files([path], (3, 8, 8))
    load_data(str(path.parent))


def _sound(path):
    read_files([path], (1, 64), sound=Sound(6000))
    load_data(str(path.parent), length=64)


def _captions(path):
    (path.parent / "a.png").write_bytes(picture(BYTES, "png"))
    load_data(str(path.parent))


DOORS = {  # kind of file: (its suffix, or its name; right ones; how it is read)
    "png": (".png", [picture(BYTES, "png"), picture(DEEP, "png"), picture(BYTES, "png", "P", transparency=0)], _image),
    "jpg": (".jpg", [picture(BYTES, "jpg")], _image),
    "gif": (".gif", [picture(BYTES, "gif")], _image),
    "tif": (".tif", [picture(BYTES, "tif"), picture(DEEP, "tif"), picture(BYTES, "tif", "CMYK")], _image),
    "pgm": (".pgm", [picture(BYTES, "pgm"), picture(DEEP, "pgm")], _image),
    "wav": (".wav", [wav(bytes(200)), wav(bytes(300), bits=24, sub=1, channels=2)], _sound),
    "npy": (".npy", [npy(NUMBERS), npy(NUMBERS.astype(">f4"))], lambda path: load_data(str(path))),
    "npz": (".npz", [npz(x=npy(NUMBERS), y=npy(np.arange(10)))], lambda path: load_data(str(path))),
    "idx": (".idx", [idx((2, 3), bytes(6)), idx_gz((2, 3), bytes(6))], read_idx),
    "json": ("captions.json", [CAPTIONS, b"[" * 100_000], _captions),
    "txt": ("captions.txt", [b"a.png\ta cat\n"], _captions),
    "a.txt": ("a.txt", [b"a cat\n"], _captions),
}


def damaged(content, rng):
    """Bytes cut, bits flipped, numbers made absurd, pieces doubled, taken out or put in."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        place = rng.randrange(len(content) + 1)
        how = rng.randrange(7)
        if how == 0:
            del content[place:]
        elif how == 1 and place < len(content):
            content[place] ^= 1 << rng.randrange(8)
        elif how == 2:
            number = rng.choice((0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1))
            content[place : place + 4] = struct.pack(rng.choice("<>") + "I", number)
        elif how == 3:
            content[place:place] = content[max(0, place - rng.randrange(64)) : place]
        elif how == 4:
            del content[place : place + rng.randrange(16)]
        elif how == 5:
            content[place:place] = rng.randbytes(rng.randrange(8))
        else:
            content[place : place + 8] = rng.choice((b"9" * 8, b"\0" * 8, b"\xff" * 8, b"-1"))
    return bytes(content)


def outcome(kind, content, folder):
    """What a door says of a file: read, or the error."""
    suffix, _, read = DOORS[kind]
    folder.mkdir()
    path = folder / (f"file{suffix}" if suffix.startswith(".") else suffix)
    path.write_bytes(content)
    try:
        read(path)
    except CorruptFileError as error:
        assert str(folder) in str(error)
        return "corrupt"
    except InputError as error:
        assert str(folder) in str(error)
        return "refused"
    return "read"


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(DOORS)), seed=st.integers(0, 2**32), random_bytes=st.none() | st.binary(max_size=64))
def test_no_file_gets_a_traceback(kind, seed, random_bytes, tmp_path_factory):
    rng = random.Random(seed)
    content = random_bytes if random_bytes is not None else damaged(rng.choice(DOORS[kind][1]), rng)
    outcome(kind, content, tmp_path_factory.mktemp("fuzz") / "data")


@pytest.mark.slow
def test_two_thousand_files(tmp_path, capsys):
    rng = random.Random(0)
    counts = {kind: collections.Counter() for kind in DOORS}
    for i in range(2004):
        kind = list(DOORS)[i % len(DOORS)]
        content = damaged(rng.choice(DOORS[kind][1]), rng)
        counts[kind][outcome(kind, content, tmp_path / str(i))] += 1
    with capsys.disabled():
        for kind, count in counts.items():
            print(f"\n{kind:6}", *(f"{count[what]:4} {what}" for what in ("read", "corrupt", "refused")), end="")
    assert all(count["corrupt"] + count["refused"] > 10 for kind, count in counts.items() if kind != "a.txt")
