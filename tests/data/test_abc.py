"""ABC notation: what is played, by hand and against music21's own reader."""

import random
import re
import time
import warnings
from fractions import Fraction

import pytest

from pyro_vae.data import Melody
from pyro_vae.data.music.abc_notation import _read, factor, key_of, read_abc, read_tune, title_of
from pyro_vae.data.music.abc_tune import NotUnderstood, Tone
from pyro_vae.data.sources.tunes import _corpus
from pyro_vae.errors import InputError

HEAD = "X:1\nT:A tune\nM:4/4\nL:1/8\nK:{}\n"


def played(body, key="C", head=HEAD):
    """(pitch, eighths from the beginning, eighths long) of every note."""
    line = read_tune(head.format(key) + body)
    return [(note.pitch, note.start * 8, (note.end - note.start) * 8) for note in line.notes]


def pitches(body, key="C"):
    return [pitch for pitch, _, _ in played(body, key)]


def lengths(body):
    return [length for _, _, length in played(body)]


def test_octaves_and_keys():
    assert pitches("C,CcC' c'DEFGAB") == [48, 60, 72, 72, 84, 62, 64, 65, 67, 69, 71]
    assert pitches("FGfc", "D") == [66, 67, 78, 73]
    assert pitches("BEAD", "Bbm") == [70, 63, 68, 61]
    assert pitches("FC", "Edor") == [66, 61] and pitches("BF", "Gmix") == [71, 65]
    assert pitches("FcB", "D ^g =c") == [66, 72, 71]


@pytest.mark.parametrize(
    ("key", "sharps"),
    [
        *[("C", 0), ("G", 1), ("F#", 6), ("Cb", -7), ("Am", 0), ("Amin", 0), ("D minor", -1), ("Ador", 1), ("Ephr", 0)],
        *[("Flyd", 0), ("Bloc", 0), ("E mixolydian", 3), ("F#m", 3), ("none", 0), ("G clef=treble", 1)],
    ],
)
def test_signatures_have_so_many_sharps(key, sharps):
    assert sum(key_of(key).values()) == sharps


@pytest.mark.parametrize("key", ["H", "GM", "Bn", "Dmixm", "G##", "A#", "Gbphr"])
def test_keys_without_a_meaning_are_refused(key):
    with pytest.raises(NotUnderstood, match="a key"):
        key_of(key)


def test_accidentals_count_to_the_end_of_the_bar_in_their_octave():
    assert pitches("^FFf=F FFFF|FFFFFFFF|", "C") == [66, 66, 77] + [65] * 13
    assert pitches("_B^^CB__B|", "G") == [70, 62, 70, 69]


def test_lengths():
    assert lengths("C2 D/ E// F3/2 G/4 z A3") == [2, Fraction(1, 2), Fraction(1, 4), Fraction(3, 2), Fraction(1, 4), 3]
    assert [4 * length for length in lengths("C>D E<F G>>A")] == [6, 2, 2, 6, 7, 1]
    assert lengths("(3CDE F2 (3:2:2CD E3") == [Fraction(2, 3)] * 3 + [2] + [Fraction(2, 3)] * 2 + [3]
    assert lengths("(5CDEFG A") == [Fraction(2, 5)] * 5 + [1]  # 5 in the time of 2
    with pytest.raises(NotUnderstood, match="a length"):
        factor("0")


def test_units_follow_from_the_metre_if_nothing_is_said():
    head = "X:1\nM:2/4\nK:{}\n"
    assert played("C", head=head)[0][2] == Fraction(1, 2)
    assert played("C", head=head.replace("2/4", "6/8"))[0][2] == 1


def test_ties_slurs_chords_and_ornaments():
    assert played("(C4 D4-|D2) E6|") == [(60, 0, 4), (62, 4, 6), (64, 10, 6)]
    assert played("C4-D4|") == [(60, 0, 4), (62, 4, 4)]  # of two pitches it is a slur
    assert played('"Am"~C2 .[CEG]2{g}uD !trill!vE [C2E2]|') == [
        *[(60, 0, 2), (67, 2, 2), (62, 4, 1), (64, 5, 1), (64, 6, 2)]
    ]


def test_repeats_and_endings_are_played():
    assert pitches("|:C8:|D8|") == [60, 60, 62]
    assert pitches("C8:|D8:|") == [60, 60, 62, 62]
    assert pitches("C8||D8:|") == [60, 62, 62]  # back to the double bar
    assert pitches("C8::D8:|") == [60, 60, 62, 62]
    assert pitches("C8|1D8:|2E8||F8|") == [60, 62, 60, 64, 65]
    assert pitches("|:C8|[1D8:|[2E8:|F8|") == [60, 62, 60, 64, 65]
    assert pitches("|:C8|1,3D8:|2E8:|") == [60, 62, 60, 64, 60, 62]
    with pytest.raises(NotUnderstood, match="a second ending without a first"):
        read_tune(HEAD.format("C") + "C8:|2D8|")
    with pytest.raises(NotUnderstood, match="no ending 2"):
        read_tune(HEAD.format("C") + "C8|1,3D8:|")


