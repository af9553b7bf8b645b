"""The dataset ``speech``, said by a stand-in for espeak-ng."""

import math
import shutil
import stat
import sys

import pytest
import torch

from pyro_vae.data import Sound, load_data
from pyro_vae.data.sources import speech
from pyro_vae.errors import CorruptFileError, InputError

FAKE = """#!{python} -SE
import math, struct, sys, wave
if "--voices=variant" in sys.argv:
    print("Pty Language\\n 5  variant  --/M  One  !v/m1  \\n 5  variant  --/F  Two  !v/f2  ")
    sys.exit()
voice, speed, pitch, path = (sys.argv[sys.argv.index(o) + 1] for o in ("-v", "-s", "-p", "-w"))
word = sys.argv[-1]
if word == "refused":
    sys.exit("cannot say that")
with open("{log}", "a") as log:
    log.write(f"{{voice}} {{speed}} {{pitch}} {{word}}\\n")
step = math.pi * {{"en-us+m1": 200, "en-us+f2": 700}}[voice] / 11025
with wave.open(path, "wb") as file:
    file.setnchannels(1), file.setsampwidth(2), file.setframerate(22050)
    count = 22050 * 10 // int(speed) * len(word)
    file.writeframes(b"".join(struct.pack("<h", round(90 * int(pitch) * math.sin(step * i))) for i in range(count)))
"""


@pytest.fixture
def espeak(tmp_path, monkeypatch):
    """Two words by two speakers; what was asked for is in the file that this gives."""
    log, program = tmp_path / "log", tmp_path / "bin" / "espeak-ng"
    program.parent.mkdir()
    program.write_text(FAKE.format(python=sys.executable, log=log))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr(speech, "SPEAKERS", ("m1", "f2"))
    monkeypatch.setattr(speech, "WORDS", ("a", "bcde"))
    monkeypatch.setattr(speech, "TAKES", 4)
    return log


def test_recordings_labels_and_splits(espeak):
    data = load_data("speech")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 4, 4]
    assert data.train.shape == (1, 8192) and data.train.keys == ("x", "y", "word")
    assert data.extra(Sound) == Sound(8000, "linear", normalized=True)
    assert "1.02 s at 8,000 Hz, linear, in [-1, 1], peak 0.9" in data.description
    for split, takes in ((data.train, 2), (data.validation, 1), (data.test, 1)):
        assert split.tensors["x"].dtype == torch.float32 and split.tensors["y"].dtype == torch.int64
        pairs = sorted(zip(split.tensors["y"].tolist(), split.tensors["word"].tolist(), strict=True))
        assert pairs == sorted([(s, w) for s in (0, 1) for w in (0, 1)] * takes)  # comparable
        for x, y, word in zip(split.tensors["x"][:, 0], split.tensors["y"], split.tensors["word"], strict=True):
            loud = x.abs() > 0.5
            assert x.abs().max() == pytest.approx(0.9, abs=1e-4)
            assert (loud.nonzero().max() > 1500) == (word == 1)  # four letters last longer than one
            spectrum = torch.fft.rfft(x[:400]).abs()  # 20 Hz apart
            assert spectrum.argmax() * 20 == (200 if y == 0 else 700)
    said = [line.split() for line in espeak.read_text().splitlines()]
    assert len(said) == 16 and len({tuple(line) for line in said}) == 16  # nothing is said twice
    assert all(140 <= int(speed) <= 200 and 30 <= int(pitch) <= 70 for _, speed, pitch, _ in said)


def test_made_once_and_kept(espeak, empty_home, monkeypatch, tmp_path):
    first = load_data("speech")
    kept = empty_home / ".cache" / "pyro_vae" / "speech" / "speech-8000hz-8192.npz"
    assert kept.is_file()
    monkeypatch.setenv("PATH", "/nowhere")  # it can be used where espeak-ng is not
    again = load_data("speech", encoding="mu_law", limit=3)
    assert len(espeak.read_text().splitlines()) == 16
    x = again.train.batch(slice(None))["x"]
    assert len(x) == 3 and again.train.tensors["x"].dtype == torch.uint8
    assert torch.equal((x * 255).round() / 255, x)  # levels, which a categorical likelihood accepts
    difference = again.extra(Sound).decode(x) - first.train.tensors["x"][:3]
    assert difference.abs().max() < 0.02 and difference.std() < 0.01

    shutil.move(kept.parent, tmp_path / "elsewhere" / "speech")  # and from a folder that one says
    assert torch.equal(load_data("speech", root=tmp_path / "elsewhere").test.tensors["x"], first.test.tensors["x"])
    with pytest.raises(InputError, match=r"apt-get install espeak-ng"):
        load_data("speech")
    moved = tmp_path / "elsewhere" / "speech" / kept.name
    moved.write_bytes(moved.read_bytes()[:500])
    with pytest.raises(CorruptFileError, match=r"speech-8000hz-8192.npz: damaged .* remove it"):
        load_data("speech", root=tmp_path / "elsewhere")


def test_another_rate_length_or_script_is_made_anew(espeak, monkeypatch):
    assert load_data("speech", sample_rate=16000).train.shape == (1, 16384)
    assert load_data("speech", length=512).train.shape == (1, 512)
    assert len(espeak.read_text().splitlines()) == 32
    monkeypatch.setattr(speech, "WORDS", ("a", "bcdefgh"))
    load_data("speech", length=512)
    assert len(espeak.read_text().splitlines()) == 48


def test_the_same_recordings_again(espeak, empty_home):
    first = load_data("speech", length=600)
    shutil.rmtree(empty_home / ".cache")
    again = load_data("speech", length=600)
    for part in ("train", "validation", "test"):
        tensors, others = getattr(first, part).tensors, getattr(again, part).tensors
        assert all(torch.equal(tensors[key], others[key]) for key in ("x", "y", "word"))


def test_what_espeak_refuses(espeak, empty_home, monkeypatch):
    monkeypatch.setattr(speech, "SPEAKERS", ("m1", "nobody"))
    with pytest.raises(InputError, match="lacks the voice variants nobody"):
        load_data("speech")
    monkeypatch.setattr(speech, "SPEAKERS", ("m1", "f2"))
    monkeypatch.setattr(speech, "WORDS", ("a", "refused"))
    with pytest.raises(InputError, match=r"refused failed \(status 1\): cannot say that"):
        load_data("speech")
    assert not list(empty_home.glob(".cache/**/*.npz"))  # nothing half made


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_the_real_voices(monkeypatch):
    monkeypatch.setattr(speech, "SPEAKERS", speech.SPEAKERS[:1] + speech.SPEAKERS[-1:])
    monkeypatch.setattr(speech, "WORDS", ("zero", "seven"))
    monkeypatch.setattr(speech, "TAKES", 3)
    data = load_data("speech")
    x = torch.cat([split.tensors["x"][:, 0] for split in (data.train, data.validation, data.test)])
    assert len({recording.numpy().tobytes() for recording in x}) == 12
    heard = x.abs() > 0.01
    length = torch.where(heard, torch.arange(8192), 0).amax(1) / 8000  # seconds
    assert ((length > 0.2) & (length < 0.95)).all()
    assert math.isclose(x.abs().max(), 0.9, abs_tol=1e-4) and x.mean(1).abs().max() < 0.02
