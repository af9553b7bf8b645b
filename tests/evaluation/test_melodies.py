"""Measures of melodies, against what is counted by hand."""

import pytest
import torch

from pyro_vae.data import Melody
from pyro_vae.errors import InputError
from pyro_vae.evaluation import in_key, mean_interval, melody_measures, note_density, pitch_range, syncopation

REST = " ".join("." * 16)
SCALE = "C4 - D4 - E4 - F4 - G4 - A4 - B4 - C5 -"
OFF_BEAT = ". . C4 - - - C4 - - - C4 - - - C4 -"  # on eighths, held over the beats that are stronger
CHROMATIC = "C4 C#4 D4 D#4 E4 F4 F#4 G4 G#4 A4 A#4 B4 - - - -"


def tokens(*bars):
    return Melody(bars=1).encode(list(bars))


def test_by_hand():
    x = tokens(SCALE, OFF_BEAT, CHROMATIC, REST)
    assert note_density(x).tolist() == [8, 4, 12, 0]
    assert pitch_range(x).tolist() == [12, 0, 11, 0]
    assert in_key(x).tolist() == pytest.approx([1, 1, 7 / 12, 1])
    assert mean_interval(x).tolist() == pytest.approx([12 / 7, 0, 1, 0])
    # each of the four is held over a beat: -3 to -2, -1, -2; the last one over none; the B of the third over a beat
    assert syncopation(x).tolist() == [0, (-2 + 3) + (-1 + 3) + (-2 + 3), -2 + 4, 0]


def test_measures_are_a_bar_and_do_not_depend_on_the_key():
    two = Melody(bars=2).encode([f"{SCALE} | {OFF_BEAT}"])
    assert note_density(two).tolist() == [6] and syncopation(two).tolist() == [2]
    moved = torch.where(two < 129, two + 5, two)
    for name, values in melody_measures(two).items():
        assert values.shape == (1,) and torch.equal(values, melody_measures(moved)[name]), name


def test_a_note_held_over_a_bar_line_is_the_strongest_syncopation():
    two = Melody(bars=2).encode([". . . . . . . . . . . . . . . C4 | - - - - - - - - - - - - - - - -"])
    assert syncopation(two).tolist() == [4 / 2]


def test_what_are_no_melodies_is_refused():
    for x in (torch.ones(3, 17, dtype=torch.long), torch.ones(3, 16), torch.zeros(3, 16, dtype=torch.long)):
        with pytest.raises(InputError):
            note_density(x)
