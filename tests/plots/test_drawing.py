"""Figures in a notebook, and in axes of the user's own."""

import matplotlib.figure
import pytest
import torch

from pyro_vae import plots
from pyro_vae.data import Split
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE

RECORDS = [{"epoch": epoch, "train/kl/z": 1.0 + epoch, "train/loss": 9.0 - epoch} for epoch in (1, 2, 3)]


def pair():
    torch.manual_seed(0)
    model = VAE((1, 6, 6), latent_dim=2, hidden_dims=(8,))
    return model, GaussianGuide(model, hidden_dims=(8,))


def test_a_notebook_shows_what_a_cell_ends_with():
    assert plots.training_curves(RECORDS)._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["kl_heatmap", "manifold"])
def test_axes_of_ones_own_are_drawn_in(name):
    model, _ = pair()
    draw = {
        "kl_heatmap": lambda **ax: plots.kl_heatmap(RECORDS, **ax),
        "manifold": lambda **ax: plots.manifold(model, **ax),
    }
    mine = matplotlib.figure.Figure(figsize=(8, 4))
    left, right = mine.subplots(1, 2)
    assert draw[name](ax=right) is mine
    assert not left.has_data() and right.images and right.get_title() == draw[name]().axes[0].get_title()
    assert tuple(mine.get_size_inches()) == (8, 4)


def test_so_are_a_heat_map_s_bar_and_numbers():
    model, guide = pair()
    torch.manual_seed(1)
    split = Split({"x": torch.rand(20, 1, 6, 6) > 0.5, "y": torch.arange(20) % 3})
    model = VAE((1, 6, 6), latent_dim=3, hidden_dims=(8,))
    guide = GaussianGuide(model, hidden_dims=(8,))
    mine = matplotlib.figure.Figure()
    axes = mine.subplots()
    assert plots.attribute_correlation(model, guide, split, ax=axes) is mine and len(mine.axes) == 2
