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
