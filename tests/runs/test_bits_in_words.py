"""What bits per dimension are of: said wherever they are shown."""

import math

import pytest

from pyro_vae.evaluation.results import bits_are, bits_in_words
from pyro_vae.reports.report_page import _tiles, likelihood_table

LEVELS = {"bits_per_dim": 0.25, "bits_of": "x", "density": False}
DENSITY = {"bits_per_dim": -1.5, "bits_of": "x", "density": True}
BOTH = {"bits_per_dim": 0.5, "bits_of": "x given text", "density": True}
OLD = {"bits_per_dim": 0.25}
COMMON = {"name": "run", "log_likelihood": 1.0, "standard_error": 0.1, "num_particles": 5, "split": "test"}


@pytest.mark.parametrize(
    ("result", "words"),
    [(LEVELS, ""), (DENSITY, "of a density"), (BOTH, "of a density, of x given text"), (OLD, "")],
)
def test_it_is_said_in_the_terminal_and_on_the_pages(result, words):
    assert bits_are(result) == words
    assert bits_in_words(result) == f"{result['bits_per_dim']:.4f} {words}".strip()
    report = {"evaluations": {"test": COMMON | result}, "made": {"split": "test"}, "parameters": {"all": 1}}
    report["training"] = {"epochs": 1, "minutes": 1.0}
    shown = [likelihood_table({"test": COMMON | result}), _tiles(report)]
    assert all((words in page) if words else ("of a density" not in page) for page in shown)


@pytest.mark.parametrize("none", [None, math.nan])
def test_where_there_are_none_the_reason_is_said(none):
    assert bits_in_words({**LEVELS, "bits_per_dim": none}).startswith("none: ")
