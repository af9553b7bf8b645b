"""Settings of a sweep: how grids and ranges are written, and what the directories of their runs are called."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyro_vae.errors import InputError

NOT_SWEPT = ("seed", "out", "recipe", "trust", "config")
LONGEST_NAME = 120  # characters of a directory's
MOST_SETTINGS = 10_000
DIGITS = 4  # of a number that is drawn from a range


@dataclass(frozen=True)
class Range:
    """Where a search looks for the value of an option.

    Attributes:
        low, high: the ends, which belong to it.
        log: whether equal ratios count alike, instead of equal differences.
        whole: whether its values are integers.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False


def parse_grid(text: str) -> tuple[str, list[str]]:
    """``fit.learning_rate=1e-3,3e-4``: the option, and its values; commas within brackets part nothing.

    Raises:
        InputError: for another form, a value twice, or an option that is not swept.
    """
    key, values = _split(text, "--grid fit.learning_rate=1e-3,3e-4")
    found, depth, start = [], 0, 0
    for place, character in enumerate(values + ","):
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth <= 0:
            found.append(values[start:place].strip())
            start = place + 1
    if "" in found or len(set(found)) < len(found):
        raise InputError(f"--grid {text}: an empty value, or one that is there twice")
    return key, found


def parse_range(text: str) -> tuple[str, Range]:
    """``fit.learning_rate=1e-4..1e-2:log``: the option and its range; of two integers, whole numbers.

    Raises:
        InputError: for another form, or ends that are no range.
    """
    like = "--range fit.learning_rate=1e-4..1e-2:log"
    key, values = _split(text, like)
    found = re.fullmatch(r"(\S+?)\.\.(\S+?)(:log)?", values)
    try:
        low, high = (float(found[1]), float(found[2])) if found else (math.nan, math.nan)
    except ValueError:
        low = high = math.nan
    log = bool(found and found[3])
    if found is None or not (math.isfinite(low) and math.isfinite(high) and low < high) or (log and low <= 0):
        raise InputError(f"--range {text}: no range; say {like}, from the smaller to the larger, above 0 with :log")
    whole = all(re.fullmatch(r"[+-]?\d+", end) for end in (found[1], found[2]))
    return key, Range(low, high, log, whole)


def _split(text: str, like: str) -> tuple[str, str]:
    key, equals, values = text.partition("=")
    key = key.strip().removeprefix("--")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", key) or not values.strip():
        raise InputError(f"'{text[:200]}' says no values of an option: {like}")
    if key in NOT_SWEPT:
        raise InputError(f"'{key}' is not swept by a grid or a range" + (": say --seeds" if key == "seed" else ""))
    return key, values.strip()


def spelled(value: float) -> str:
    """A number of a range as it stands in commands and names: with four digits, the very value that is trained with."""
    return str(value) if isinstance(value, int) else repr(float(f"{value:.{DIGITS}g}"))


def product(grid: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """All settings of a grid; of an empty one, the recipe's own.

    Raises:
        InputError: if they are too many.
    """
    if math.prod(len(values) for values in grid.values()) > MOST_SETTINGS:
        raise InputError(f"a grid of more than {MOST_SETTINGS:,} settings")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def setting_name(values: Mapping[str, str]) -> str:
    """What a setting is called: ``learning_rate=1e-3,latent_dim=10``; of no values, ``recipe``.

    What a directory's name should not hold is left out, and a digest of the values added then.
    """
    if not values:
        return "recipe"
    ends = [key.rpartition(".")[2] for key in values]
    short = {key: end if ends.count(end) == 1 else key for key, end in zip(values, ends, strict=True)}
    said = ",".join(f"{short[key]}={value}" for key, value in values.items())
    clean = re.sub(r"[^A-Za-z0-9_.,=+-]+", "-", said).strip("-.")
    if clean == said and len(said) <= LONGEST_NAME:
        return said
    digest = hashlib.sha256(json.dumps(dict(values)).encode()).hexdigest()[:8]
    return f"{clean[:LONGEST_NAME]}-{digest}"


def run_name(values: Mapping[str, str], seed: int) -> str:
    """What a run's directory is called: ``learning_rate=1e-3,seed=0``."""
    return f"{setting_name(values)},seed={seed}" if values else f"seed={seed}"
