"""What every command that measures a run does: measure, print, write."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pyro_vae.evaluation.results import Result
from pyro_vae.runs import Run
from pyro_vae.runs.measurements import plain, print_then_write, table, warned, with_id, write_measurement

Found = TypeVar("Found", bound=Result)


def tell(run: Run, name: str, measured: Callable[[], Found], options: Any) -> Found:
    """Measure, print, write DIR/name.npz (each datum) and DIR/name.json.

    Args:
        run: that is measured.
        name: of the files.
        measured: measures.
        options: of the command: ``seed`` and ``json``.
    """
    started = time.monotonic()
    found = measured()
    arrays = {key: value.double().numpy() for key, value in found.arrays().items()}
    result = warned({**found.to_dict(), "seed": options.seed, "seconds": round(time.monotonic() - started, 2)})
    result = with_id(result, arrays)
    if options.json:
        text = json.dumps(plain(result), allow_nan=False)
    else:
        warnings = [f"  warning: {warning}" for warning in result["warnings"]]
        text = "\n".join([table(run.path, result, found.rows), *warnings])
    print_then_write(text, lambda: write_measurement(run.path, name, result, arrays))
    return found
