"""Values for JSON."""

from __future__ import annotations

import math
from typing import Any


def plain(value: Any) -> Any:
    """Values as JSON knows them: numbers that are none (the error of one datum) as None, names as text."""
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def no_numbers(value: Any, name: str = "") -> list[str]:
    """Where in a result there are floats that are NaN or infinite, and so null in JSON: "kl.z", "bounds.0.mean"."""
    if isinstance(value, dict | list | tuple):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, inner in entries for found in no_numbers(inner, f"{name}.{key}".lstrip("."))]
    return [name] if isinstance(value, float) and not math.isfinite(value) else []


def warned(result: dict[str, Any]) -> dict[str, Any]:
    """A measurement's result whose ``warnings`` say which of its numbers are none.

    Bits per dimension are left out: where data sites are of different kinds there are none, and tables say so.
    """
    names = [name for name in no_numbers(result) if not name.endswith("bits_per_dim")]
    if not names:
        return result
    of_one = result.get("num_data") == 1 and all(name.endswith("standard_error") for name in names)
    why = "one datum has no standard error" if of_one else "these are no numbers, NaN or infinite"
    return {**result, "warnings": [*result["warnings"], f"{why}: {', '.join(names)} (null in JSON)"]}
