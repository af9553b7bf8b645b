"""MIDI files: read as another library writes them, and what is no MIDI file."""

import struct
from fractions import Fraction

import mido
import pytest

from pyro_vae.data import Melody
from pyro_vae.data.music.events import HOLD, REST, Note
from pyro_vae.data.music.line import Line, Sounding
from pyro_vae.data.music.midi import read_midi, write_midi
from pyro_vae.errors import CorruptFileError, InputError


def file_of(path, *tracks, ticks=96, form=1):
    """Write tracks of (message, after so many ticks) with mido."""
    file = mido.MidiFile(type=form, ticks_per_beat=ticks)
    for messages in tracks:
        file.tracks.append(mido.MidiTrack(message.copy(time=after) for message, after in messages))
    file.save(path)
    return path


def on(pitch, channel=0, velocity=80):
    return mido.Message("note_on", note=pitch, channel=channel, velocity=velocity)


def off(pitch, channel=0):
    return mido.Message("note_off", note=pitch, channel=channel)


def melody_of(path):
    return [(note.pitch, note.start, note.end) for note in read_midi(path).notes]


def test_notes_tempos_and_running_status(tmp_path):
    tempos = [(mido.MetaMessage("set_tempo", tempo=400_000), 0), (mido.MetaMessage("set_tempo", tempo=900_000), 96)]
    notes = [(on(60), 96), (on(60, velocity=0), 96), (on(62), 0), (on(62, velocity=0), 48)]  # ends by velocity 0
    path = file_of(tmp_path / "a.mid", tempos, notes)
    quarter = Fraction(1, 4)
    assert melody_of(path) == [(60, quarter, 2 * quarter), (62, 2 * quarter, quarter * Fraction(5, 2))]
    raw = path.read_bytes()
    status = b"\x60" + bytes([0x90, 60, 80]) + b"\x60" + bytes([0x90, 60, 0])
    assert status not in raw  # mido writes running status, which is what is read here
    assert read_midi(path).events().tolist()[4:12] == [60, HOLD, HOLD, HOLD, 62, HOLD, REST, REST]


def test_the_highest_full_voice_is_the_melody_and_drums_are_none(tmp_path):
    def voice(pitch, count, channel=0):
        return [pair for _ in range(count) for pair in ((on(pitch, channel), 0), (off(pitch, channel), 96))]

    path = file_of(tmp_path / "a.mid", voice(48, 8), voice(72, 6), voice(90, 2), voice(100, 40, channel=9))
    assert {pitch for pitch, _, _ in melody_of(path)} == {72}
    split = file_of(tmp_path / "b.mid", [*voice(40, 4), *voice(70, 4, channel=3)], form=0)
    assert {pitch for pitch, _, _ in melody_of(split)} == {70}


def test_chords_and_overlaps_become_one_voice(tmp_path):
    chord = [
        (on(60), 0),
        (on(67), 0),
        (on(64), 0),
        (on(72), 48),
        (off(60), 48),
        (off(67), 0),
        (off(64), 0),
        (off(72), 96),
    ]
    assert read_midi(file_of(tmp_path / "a.mid", chord)).events()[:9].tolist() == [67, HOLD, 72] + [HOLD] * 5 + [REST]


def test_what_is_written_is_read_by_another_library(tmp_path):
    notes = [Note(60, 0, 4), Note(60, 4, 2), Note(127, 300, 20)]
    write_midi(tmp_path / "a.mid", notes, tempo=90.0)
    file, now, found, begun = mido.MidiFile(tmp_path / "a.mid"), 0, [], {}
    for message in file.tracks[0]:
        now += message.time
        if message.type == "note_on":
            begun[message.note] = now
        elif message.type == "note_off":
            found.append((message.note, begun[message.note], now))
    step = file.ticks_per_beat // 4
    assert found == [(p, s * step, (s + d) * step) for p, s, d in notes]
    tempo = next(m.tempo for m in file.tracks[0] if m.type == "set_tempo")
    assert mido.tempo2bpm(tempo) == pytest.approx(90, abs=1e-3)
    assert [(n.pitch, n.start * 16, n.end * 16) for n in read_midi(tmp_path / "a.mid").notes] == [
        (p, s, s + d) for p, s, d in notes
    ]


