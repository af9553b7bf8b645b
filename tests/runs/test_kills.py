"""Commands that are really killed, at random moments: see :mod:`kills`."""

import os
import subprocess
import sys
from pathlib import Path

import kills
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("scenario", kills.SCENARIOS)
def test_a_killed_command_is_gone_on_with_to_the_same_end(scenario):
    """In a process of its own, from which those that are killed are forked."""
    command = [sys.executable, Path(kills.__file__), scenario, "20", "1"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
