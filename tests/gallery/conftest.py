"""The programs of examples/gallery, each in a module of its own, and each trained once for all tests."""

import functools
import importlib.util
import logging
import sys
from pathlib import Path

import pytest
import torch

import pyro_vae

sys.path.insert(0, str(Path(__file__).parent))  # for truths
FOLDER = Path(__file__).parents[2] / "examples" / "gallery"


def names():
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def load_module(name):
    """A program by its file's name, in a fresh module."""
    spec = importlib.util.spec_from_file_location(f"gallery_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def load():
    return load_module


class Told(logging.Handler):
    """What the package's log says."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@functools.cache
def train(name):
    """The module, what training it returned, and what the log said: 500 data."""
    module, told = load_module(name), Told()
    logger = logging.getLogger("pyro_vae")
    level = logger.level
    logger.addHandler(told)
    logger.setLevel(logging.INFO)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model, guide = module.pair()
            size = getattr(module, "BATCH_SIZE", 100)
            how = {"learning_rate": module.LEARNING_RATE, "batch_size": size, "progress": False, "device": "cpu"}
            result = pyro_vae.fit(model, guide, module.data(500), epochs=module.EPOCHS, compile="graph", **how)
    finally:
        logger.removeHandler(told)
        logger.setLevel(level)
    return module, result, told.lines


@pytest.fixture
def trained():
    return train
