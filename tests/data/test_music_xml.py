"""MusicXML, compressed and not: melodies, and files that would fill the memory."""

import random
import zipfile
from fractions import Fraction

import pytest

from pyro_vae.data import Melody
from pyro_vae.data.music import music_xml
from pyro_vae.data.music.music_xml import read_music_xml
from pyro_vae.errors import CorruptFileError, InputError

CONTAINER = '<container><rootfiles><rootfile full-path="score.xml"/></rootfiles></container>'


def note(step, duration, octave=4, more="", alter=None):
    altered = "" if alter is None else f"<alter>{alter}</alter>"
    pitch = f"<pitch><step>{step}</step>{altered}<octave>{octave}</octave></pitch>"
    return f"<note>{more}{pitch}<duration>{duration}</duration></note>"


def score(*measures, beats=4, attributes=""):
    head = f"<attributes><divisions>2</divisions><time><beats>{beats}</beats><beat-type>4</beat-type></time>"
    inside = "".join(
        f"<measure>{(head + attributes + '</attributes>') if i == 0 else ''}{m}</measure>"
        for i, m in enumerate(measures)
    )
    return f"<?xml version='1.0'?><score-partwise><part id='P1'>{inside}</part></score-partwise>"


def written(path, text, name="score.xml", container=CONTAINER):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if container:
            archive.writestr("META-INF/container.xml", container)
        archive.writestr(name, text)
    return path


def melody_of(path):
    return [(each.pitch, each.start * 4, each.end * 4) for each in read_music_xml(path).notes]


def test_notes_rests_ties_and_alterations(tmp_path):
    rest = "<note><rest/><duration>2</duration></note>"
    tied = note("F", 4, alter=1).replace("</note>", '<tie type="start"/></note>')
    ends = note("F", 2, alter=1).replace("</note>", '<tie type="stop"/></note>')
    path = written(tmp_path / "a.mxl", score(note("C", 2) + rest + tied, ends + note("B", 6, 3, alter=-1)))
    assert melody_of(path) == [(60, 0, 1), (66, 2, 5), (58, 5, 8)]
    assert read_music_xml(path).metre == (4, 4) and read_music_xml(path).end == 2
    plain = tmp_path / "a.musicxml"
    plain.write_text(score(note("C", 8)))
    assert melody_of(plain) == [(60, 0, 4)]


def test_chords_voices_grace_notes_and_instruments(tmp_path):
    low = "<backup><duration>8</duration></backup>" + note("C", 8, 2)
    grace = "<note><grace/><pitch><step>A</step><octave>7</octave></pitch></note>"
    chord = note("C", 8) + note("G", 8, more="<chord/>")
    moved = "<transpose><chromatic>-2</chromatic></transpose>"
    path = written(tmp_path / "a.mxl", score(grace + chord + low, attributes=moved))
    assert sorted(melody_of(path)) == [(34, 0, 4), (58, 0, 4), (65, 0, 4)]
    assert read_music_xml(path).events()[:2].tolist() == [65, 128]  # the highest is heard


def test_an_upbeat_stands_at_the_end_of_its_bar(tmp_path):
    path = written(tmp_path / "a.mxl", score(note("G", 2), note("C", 8)))
    assert melody_of(path) == [(67, 3, 4), (60, 4, 8)]
    assert Melody().read(path)[0].startswith(". . . . . . . . . . . . G4 - - - | C4 -")


def test_damaged_files_are_refused_by_name(tmp_path):
    path = tmp_path / "bad.mxl"
    good = written(path, score(note("C", 8))).read_bytes()
    for content, message in {
        b"": "not a readable MusicXML file",
        good[: len(good) // 2]: "not a readable MusicXML file",
        b"<score-partwise><part>": "not a readable MusicXML file",
        b"<score-timewise/>": "must be 'score-partwise'",
        b"<score-partwise/>": "no parts",
        score(note("H", 8)).encode(): "a measure is not as it should be",
        score(note("C", "x")).encode(): "duration",
        score(note("C", 8, octave=12)).encode(): "outside 0",
        score("<backup><duration>9</duration></backup>" + note("C", 8)).encode(): "a note before its measure",
        score(note("C", 8)).replace("<divisions>2", "<divisions>0").encode(): "as it should be",
    }.items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"bad\.mxl: .*{message}"):
            read_music_xml(path)
    with pytest.raises(CorruptFileError, match=r"bad\.mxl"):
        read_music_xml(written(path, score(note("C", 8)), name="other.xml"))  # not where the container says


def test_files_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.mxl"
    bomb = score(note("C", 8)).replace("<part ", "<!--" + " " * (1 << 25) + "--><part ")
    with pytest.raises(InputError, match=r"bomb\.mxl: unpacks to more than 33,554,432 bytes"):
        read_music_xml(written(path, bomb))
    laughs = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]>' + score(note("C", 8)).partition("?>")[2]
    with pytest.raises(InputError, match=r"bomb\.mxl: defines entities"):
        read_music_xml(written(path, laughs))
    with pytest.raises(InputError, match="elements, or 50 within one another"):
        read_music_xml(written(path, "<a>" * 100))
    monkeypatch.setattr(music_xml, "MOST_ELEMENTS", 50)
    with pytest.raises(InputError, match="more than 50 elements"):
        read_music_xml(written(path, score(*[note("C", 8)] * 20)))


def test_small_files_that_would_take_hours_are_refused(tmp_path):
    path = tmp_path / "slow.musicxml"
    path.write_text(score(note("C", 8, alter="1e99999999")))  # a number of a hundred million digits
    with pytest.raises(CorruptFileError, match=r"slow\.musicxml: .*alter must be a number"):
        read_music_xml(path)
    changing = "".join(f"<attributes><divisions>{10**6 + i}</divisions></attributes>{note('C', 1)}" for i in range(50))
    path.write_text(score(changing))  # whose common denominator grows with every note
    with pytest.raises(CorruptFileError, match="no multiples of a common one"):
        read_music_xml(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_whatever_bytes_of_an_archive_are_wrong_the_file_is_named(tmp_path, method):
    path, draws = tmp_path / "wrong.mxl", random.Random(0)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("score.xml", score(*[note("C", 8)] * 20))
    good = path.read_bytes()
    if method != zipfile.ZIP_DEFLATED:
        with pytest.raises(CorruptFileError, match="in another way than by deflating"):
            read_music_xml(path)
    for _ in range(120):
        content = bytearray(good)
        for _ in range(draws.randint(1, 6)):
            content[draws.randrange(len(content))] = draws.randrange(256)
        path.write_bytes(content)
        try:
            read_music_xml(path)
        except InputError as error:
            assert "wrong.mxl" in str(error)


@pytest.mark.slow
def test_a_chorale_agrees_with_another_reader():
    import warnings

    from pyro_vae.data.sources.tunes import _corpus

    path = next((_corpus()[0].parent / "bach").glob("bwv269.mxl"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from music21 import converter

        part = converter.parse(path, forceSource=True).parts[0].stripTies().flatten()
    theirs = [(n.pitch.midi, Fraction(n.offset), Fraction(n.offset + n.quarterLength)) for n in part.notes]
    upbeat = read_music_xml(path).notes[0].start * 4
    mine = [(p, start - upbeat, end - upbeat) for p, start, end in melody_of(path)]
    assert mine == theirs and len(mine) > 20
