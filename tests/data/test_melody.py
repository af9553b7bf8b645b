"""Melodies as events and tokens, written and heard."""

import json
import random

import numpy as np
import pytest
import torch

from pyro_vae.data import Data, Melody, Split, Tokens
from pyro_vae.data.music.events import HOLD, REST, Note, canonical, events_of, notes_of, transposed
from pyro_vae.data.music.midi import read_midi
from pyro_vae.data.music.synthesizer import RELEASE, SAMPLE_RATE, frequency, synthesized
from pyro_vae.data.token_file import read_tokens, token_facts, write_tokens
from pyro_vae.data.wav import read_wav
from pyro_vae.errors import CorruptFileError, InputError

SCALE = "C4 - - - D4 - - - E4 - - - . . . . | G4 - - - - - - - - - - - - - - -"


def random_notes(generator, num_steps):
    notes, now = [], generator.randrange(4)
    while now < num_steps:
        duration = min(generator.randrange(1, 9), num_steps - now)
        notes.append(Note(generator.randrange(128), now, duration))
        now += duration + generator.randrange(3)
    return notes


def test_notes_come_back_from_events():
    generator = random.Random(0)
    for _ in range(50):
        notes = random_notes(generator, 64)
        assert notes_of(events_of(notes, 64)) == notes


def test_events_have_one_form_in_which_holds_of_nothing_are_rests():
    generator = np.random.default_rng(0)
    for events in generator.choice([60, 61, HOLD, REST], size=(100, 12), p=[0.2, 0.1, 0.4, 0.3]):
        expected, sounding = [], False  # step by step, as it is heard
        for event in events.tolist():
            sounding = event < 128 or (sounding and event == HOLD)
            expected.append(event if event != HOLD or sounding else REST)
        assert canonical(events).tolist() == expected
        assert events_of(notes_of(events), 12).tolist() == expected
    assert canonical(np.array([[HOLD, 60], [REST, HOLD]])).tolist() == [[REST, 60], [REST, REST]]


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ([Note(60, 0, 4), Note(62, 3, 2)], "overlap at step 3"),
        ([Note(60, 14, 4)], "does not fit 16 steps"),
        ([Note(128, 0, 1)], "pitch must be an integer from 0 to 127, got 128"),
        ([Note(60, 0, 0)], "0 steps long"),
    ],
)
def test_notes_that_are_no_melody_are_refused(notes, message):
    with pytest.raises(InputError, match=message):
        events_of(notes, 16)


def test_transposing_moves_notes_alone_and_stays_in_range():
    assert transposed(np.array([60, HOLD, REST, 127]), -2).tolist() == [58, HOLD, REST, 125]
    with pytest.raises(InputError, match="transposed by 1, a pitch is outside"):
        transposed(np.array([127]), 1)


def test_text_and_tokens_are_inverses():
    melody = Melody(bars=2)
    tokens = melody.encode([SCALE])
    assert isinstance(melody, Tokens) and (melody.num_tokens, melody.length, melody.ends) == (131, 32, False)
    assert tokens.dtype == torch.int64 and tokens.shape == (1, 32)
    assert tokens[0, :5].tolist() == [61, 129, 129, 129, 63] and tokens[0, 12].item() == 130
    assert melody.decode(tokens) == [SCALE]
    assert melody.encode([]).shape == (0, 32)
    ends = tokens.clone()
    ends[0, 16:] = 0  # a model that was not told that melodies have no end
    assert melody.decode(ends) == [SCALE[: SCALE.index("|")] + "| " + " ".join("." * 16)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("C4 - -", "a melody has 32 steps \\(2 bars\\), got 3"),
        (SCALE.replace("E4", "H4"), "'H4' is no step of a melody"),
        (SCALE.replace("E4", "C99"), "'C99' is no step of a melody"),
        (SCALE.replace("E4", "A9"), "'A9' is no step of a melody"),  # 129
    ],
)
def test_texts_that_are_no_melodies_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        Melody().encode([text])


