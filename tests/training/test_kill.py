"""Twenty real SIGKILLs at random moments (minutes): the experiment of benchmarks/kill_and_resume.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_and_resume.py"


@pytest.mark.slow
def test_twenty_kills_end_in_the_same_weights():
    command = [sys.executable, str(SCRIPT), "--json", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["kills"] == 20, f"the run had ended before all kills: {row}"
    assert row["readable"] == row["kills"], done.stderr
    assert row["identical_weights"] and row["identical_log"]
    assert max(row["epochs_done_at_kills"]) > 20  # kills came during training, not during start-up alone
