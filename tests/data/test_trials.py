"""A table of trials: a file, and what must come of it at every entrance. Add a row for what you have seen go wrong."""

import numpy as np
import pytest
from made_files import BYTES, GREY, idx, idx_gz, npy, npy_header, npz, picture, png_of_size, wav

from pyro_vae.cli.inputs import read_files
from pyro_vae.data import load_data
from pyro_vae.data.sources.idx import read_idx
from pyro_vae.data.wav import read_header, read_wav
from pyro_vae.errors import CorruptFileError, InputError

DEEP = (GREY * 65535).astype(np.uint16)
RGBA = np.zeros((8, 8, 4), np.uint8)  # all transparent
UNKNOWN, DAMAGED = (InputError, "does not say which number is white"), (CorruptFileError, "not a readable image")

IMAGES = {  # name: (content, grey levels in the corner and in the square, or an error and its words)
    "8 bits.png": (picture(BYTES, "png"), (0, 127)),
    "16 bits.png": (picture(DEEP, "png"), (0, 127)),
    "16 bits, white.png": (picture(np.full((8, 8), 65535, np.uint16), "png"), (255, 255)),
    "16 bits, black is clear.png": (picture(DEEP, "png", transparency=0), (255, 127)),
    "16 bits.pgm": (picture(DEEP, "pgm"), (0, 127)),
    "palette.png": (picture(BYTES, "png", "P"), (0, 127)),
    "palette.gif": (picture(BYTES, "gif"), (0, 127)),
    "1 bit.png": (picture(GREY > 0, "png"), (0, 255)),
    "grey and alpha.png": (picture(BYTES, "png", "LA"), (0, 127)),
    "clear.png": (picture(RGBA, "png"), (255, 255)),
    "clear grey.png": (picture(RGBA, "png", "LA"), (255, 255)),
    "black is clear.png": (picture(BYTES, "png", transparency=0), (255, 127)),
    "four inks.tif": (picture(BYTES, "tif", "CMYK"), (0, 127)),
    "16 bits.tif": (picture(DEEP, "tif"), UNKNOWN),
    "12 in 16 bits.tif": (picture((GREY * 4095).astype(np.uint16), "tif"), UNKNOWN),
    "32 bits.tif": (picture((GREY * 1000).astype(np.int32), "tif"), UNKNOWN),
    "floating point.tif": (picture(GREY.astype(np.float32), "tif"), (InputError, "pixel format 'F' .* not supported")),
    "huge.png": (png_of_size(2**31 - 1, 2**31 - 1), (InputError, "too large an image")),
    "large.png": (png_of_size(12_000, 10_000), (InputError, "too large an image")),  # Pillow only warns
    "a program in PostScript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", DAMAGED),
    "a format that is not listed.png": (picture(BYTES, "pcx"), DAMAGED),  # as PostScript, whose decoder runs a program
    "empty.png": (b"", DAMAGED),
    "half.png": (picture(BYTES, "png")[:60], DAMAGED),
    "text.jpg": (b"<html>not found</html>", DAMAGED),
}


