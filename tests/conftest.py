"""What holds for every test: a known seed, and no global state left behind."""

import logging
import sys
from pathlib import Path

import pyro
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for the helper modules
pytest.register_assert_rewrite("contract", "discrete_pairs", "linear_gaussian", "once_pairs", "unbiased")

ROOM = Path(__file__).parent
SLOW = [line for line in (ROOM / "slow.txt").read_text().splitlines() if line and not line.startswith("#")]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark as slow what slow.txt lists, and the recorded steps of the contract by a second objective."""
    for item in items:
        name = str(item.path.relative_to(ROOM).as_posix()) + "::" + item.nodeid.partition("::")[2]
        listed = name.startswith(tuple(SLOW))
        if listed or name.endswith("::test_the_recorded_step_equals_the_eager_step[IWAE]"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def no_global_state():
    """Seed torch; afterwards Pyro's parameter store must be empty and its settings (validation) what they were."""
    torch.manual_seed(0)
    settings, dtype = pyro.settings.get(), torch.get_default_dtype()
    logging.getLogger().setLevel(logging.WARNING)  # Python's own; commands say theirs
    logging.getLogger("pyro_vae").setLevel(logging.NOTSET)
    yield
    left = dict(pyro.get_param_store().items())
    pyro.clear_param_store()  # one test's fault is not the next one's
    assert left == {}, "the test left parameters in Pyro's global store"
    assert pyro.settings.get() == settings, "the test changed Pyro's settings"
    assert torch.get_default_dtype() == dtype, "the test changed torch's default dtype"
