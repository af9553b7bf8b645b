"""Figures show the very data that are measured."""

import pytest
import torch

from pyro_vae.data import Split
from pyro_vae.plots.images import pick


@pytest.mark.parametrize("n", [3, 20])
def test_dynamic_figures_show_the_data_that_are_measured(n):
    split = Split({"x": torch.full((20, 9), 128, dtype=torch.uint8), "y": torch.arange(20)}, binarization="dynamic")
    shown, measured = pick(split, n), split.batch(slice(None))
    assert torch.equal(shown["x"], measured["x"][shown["y"]]) and len(shown["x"]) == n


def test_text_is_shown_as_it_is_measured():
    split = Split({"x": torch.zeros(9, 2)}).with_variants({"text": torch.arange(36).view(9, 4, 1)})
    assert torch.equal(pick(split, 9)["text"], 4 * torch.arange(9)[:, None])