def written(folder, name, content):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def refused(call, path, error, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert type(caught.value) is error and str(path) in str(caught.value)


@pytest.mark.parametrize("name", IMAGES)
def test_images(name, tmp_path):
    content, (first, second) = IMAGES[name]
    path = written(tmp_path / "data", name, content)
    entrances = {
        "folder": lambda: load_data(str(path.parent)).train.tensors["x"],
        "file of a grey run": lambda: read_files([path], (1, 8, 8)).tensors["x"],
        "file of a colour run": lambda: read_files([path], (3, 8, 8)).tensors["x"],
    }
    for entrance in entrances.values():
        if isinstance(first, type):
            refused(entrance, path, first, second)
        else:
            x = entrance()
            assert (x[0, :, 0, 0] == first).all() and (x[0, :, 4, 4] == second).all()


RAMP = np.arange(100, dtype="<i2").tobytes()
SMALL = b"\x00\x00\x40" * 50  # 24 bits: 0.5
BAD = CorruptFileError
SOUNDS = {  # name: (content, (samples, the first one), or an error and its words)
    "24 bits, extensible.wav": (wav(SMALL, bits=24, sub=1), (50, 0.5)),
    "16 bits, extensible, two channels.wav": (wav(b"\0\x40" * 100, sub=1, channels=2), (50, 0.5)),
    "a chunk of odd length before.wav": (wav(b"\0\x40" * 50, before=b"LIST\x03\0\0\0abc\0"), (50, 0.5)),
    "floating point, extensible.wav": (wav(SMALL, bits=32, sub=3), (InputError, "not plain PCM")),
    "floating point.wav": (wav(SMALL, bits=32, kind=3), (InputError, "not plain PCM")),
    "says 4 GiB.wav": (wav(RAMP, size=2**32 - 1), (BAD, "ends before the 2,147,483,647 samples")),
    "truncated.wav": (wav(RAMP)[:-50], (BAD, "ends before the 100 samples")),
    "no samples.wav": (wav(b""), (InputError, "holds no samples")),
    "samples before their format.wav": (b"RIFF\0\0\0\0WAVEdata\x04\0\0\0abcd", (BAD, "before their format")),
    "a format of 2 bytes.wav": (b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0\1\0data\x02\0\0\0ab", (BAD, "its format ends")),
    "4 GHz.wav": (wav(RAMP, rate=2**32 - 1), (BAD, "4294967295 samples a second")),
    "no channels.wav": (wav(RAMP, channels=0), (BAD, "0 channels")),
    "65535 bits.wav": (wav(RAMP, bits=65528), (BAD, "65528 bits")),
    "text.wav": (b"hello", (BAD, "begins with b'hell'")),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds(name, tmp_path):
    content, (first, second) = SOUNDS[name]
    path = written(tmp_path / "data", name, content)
    if isinstance(first, type):
        for entrance in (read_wav, read_header, lambda path: load_data(str(path.parent))):
            refused(lambda entrance=entrance: entrance(path), path, first, second)
    else:
        samples = read_wav(path)[0]
        assert len(samples) == first == read_header(path).length and samples[0] == second
        assert load_data(str(path.parent)).train.tensors["x"][0, 0, 0] == second


X = np.arange(40, dtype=np.uint8).reshape(10, 4)
ARRAYS = {  # name: (content, the shape of x, or an error and its words)
    "ten.npy": (npy(X), (4,)),
    "fortran.npy": (npy(np.asfortranarray(X)), (4,)),
    "big-endian.npy": (npy(X.astype(">f8")), (4,)),
    "ten.npz": (npz(x=npy(X), y=npy(np.arange(10))), (4,)),
    "promises a petabyte.npy": (npy_header((2**40, 1024)), (BAD, "header says 1099511627776 x 1024")),
    "promises more than integers hold.npy": (npy_header((2**40, 2**40)), (BAD, "truncated or damaged")),
    "a negative axis.npy": (npy_header((-1, -4), body=bytes(4)), (BAD, "header says -1 x -4")),
    "member promises a petabyte.npz": (npz(x=npy_header((2**40, 1024))), (BAD, "'x': truncated .* header says")),
    "two arrays in one.npy": (npy(X) + npy(X), (BAD, "40 bytes, but 208 follow")),
    "encrypted.npz": (npz(flags=1, x=npy(X)), (InputError, "'x' is encrypted")),
    "text member.npz": (npz(x=npy(X), readme=b"hello"), (InputError, "'readme' is no array")),
    "text.npz": (npz(x=npy(np.array([["a"]]))), (InputError, "'x' must be uint8")),
    "text labels.npz": (npz(x=npy(X), y=npy(np.array(["a"] * 10))), (InputError, "'y' must be numbers, got <U1")),
    "objects.npz": (npz(x=npy(X), y=npy(np.array([None] * 10))), (InputError, "'y' holds Python objects")),
    "objects.npy": (npy(np.array([[None]])), (InputError, "Python objects")),
    "complex.npy": (npy(X.astype(complex)), (InputError, "'x' must be uint8 .* got complex128")),
    "too large for float32.npy": (npy(np.full((10, 4), 1e300)), (InputError, "float32 cannot hold")),
    "labels beyond int64.npz": (npz(x=npy(X), y=npy(np.full(10, 2**64 - 1))), (InputError, "'y' .* beyond int64")),
    "no axis.npy": (npy(np.float32(1)), (InputError, "single number")),
    "a header of nonsense.npy": (b"\x93NUMPY\x01\x00\x04\x00{[(\n", (BAD, "truncated or damaged")),
    "a version of the future.npy": (b"\x93NUMPY\x09\x09" + bytes(100), (BAD, "version 09.09")),
    "half.npz": (npz(x=npy(X))[:80], (BAD, "truncated or damaged")),
    "empty.npz": (b"", (BAD, "it is empty")),
    "pickle.npy": (b"\x80\x04.", (BAD, "truncated or damaged, or no .npy file")),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name, tmp_path):
    content, expected = ARRAYS[name]
    path = written(tmp_path, name, content)
    if isinstance(expected[0], type):
        refused(lambda: load_data(str(path)), path, *expected)
    else:
        data = load_data(str(path))
        assert data.train.shape == expected
        found = sorted(x[0] for part in (data.train, data.validation, data.test) for x in part.tensors["x"].tolist())
        assert found == list(range(0, 40, 4))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = written(tmp_path, "bomb.npz", npz(x=npy(np.zeros((1000, 10_000), np.uint8))))
    monkeypatch.setattr("pyro_vae.runtime.memory_bytes", lambda: 29_000_000)
    refused(lambda: load_data(str(path)), path, InputError, "would take 3 times 0.0 GiB, but this machine has")
    written(tmp_path, "a.npy", npy(np.zeros((1000, 10_000), np.uint8)))
    refused(lambda: load_data(str(tmp_path / "a.npy")), tmp_path / "a.npy", InputError, "would take")


NUMBERS = {  # name: (content, the shape, or an error and its words)
    "plain": (idx((2, 3), bytes(6)), (2, 3)),
    "packed": (idx_gz((2, 3), bytes(6)), (2, 3)),
    "promises": (idx((2**31, 2**31), bytes(6)), (BAD, "header says 2147483648 x 2147483648 bytes but 6 follow")),
    "packed, promises": (idx_gz((2**31, 2**31), bytes(6)), (BAD, "header says 2147483648 x 2147483648")),
    "200 axes": (idx((1,) * 200, bytes(1)), (BAD, "truncated or damaged")),
    "packed bomb": (idx_gz((2, 3), bytes(10**6)), (BAD, "header says 2 x 3 bytes but 65,542 follow")),
    "axes missing": (idx((2, 3), b"")[:9], (BAD, "truncated or damaged")),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_idx(name, tmp_path):
    content, expected = NUMBERS[name]
    path = written(tmp_path, "numbers", content)
    if isinstance(expected[0], type):
        refused(lambda: read_idx(path), path, *expected)
    else:
        assert tuple(read_idx(path).shape) == expected
