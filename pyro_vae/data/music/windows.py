"""Windows of tunes, and which tunes are the same."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from pyro_vae.data.music.events import HOLD, PITCHES, REST, STEPS

SAME = 0.25  # share of a tune's phrases that make it another setting of one that has them
PHRASE = 2  # bars


def windows(events: np.ndarray, bars: int, stride: int) -> Iterator[tuple[int, np.ndarray]]:
    """All windows of so many bars, every ``stride`` bars: the bar at which each begins, and its events.

    A note that sounds when a window begins, begins there. Windows with a bar of rest are left out.

    Args:
        events: canonical, ``(T,)``, of whole bars.
        bars, stride: from 1.
    """
    for bar in range(0, len(events) // STEPS - bars + 1, stride):
        window = events[bar * STEPS : (bar + bars) * STEPS].copy()
        if window[0] == HOLD:
            before = events[: bar * STEPS]
            window[0] = before[before < PITCHES][-1]
        if (window.reshape(bars, STEPS) != REST).any(1).all():
            yield bar, window


def in_any_key(events: np.ndarray) -> bytes:
    """Events as they are in every transposition: pitches above the first one."""
    begins = events < PITCHES
    first = events[begins][0] if begins.any() else 0
    return np.where(begins, events - first, events + PITCHES).astype(np.int16).tobytes()


def same_tunes(tunes: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Which tunes are settings of one tune, ``(N,)``: a number each, the same for those.

    Two are the same if a quarter of the different phrases (two bars, in any key) of one of them are in the other, or if
    they have one title (but for articles, the kind of dance and punctuation); and so are those that are the same as a
    third one.
    """
    phrases = [{in_any_key(window) for _, window in windows(events, PHRASE, 1)} for events in tunes]
    having: dict[bytes, list[int]] = defaultdict(list)
    for tune, found in enumerate(phrases):
        for phrase in found:
            having[phrase].append(tune)
    shared = Counter(pair for some in having.values() for pair in combinations(some, 2))
    parent = list(range(len(tunes)))

    def root(tune: int) -> int:
        while parent[tune] != tune:
            parent[tune] = parent[parent[tune]]
            tune = parent[tune]
        return tune

    alike = [pair for pair, count in shared.items() if count >= SAME * min(len(phrases[i]) for i in pair)]
    first: dict[str, int] = {}
    alike += [(first.setdefault(plain(title), tune), tune) for tune, title in enumerate(titles)]
    for a, b in alike:
        parent[max(root(a), root(b))] = min(root(a), root(b))
    return np.array([root(tune) for tune in range(len(tunes))])


def plain(title: str) -> str:
    """A title's letters and digits, without articles and what stands behind " -- "; a title without any as it is."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"['’.]", "", title.lower().split(" -- ")[0]))
    return "".join(word for word in words if word not in ("the", "a", "an")) or title