def test_an_upbeat_stands_before_a_bar_line():
    assert played("G2|C8|")[:2] == [(67, 6, 2), (60, 8, 8)]
    # a repeat whose last bar lacks the upbeat of the next, as it should be; and others, which are put right
    assert played("G2|C8|D6:|")[3:] == [(67, 22, 2), (60, 24, 8), (62, 32, 6)]
    assert [start for _, start, _ in played("C8|D8||G2|E8|")] == [0, 8, 14, 16]  # the last note is cut
    assert [start for _, start, _ in played("C8|D4||G2|E8|")] == [0, 8, 14, 16]  # there is rest
    assert [start for _, start, _ in played("C8|D6||E8|")] == [0, 8, 16]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("C8|D6|E8|", "bars that do not add up"),
        ("V:2\nC8|", "a field V:"),
        ("C & D", "'& D'"),
        (">C", "without a note before"),
        ("C>|D", "a broken rhythm across a bar line"),
        ("(3CD", "ends within a tuplet"),
        ("^^^C", "'"),
        ("C" * 70_000, "more than 65,536 characters"),
        ("c''''''", "a pitch 7 octaves"),
    ],
)
def test_what_is_not_understood_is_said(body, message):
    with pytest.raises(NotUnderstood, match=re.escape(message)):
        read_tune(HEAD.format("C") + body)


def test_a_book_of_tunes(tmp_path, caplog):
    good, waltz = HEAD.format("G") + "G8|A8|\n", HEAD.format("G").replace("4/4", "3/4") + "G6|A6|\n"
    wrong = HEAD.format("G").replace("A tune", "A wrong one") + "G8|A7|B8|\n"
    path = tmp_path / "book.abc"
    path.write_text(f"% a book\n\n{good}\n{waltz}\n{wrong}\r\n", encoding="utf-8")
    assert [title_of(text) for text in read_abc(path)] == ["A tune", "A tune", "A wrong one"]
    texts = Melody().read(path)
    assert len(texts) == 1 and texts[0].startswith("G4 - - -") and "A4 -" in texts[0]
    assert "2 tunes left out of 3: A tune: is in 3/4" in caplog.text
    path.write_text(waltz)
    with pytest.raises(InputError, match=r"book\.abc: no tune that can be read"):
        Melody().read(path)
    path.write_text("nothing")
    with pytest.raises(InputError, match=r"book\.abc: no ABC tunes"):
        Melody().read(path)
    with pytest.raises(InputError, match=r"book\.abc: 2 tunes; give a file with one"):
        path.write_text(good + "\n" + good)
        Melody().encode([path])


def test_nonsense_ends_soon_and_without_a_crash():
    generator = random.Random(0)
    marks = [
        "C",
        "d'",
        "2",
        "/",
        "|",
        ":|",
        "|:",
        "|1",
        ":|2",
        "(3",
        "[",
        "]",
        "-",
        ">",
        "z",
        "^",
        "{",
        "}",
        '"',
        "K:G\n",
    ]
    for _ in range(300):
        body = "".join(generator.choices(marks, k=40))
        try:
            read_tune(HEAD.format("C") + body)
        except NotUnderstood:
            pass


@pytest.mark.slow
def test_notes_agree_with_another_reader():
    """As music21 reads 40 tunes, without what it drops or miscounts: ornaments, grace notes, slurs in broken rhythm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from music21 import chord, converter, note

    texts = [text for folder in _corpus() for file in sorted(folder.glob("*.abc")) for text in read_abc(file)]
    same = compared = 0
    for text in random.Random(2).sample(texts, 40):
        head, key, body = text.partition("K:")
        key, _, body = body.partition("\n")
        body = re.sub(r'\{[^}]*\}|"[^"]*"|\((?![2-9])|\)|[.~HuvTMSkOLPJxV]', "", body)
        try:
            mine = [(t.pitch, float(t.length)) for t in _read(f"{head}K:{key}\n{body}").body if isinstance(t, Tone)]
        except NotUnderstood:
            continue
        theirs = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            score = converter.parseData(f"%abc-2.1\n{head}K:{key}\n{body}", format="abc")
        for item in score.recurse().notesAndRests:
            found = max(item.pitches).midi if isinstance(item, chord.Chord) else getattr(item, "pitch", None)
            pitch = found if isinstance(found, int) or found is None else found.midi
            theirs.append((None if isinstance(item, note.Rest) else pitch, float(item.quarterLength) / 4))
        compared += 1
        same += len(mine) == len(theirs) and all(
            a == b and abs(x - y) < 1e-6 for (a, x), (b, y) in zip(mine, theirs, strict=True)
        )
    assert compared >= 30 and same >= 0.9 * compared, (same, compared)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("X:1\nM:C\nK:C" + " " * 60_000 + "!\n", "a key 'C !'"),  # spaces that two patterns might share
        ("X:1\nM:C\nL:1/4\nK:C\nABCD" + " |]" * 20_000 + "\n", None),  # bar lines that all look for what is behind
    ],
)
def test_the_time_of_a_tune_grows_with_its_length_alone(text, what):
    began = time.process_time()
    if what is None:
        assert len(read_tune(text).notes) == 4
    else:
        with pytest.raises(NotUnderstood, match=what):
            read_tune(text)
    assert time.process_time() - began < 5  # either took minutes


def test_a_file_has_no_more_tunes_than_a_library(tmp_path):
    path = tmp_path / "many.abc"
    path.write_text("X:\n" * 17_000)
    with pytest.raises(InputError, match=r"many\.abc: 17,000 tunes; 16,384 are the most"):
        read_abc(path)
