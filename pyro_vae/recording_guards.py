"""What keeps a recording honest: the state that a graph would not follow, errors, and reasons in words."""

from __future__ import annotations

import random
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

_PACKAGE = Path(__file__).parent
_LIBRARIES = (
    *(str(Path(m.__file__).parent) for m in (torch, pyro, np)),
    str(_PACKAGE / "recording.py"),
)


def python_state(module: nn.Module) -> dict[str, Any]:
    """Numbers and words among the modules' attributes, and the states of Python's and NumPy's generators."""
    state: dict[str, Any] = {
        f"attribute '{f'{path}.' if path else ''}{name}'": value
        for path, m in module.named_modules()
        for name, value in vars(m).items()
        if isinstance(value, bool | int | float | str)
    }
    numpy_state = np.random.get_state()
    state["the state of Python's random numbers"] = random.getstate()
    state["the state of NumPy's random numbers"] = (numpy_state[1].tobytes(), *numpy_state[2:])  # type: ignore[union-attr]
    return state


def relative_error(ours: Tensor | None, theirs: Tensor | None) -> float:
    """|ours - theirs| / |theirs| in the Euclidean norm; NaN equals NaN."""
    if ours is None or theirs is None:
        return 0.0 if ours is theirs else float("inf")
    a, b = ours.double().nan_to_num(), theirs.double().nan_to_num()
    if not torch.equal(ours.isnan(), theirs.isnan()):
        return float("inf")
    difference = (a - b).norm().item()
    return difference / max(b.norm().item(), 1e-30) if difference else 0.0


def reason(error: Exception, site: str | None) -> str:
    """One line: what stood in the way, in which line of whose file, at or after which site."""
    if isinstance(error, (DataDependentOutputException, GuardOnDataDependentSymNode)):
        what = "it looks at a tensor's value"
    elif isinstance(error, DynamicOutputShapeException):
        what = "a shape depends on a tensor's values"
    else:
        what = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_LIBRARIES)]
    where = f" in `{frames[-1].line}` ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return what + where + (f", at or after site '{site}'" if site else "")
