"""Matplotlib, imported so that a ``matplotlibrc`` of the working directory, which may be a stranger's run, is not read.

Before Matplotlib 3.11 such a file can run code (``axes.prop_cycle`` is evaluated). The user's own file is read, in
``~/.config/matplotlib`` or where ``$MATPLOTLIBRC`` says. A program that imports Matplotlib itself has decided already.
"""

from __future__ import annotations

import os
import sys
from contextlib import chdir, nullcontext

if "matplotlib" not in sys.modules:
    with chdir(sys.prefix) if os.path.lexists("matplotlibrc") else nullcontext():  # Python's own directory
        import matplotlib  # noqa: F401
