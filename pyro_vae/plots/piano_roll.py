"""Piano rolls: melodies as bars of colour, time to the right and pitch upwards."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from torch import Tensor

from pyro_vae.data.music.events import STEPS, Note, notes_of
from pyro_vae.data.music.melody import Melody, name_of
from pyro_vae.errors import printable
from pyro_vae.plots.drawing import Axes, Figure

WIDEST, NARROWEST, PAGE = 8.0, 2.4, 10.0  # inches of a roll, and of all that stand in a row
INCHES = 0.05  # of a step
CHARACTERS = 11  # of a title, an inch
HEIGHT = 0.85  # inches of a roll
MARGIN = 2  # semitones above the highest and below the lowest note
COLOUR = "tab:blue"


def piano_rolls(melody: Melody, columns: Mapping[str, Tensor], title: str, rows: Sequence[str] = ()) -> Figure:
    """Melodies in columns, those that belong together in one row: a bar of colour a note, on one scale of pitch.

    Lines stand between bars of the melody; C of every octave has a name at the left.

    Args:
        melody: what the tokens are.
        columns: tokens ``(n, T)`` by what is said above.
        title: of the figure.
        rows: what is said at the left of each row.

    Returns:
        the figure.

    Example:
        >>> from pyro_vae.data import Melody
        >>> from pyro_vae.plots.piano_roll import piano_rolls
        >>> melody = Melody(bars=1)
        >>> tokens = melody.encode(["C4 - - - E4 - - - G4 - - - - - . ."])
        >>> drawn = piano_rolls(melody, {"data": tokens, "reconstruction": tokens}, "one melody")
        >>> len(drawn.axes)
        2
    """
    notes = {name: [notes_of(row) for row in melody.events(tokens)] for name, tokens in columns.items()}
    steps = next(iter(columns.values())).shape[-1]
    width = max(NARROWEST, min(WIDEST, INCHES * steps))
    if len(notes) == 1:  # nothing stands beside them: as many in a row as there is room for
        across = max(1, int(PAGE / width))
        some = next(iter(notes.values()))
        cells = [(each, text) for each, text in zip(some, [*rows, *[""] * len(some)], strict=False)]
        down = -(-len(some) // across)
    else:
        across, down = len(notes), max(map(len, notes.values()))
        cells = [
            (each, name if i == 0 else "")
            for i, row in enumerate(zip(*notes.values(), strict=True))
            for each, name in zip(row, notes, strict=True)
        ]
    figure = Figure(figsize=(width * across + 1.0, HEIGHT * down + 0.9), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    limits = _limits([note for each, _ in cells for note in each])
    for panel, (each, text) in zip(panels.flat, cells, strict=False):
        _draw(panel, each, steps, limits)
        panel.set_title(text, fontsize="x-small", loc="right" if len(notes) > 1 else "center", parse_math=False)
    for panel in list(panels.flat)[len(cells) :]:
        panel.set_axis_off()
    for panel, text in zip(panels[:, 0], rows if len(notes) > 1 else (), strict=False):
        panel.set_title(text, fontsize="xx-small", loc="left", parse_math=False)
    figure.supxlabel("bars", fontsize="small")
    shown = textwrap.fill(printable(title), int(CHARACTERS * figure.get_figwidth()))
    figure.suptitle(shown.replace("$", r"\$"), fontsize="medium")
    return figure


def _limits(notes: Sequence[Note]) -> tuple[int, int]:
    """The lowest and highest pitch that is drawn; around the middle C, if there are no notes."""
    pitches = [note.pitch for note in notes] or [60]
    return min(pitches) - MARGIN, max(pitches) + MARGIN


def _draw(panel: Axes, notes: Sequence[Note], steps: int, limits: tuple[int, int]) -> None:
    low, high = limits
    for note in notes:
        panel.broken_barh([(note.start, note.duration - 0.2)], (note.pitch - 0.5, 1.0), facecolors=COLOUR)
    bars = range(0, steps + 1, STEPS)
    for bar in bars:
        panel.axvline(bar, color="0.7", linewidth=0.6, zorder=0)
    octaves = [pitch for pitch in range(low, high + 1) if pitch % 12 == 0]
    for pitch in octaves:
        panel.axhline(pitch, color="0.9", linewidth=0.6, zorder=0)
    every = max(1, len(bars) // 8)
    panel.set_xticks(list(bars)[:-1:every], [str(i + 1) for i in range(len(bars) - 1)][::every], fontsize="xx-small")
    panel.set_yticks(octaves, [name_of(pitch) for pitch in octaves], fontsize="xx-small")
    panel.set_xlim(0, steps)
    panel.set_ylim(low - 1, high + 1)
    panel.tick_params(length=2, pad=1)