@pytest.mark.parametrize(
    ("metres", "expected"),
    [([], (4, 4)), ([(2, 2)], (2, 2)), ([(3, 4)], (3, 4)), ([(4, 4), (3, 4)], None), ([(4, 4), (4, 4)], (4, 4))],
)
def test_metres(tmp_path, metres, expected):
    track = [
        (mido.MetaMessage("time_signature", numerator=a, denominator=b), 96 * i) for i, (a, b) in enumerate(metres)
    ]
    path = file_of(tmp_path / "a.mid", [*track, (on(60), 0), (off(60), 96)])
    assert read_midi(path).metre == expected
    if expected in (None, (3, 4)):
        with pytest.raises(InputError, match=r"a\.mid: .*metre|a\.mid: is in 3/4"):
            Melody().read(path)


def test_damaged_files_are_refused_by_name(tmp_path):
    good = file_of(tmp_path / "good.mid", [(on(60), 0), (off(60), 96)]).read_bytes()
    cases = {
        b"": "it is empty",
        b"RIFF" + good[4:]: "begins with b'RIFF'",
        good[:-3]: "it ends before the track",
        good[:10]: "ends too early",
        good[:12] + b"\xe7\x28" + good[14:]: "SMPTE",
        good[:9] + b"\x02" + good[10:]: "format 2",
        good[:22] + b"\x00\xf4" + good[24:]: "a message 0xf4",
        good[:22] + b"\x00\x40" + good[24:]: "data without a message",
        good[:22] + b"\xff\xff\xff\xff": "ends before the track",
    }
    for content, message in cases.items():
        (tmp_path / "bad.mid").write_bytes(content)
        with pytest.raises(InputError, match=rf"bad\.mid: .*{message}"):
            read_midi(tmp_path / "bad.mid")
    for cut in range(len(good)):  # whatever is cut off
        (tmp_path / "bad.mid").write_bytes(good[:cut])
        with pytest.raises(CorruptFileError, match=r"bad\.mid"):
            read_midi(tmp_path / "bad.mid")
    (tmp_path / "bad.mid").write_bytes(good[:11] + b"\x00" + good[12:14])  # no track, as it says
    with pytest.raises(InputError, match=r"bad\.mid: no notes"):
        Melody().read(tmp_path / "bad.mid")


def test_files_and_pieces_out_of_all_proportion_are_refused(tmp_path, monkeypatch):
    late = struct.pack(">4sIHHH", b"MThd", 6, 0, 1, 1)
    track = (b"\xff\xff\xff\x7f\x90\x3c\x40" * 3) + b"\x00\xff\x2f\x00"  # 800 million quarters
    (tmp_path / "late.mid").write_bytes(late + struct.pack(">4sI", b"MTrk", len(track)) + track)
    with pytest.raises(InputError, match="bars; 4,096 are the most"):
        Melody().read(tmp_path / "late.mid")
    monkeypatch.setattr("pyro_vae.data.music.midi.MOST_BYTES", 10)
    with pytest.raises(InputError, match="at most 10 bytes"):
        read_midi(tmp_path / "late.mid")


def test_the_grid_takes_the_nearest_step_and_keeps_the_note_nearest_to_it():
    def events(*notes, metre=(4, 4)):
        line = Line("a", metre, tuple(Sounding(p, Fraction(s), Fraction(e)) for p, s, e in notes), Fraction(1))
        return line.events().tolist()

    sixteenth = Fraction(1, 16)
    late = events((60, sixteenth * Fraction(14, 10), sixteenth * Fraction(26, 10)))
    assert late[:4] == [REST, 60, HOLD, REST]
    triplets = events(*((60 + i, sixteenth * Fraction(2 * i, 3), sixteenth * Fraction(2 * i + 2, 3)) for i in range(3)))
    assert triplets[:3] == [60, 61, REST]  # the third begins as near to its step as the second
    assert events((60, 0, sixteenth / 9))[:2] == [60, REST]  # no note is lost for being short
    assert events((60, 0, Fraction(1, 8)), metre=(2, 4))[:5] == [60, HOLD, HOLD, HOLD, REST]  # twice as long
