"""Piano rolls show every note at its place."""

import torch

from pyro_vae.data import Melody
from pyro_vae.plots.tables import token_table

TWO = "C4 - - - E4 - . . G4 - - - - - . . | C5 - - - - - - - . . . . . . . ."
NONE = " ".join("." * 32)


def bars_of(panel):
    """(left, right, middle) of every bar of colour."""
    boxes = [path.get_extents() for collection in panel.collections for path in collection.get_paths()]
    return sorted((round(box.x0, 2), round(box.x1, 2), (box.y0 + box.y1) / 2) for box in boxes)


def test_melodies_are_drawn_as_rolls():
    melody = Melody(bars=2)
    x = melody.encode([TWO, NONE, TWO])
    drawn = token_table(melody, {"data": x, "reconstruction": x.flip(0)}, "a $title", rows=["one", "two_$", "three"])
    panels = drawn.axes
    assert len(panels) == 6
    assert bars_of(panels[0]) == [(0, 3.8, 60), (4, 5.8, 64), (8, 13.8, 67), (16, 23.8, 72)]
    assert bars_of(panels[2]) == [] and bars_of(panels[4]) == bars_of(panels[0])
    assert panels[0].get_title(loc="right") == "data" and panels[2].get_title(loc="left") == "two_$"
    low, high = panels[0].get_ylim()
    assert low < 60 and high > 72 and panels[0].get_xlim() == (0, 32)
    drawn.savefig("/dev/null", format="png")


def test_melodies_by_themselves_stand_side_by_side():
    melody = Melody(bars=2)
    x = melody.encode([TWO] * 5)
    drawn = token_table(melody, {"samples": x}, "samples", rows=["a", "b", "c", "d", "e"])
    shown = [panel for panel in drawn.axes if panel.axison]
    assert [panel.get_title() for panel in shown] == ["a", "b", "c", "d", "e"]
    assert drawn.get_figheight() < 4 and len({panel.get_subplotspec().rowspan.start for panel in shown}) == 2
    silent = token_table(melody, {"samples": torch.full((1, 32), 130)}, "silence")
    assert silent.axes[0].get_ylim()[0] < 60 < silent.axes[0].get_ylim()[1]
