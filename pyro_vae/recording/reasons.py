"""What keeps a recording honest: errors and reasons in words."""

from __future__ import annotations

import traceback
from pathlib import Path

import numpy as np
import pyro
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

_LIBRARIES = (*(str(Path(m.__file__).parent) for m in (torch, pyro, np)), str(Path(__file__).parent))


def relative_error(ours: Tensor | None, theirs: Tensor | None, floor: float = 0.0) -> float:
    """|ours - theirs| / max(|theirs|, floor) in the Euclidean norm; NaN equals NaN."""
    if ours is None or theirs is None:
        return 0.0 if ours is theirs else float("inf")
    if ours.shape != theirs.shape or not torch.equal(ours.isnan(), theirs.isnan()):
        return float("inf")
    a, b = ours.double().nan_to_num(), theirs.double().nan_to_num()
    difference = (a - b).norm().item()
    return difference / max(b.norm().item(), floor, 1e-30) if difference else 0.0


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [""])[0]


def reason(error: Exception, site: str | None) -> str:
    """One line: what stood in the way, in which line of whose file, at or after which site."""
    if isinstance(error, (DataDependentOutputException, GuardOnDataDependentSymNode)):
        what = "it looks at a tensor's value"
    elif isinstance(error, DynamicOutputShapeException):
        what = "a shape depends on a tensor's values"
    else:
        what = f"{type(error).__name__}: {first_line(error)}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_LIBRARIES)]
    where = f" in `{frames[-1].line}` ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return what + where + (f", at or after site '{site}'" if site else "")
