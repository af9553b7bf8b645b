"""Reading and writing WAV files."""

import logging
import math
import struct
import wave

import numpy as np
import pytest
import torch

from pyro_vae.data.wav import read_header, read_wav, write_wav, write_wavs
from pyro_vae.errors import CorruptFileError, InputError


def riff(samples, *, rate=8000, channels=1, bits=16, kind=1):
    """A WAV file's bytes, written by hand."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * block, block, bits)
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_every_width_of_pcm(bits, tmp_path):
    values = [-(2 ** (bits - 1)), -1, 0, 1, 2 ** (bits - 2), 2 ** (bits - 1) - 1]
    if bits == 8:
        content = bytes(v + 128 for v in values)
    else:
        content = b"".join(v.to_bytes(bits // 8, "little", signed=True) for v in values)
    (tmp_path / "a.wav").write_bytes(riff(content, rate=11025, bits=bits))
    samples, rate = read_wav(tmp_path / "a.wav")
    assert rate == 11025 and samples.dtype == torch.float32
    torch.testing.assert_close(samples, torch.tensor(values, dtype=torch.float64).div(2 ** (bits - 1)).float())
    assert len(read_wav(tmp_path / "a.wav", most=2)[0]) == 2
    assert read_header(tmp_path / "a.wav").length == 6


def test_channels_are_mixed(tmp_path):
    content = np.array([[1000, 3000], [-500, 500]], "<i2").tobytes()
    (tmp_path / "a.wav").write_bytes(riff(content, channels=2))
    assert (read_wav(tmp_path / "a.wav")[0] * 32768).tolist() == [2000, 0]


def test_writing_is_the_inverse_of_reading(tmp_path):
    words = torch.randint(-32768, 32768, (1000,))
    assert write_wav(tmp_path / "deep" / "a.wav", words / 32768, 16000) == 0
    samples, rate = read_wav(tmp_path / "deep" / "a.wav")
    assert rate == 16000 and torch.equal((samples * 32768).long(), words)
    with wave.open(str(tmp_path / "deep" / "a.wav")) as file:  # and as others read it
        assert (file.getnchannels(), file.getsampwidth(), file.getcomptype()) == (1, 2, "NONE")
        assert np.frombuffer(file.readframes(1000), "<i2").tolist() == words.tolist()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.wav"]


def test_clipping_is_said_in_one_line(tmp_path, caplog):
    waves = {"soft": torch.tensor([0.0, 1.0, -1.0]), "loud": torch.tensor([1.5, 0.5, -7.0])}
    with caplog.at_level(logging.INFO):
        paths = write_wavs(tmp_path, waves, 8000)
    assert [path.name for path in paths] == ["soft.wav", "loud.wav"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"{tmp_path}: 1 of 2 recordings clipped at full scale: loud.wav (2 samples)"
    assert (read_wav(paths[1])[0] * 32768).tolist() == [32767, 16384, -32768]


@pytest.mark.parametrize("samples", [torch.tensor([0.0, math.nan]), torch.tensor([math.inf]), torch.zeros(1, 5)])
def test_no_sound_is_not_written(samples, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"old")
    with pytest.raises(InputError, match=r"a\.wav as sound"):
        write_wav(tmp_path / "a.wav", samples, 8000)
    assert (tmp_path / "a.wav").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


SOUND = np.arange(100, dtype="<i2").tobytes()


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"", CorruptFileError, "not a readable WAV file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), CorruptFileError, "not a readable WAV file"),
        (riff(SOUND)[:30], CorruptFileError, "not a readable WAV file"),
        (riff(SOUND)[:-50], CorruptFileError, "ends before the 100 samples"),
        (riff(SOUND, rate=0), CorruptFileError, "0 samples a second"),
        (riff(b""), InputError, "holds no samples"),
        (riff(SOUND, kind=3, bits=32), InputError, "not plain PCM"),  # floating point
        (riff(SOUND, kind=7, bits=8), InputError, "save it as 16-bit PCM"),  # mu-law
        (riff(SOUND, kind=0x55, bits=16), InputError, "not plain PCM"),  # MP3
    ],
)
def test_refusals_name_the_file(content, kind, words, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_wav(path)
    assert str(path) in str(caught.value) and type(caught.value) is kind
