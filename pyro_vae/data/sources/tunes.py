"""The dataset ``tunes``: melodies of two collections of dance tunes that come with music21."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.dataset import RawData
from pyro_vae.data.images import cache_folder
from pyro_vae.data.music.abc_notation import read_abc, read_tune, title_of
from pyro_vae.data.music.abc_tune import NotUnderstood
from pyro_vae.data.music.events import NUM_EVENTS, canonical, transposed
from pyro_vae.data.music.line import METRES
from pyro_vae.data.music.melody import Melody
from pyro_vae.data.music.windows import in_any_key, same_tunes, windows
from pyro_vae.data.parts import PARTS, SPLIT_SEED
from pyro_vae.data.registry import check_counts, source
from pyro_vae.data.sources.cache_file import find_kept, held, keep
from pyro_vae.errors import InputError

logger = logging.getLogger(__name__)

COLLECTIONS = ("oneills1850", "ryansMammoth")  # folders of music21's corpus
READER = 2  # changes where tunes are read otherwise, so that they are read anew
CACHE = Path("tunes") / "tunes.npz"
FARTHEST = 12  # semitones
HELD_OUT = 0.1  # of the tunes, for validation, and as many for test


class Tunes(NamedTuple):
    """Tunes with their titles: canonical events of whole bars."""

    titles: Sequence[str]
    events: Sequence[np.ndarray]


@source(
    "tunes",
    "windows of bars=2 bars of dance tunes in 4/4, 2/2 and 2/4 (O'Neill's 1850, Ryan's Mammoth, of music21's corpus), "
    "16 steps a bar, as tokens; 18,257 train / 2,282 validation / 2,366 test, every tune in one part",
)
def load_tunes(
    root: Path | None, limit: int | None, *, bars: int = 2, stride: int | None = None, transpose: int = 0
) -> RawData:
    """Load windows of melodies; the first time the tunes are read (ten seconds) and kept in the cache folder.

    Of 3,068 tunes those in 4/4, 2/2 and 2/4 are taken that are understood. Settings of one tune (a quarter of whose
    phrases are the same in any key, or that have one title) stay together; 80 % of the tunes are for training, 10 % for
    validation, 10 % for test. No part has a window twice, in any key, and validation and test have none that training
    has; which is which depends on no seed of the user's.

    Args:
        root: a folder in which the tunes that were read are looked for first, in its sub-folder ``tunes``.
        limit: at most so many windows of each part.
        bars: of a window, 1 to 64; x has 16 times as many tokens.
        stride: bars from one window of a tune to the next; a quarter of ``bars``, and at least 1, if it is not said.
        transpose: training data are transposed at random by at most so many semitones, up or down, anew for every
            batch; 0 to 12.

    Returns:
        ``x`` int64 (N, 16 bars), tokens, and names, the tunes' titles, per split; and what tokens are.

    Raises:
        InputError: for options out of range; if no tunes were read yet and music21 is missing.
        CorruptFileError: if the cache file is damaged.
    """
    check_counts(bars=bars, stride=stride)
    if bars > 64:
        raise InputError(f"tunes: bars must be an integer from 1 to 64, got {bars}")
    if isinstance(transpose, bool) or not isinstance(transpose, int) or not 0 <= transpose <= FARTHEST:
        raise InputError(f"tunes: transpose must be an integer from 0 to {FARTHEST} (semitones), got {transpose!r}")
    melody = Melody(bars)
    tunes = _tunes(root)
    part_of = _parts(same_tunes(tunes.events, tunes.titles))
    seen: set[bytes] = set()  # windows of training, in any key
    parts, names, variants = {}, {}, {}
    for place, part in enumerate(PARTS):
        mine = [tune for tune in range(len(tunes.titles)) if part_of[tune] == place]
        found, titles = _windows(tunes, mine, bars, stride or max(1, bars // 4), seen if place else set())
        if place == 0:
            seen = {in_any_key(window) for window in found}
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()[:limit]
        if not order:
            raise InputError(f"tunes: no tune has {bars} bars without a bar of rest in {part}; give fewer bars")
        events = np.stack([found[i] for i in order])  # (N, T)
        parts[part] = {"x": melody.tokens(events)}
        names[part] = tuple(titles[i] for i in order)
        if part == "train" and transpose:
            variants[part] = {"x": _transposed(events, transpose)}
    return RawData(parts, names=names, variants=variants, extras=(melody,))


def _windows(
    tunes: Tunes, chosen: Sequence[int], bars: int, stride: int, seen: set[bytes]
) -> tuple[list[np.ndarray], list[str]]:
    """Different windows of the chosen tunes, none of them among those seen, and what they are called."""
    found: dict[bytes, tuple[np.ndarray, str]] = {}
    for tune in chosen:
        for bar, window in windows(tunes.events[tune], bars, stride):
            key = in_any_key(window)
            if key not in seen and key not in found:
                found[key] = window, f"{tunes.titles[tune]}, bar {bar + 1}"
    return [window for window, _ in found.values()], [name for _, name in found.values()]


def _transposed(events: np.ndarray, most: int) -> Tensor:
    """Tokens of events ``(N, T)`` in all transpositions, int64 ``(N, 2 most + 1, T)``, the first as they are."""
    shifts = [0, *(sign * shift for shift in range(1, most + 1) for sign in (1, -1))]
    return torch.from_numpy(np.stack([transposed(events, shift) + 1 for shift in shifts], 1))


def _parts(groups: np.ndarray) -> np.ndarray:
    """To which part each tune belongs, 0 train, 1 validation, 2 test; tunes of one group to one."""
    order = np.unique(groups)[
        torch.randperm(len(np.unique(groups)), generator=torch.Generator().manual_seed(SPLIT_SEED)).numpy()
    ]
    sizes = np.array([(groups == group).sum() for group in order])
    share = (sizes.cumsum() - sizes / 2) / len(groups)
    place = np.where(share < HELD_OUT, 2, np.where(share < 2 * HELD_OUT, 1, 0))
    return np.array([place[order == group][0] for group in groups])


def _tunes(root: Path | None) -> Tunes:
    """All tunes, of the cache or read anew."""
    recipe = json.dumps([READER, *COLLECTIONS])
    kept = find_kept(root, CACHE, lambda path: _held(path, recipe))
    return _read(cache_folder() / CACHE, recipe) if kept is None else kept


def _held(path: Path, recipe: str) -> Tunes | None:
    """The tunes of a cache file; None if there is none, or they were read otherwise."""

    def read(arrays: Mapping[str, np.ndarray]) -> Tunes:
        titles, lengths, events = arrays["titles"], arrays["lengths"], arrays["events"]
        if titles.dtype.kind != "U" or lengths.dtype != np.int64 or events.dtype != np.uint8:
            raise ValueError("its arrays have other types")
        if len(titles) != len(lengths) or lengths.min() < 16 or lengths.sum() != len(events):
            raise ValueError("its arrays do not fit each other")
        if events.max() >= NUM_EVENTS:
            raise ValueError(f"an event is above {NUM_EVENTS - 1}")
        return Tunes(titles.tolist(), [canonical(some) for some in np.split(events, lengths.cumsum()[:-1])])

    return held(path, recipe, read)


def _read(path: Path, recipe: str) -> Tunes:
    """Read the collections' tunes, and keep them."""
    folders = _corpus()
    titles, events, left_out, others = [], [], 0, 0
    for file in sorted(file for folder in folders for file in folder.glob("*.abc")):
        for text in read_abc(file):
            try:
                line = read_tune(text)
            except NotUnderstood as error:
                logger.debug("%s: '%s' left out: %s", file.name, title_of(text), error)
                left_out += 1
                continue
            if line.metre in METRES and line.notes:
                titles.append(line.name)
                events.append(line.events())
            else:
                others += 1
    logger.info(
        "tunes: %s tunes are read, once, and kept in %s; %s are in other metres, and %s left out, since they have "
        "something that is not understood, or bars that do not add up",
        f"{len(titles):,}",
        path,
        f"{others:,}",
        f"{left_out:,}",
    )
    arrays = {
        "titles": np.array(titles),
        "lengths": np.array([len(some) for some in events], np.int64),
        "events": np.concatenate(events).astype(np.uint8),
    }
    keep(path, recipe, arrays)
    return Tunes(titles, events)


def _corpus() -> list[Path]:
    """The collections' folders in music21, which is found and not imported: its files are only read.

    Raises:
        InputError: if it is not installed, or without its corpus.
    """
    found = find_spec("music21")
    places = [] if found is None else [Path(place) for place in found.submodule_search_locations or ()]
    folders = [place / "corpus" / collection for place in places for collection in COLLECTIONS]
    if not folders or not all(folder.is_dir() for folder in folders):
        raise InputError(
            "the dataset 'tunes' is read from the corpus of music21, which is not installed: pip install "
            "'pyro-vae[music]', or copy the folder tunes of another machine's ~/.cache/pyro_vae here"
        )
    return folders
