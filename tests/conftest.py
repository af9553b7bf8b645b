"""What holds for every test: a known seed, and no global state left behind."""

import sys
from pathlib import Path

import pyro
import pytest
import torch
from pyro.distributions.util import validation_enabled

sys.path.insert(0, str(Path(__file__).parent))  # for the helper modules contract and linear_gaussian
pytest.register_assert_rewrite("contract", "linear_gaussian")


@pytest.fixture(autouse=True)
def no_global_state():
    """Seed torch; afterwards Pyro's parameter store must be empty and its settings what they were."""
    torch.manual_seed(0)
    before = pyro.settings.get()
    dtype, validation = torch.get_default_dtype(), validation_enabled_everywhere()
    yield
    assert dict(pyro.get_param_store().items()) == {}, "the test left parameters in Pyro's global store"
    assert pyro.settings.get() == before, "the test changed Pyro's settings"
    assert validation_enabled_everywhere() == validation, "the test changed Pyro's validation"
    assert torch.get_default_dtype() == dtype


def validation_enabled_everywhere():
    return (pyro.settings.get("validate_distributions_pyro"), pyro.settings.get("validate_infer"))