def test_a_run_keeps_it_in_a_file(tmp_path):
    melody = Melody(bars=16, tempo=90.5)
    write_tokens(tmp_path / "tokens.json", melody)
    assert read_tokens(tmp_path / "tokens.json", token_facts(melody)) == melody
    values = json.loads((tmp_path / "tokens.json").read_text())
    for wrong in ({"bars": 10**9}, {"bars": "2"}, {"tempo": float("nan")}, {"tempo": [1]}):
        (tmp_path / "tokens.json").write_text(json.dumps(values | wrong))
        with pytest.raises((CorruptFileError, InputError)):
            read_tokens(tmp_path / "tokens.json")


def test_data_are_checked():
    melody, good = Melody(), Melody().encode([SCALE])
    Data(Split({"x": good}, integers=True), extras=(melody,))
    for x in (good[:, :16], torch.where(good == 61, 0, good), torch.where(good == 61, 131, good)):
        with pytest.raises(InputError):
            Data(Split({"x": x}, integers=True), extras=(melody,))
    more = Split({"x": good}, integers=True).with_variants({"x": torch.stack([good, good + (good < 129)], 1)})
    data = Data(more, extras=(melody,))
    assert data.train.mean().shape == (32,) and torch.equal(data.train.mean(), good[0].float())  # of the first variant


def test_melodies_are_written_and_heard(tmp_path):
    melody = Melody(tempo=150.0)
    (folder,) = melody.write(tmp_path / "samples", melody.encode([SCALE]), ["one"])
    assert sorted(file.name for file in folder.iterdir()) == ["one.mid", "one.wav"]
    line = read_midi(folder / "one.mid")
    assert [note.pitch for note in line.notes] == [60, 62, 64, 67]
    assert melody.encode([folder / "one.mid"]).tolist() == melody.encode([SCALE]).tolist()
    wave, rate = read_wav(folder / "one.wav")
    assert rate == SAMPLE_RATE and len(wave) == round((32 * 0.1 + RELEASE) * rate)
    assert wave.abs().max() <= 0.81


@pytest.mark.parametrize("pitch", [33, 69, 100])
def test_a_note_sounds_at_its_pitch_and_no_longer_than_it_lasts(pitch):
    wave = synthesized([Note(pitch, 4, 8)], 20, tempo=120.0).double()  # half a second of silence, one of sound
    spectrum = torch.fft.rfft(wave, n=2**18).abs()
    assert spectrum.argmax().item() * SAMPLE_RATE / 2**18 == pytest.approx(frequency(pitch), rel=2e-3)
    start, end = round(0.5 * SAMPLE_RATE), round((1.5 + RELEASE) * SAMPLE_RATE)
    assert wave[:start].abs().max() == 0 and wave[end + 1 :].abs().max() == 0
    assert wave.abs().max() == pytest.approx(0.8)
    assert wave[start : start + 5].abs().max() < 0.2 and wave[end - 5 : end].abs().max() < 0.01  # no click


def test_silence_is_silent():
    assert synthesized([], 16).abs().max() == 0


def test_of_melodies_of_hours_no_sound_is_written(tmp_path, caplog):
    silence = torch.full((1, 16 * 80), REST + 1)  # 80 bars at 24 s each
    (tmp_path / "sung").mkdir()
    (tmp_path / "sung" / "0.wav").write_bytes(b"of another melody")
    Melody(bars=80, tempo=10).write(tmp_path / "sung", silence, ["0"])
    assert [file.name for file in (tmp_path / "sung").iterdir()] == ["0.mid"]
    assert "no sound is written of melodies of 32 minutes" in caplog.text
    Melody(bars=80, tempo=1000).write(tmp_path / "sung", silence, ["0"])
    assert sorted(file.name for file in (tmp_path / "sung").iterdir()) == ["0.mid", "0.wav"]
