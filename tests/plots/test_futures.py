"""The figure of futures over an image, and its groups."""

import pytest
import torch

from pyro_vae.data import Motions, Split
from pyro_vae.errors import NotApplicable
from pyro_vae.models import VAE, ForecastRegressor, ForecastVAE
from pyro_vae.plots import futures
from pyro_vae.plots.motions import k_means

SIZES = {"channels": (6, 8), "context_dim": 7}


def split():
    return Split({"x": 3 * torch.randn(9, 6, 4, 4), "image": torch.rand(9, 3, 8, 8)})


def test_groups_are_found():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    which = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.randperm(100, generator=generator)]
    points = torch.stack([centres[which], centres[which] + 5]) + 0.5 * torch.randn(2, 100, 2, generator=generator)
    means, shares = k_means(points, 3)
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.3, 0.2]]).expand(2, -1))
    for i in range(2):
        for k in range(3):
            torch.testing.assert_close(means[i, k], points[i][which == k].mean(0))
    means, shares = k_means(torch.ones(1, 8, 2), 3)  # all alike: one group
    assert shares.tolist() == [[1.0, 0.0, 0.0]] and torch.equal(means[0, 0], torch.ones(2))


def test_the_figure_shows_data_futures_and_groups():
    torch.manual_seed(0)
    model = ForecastVAE((6, 4, 4), (3, 8, 8), **SIZES)
    drawn = futures(model, split(), Motions(3), rows=2, draws=3, groups=2, num_drawn=10)
    titles = [axes.get_title() for axes in drawn.axes]
    assert len(titles) == 2 * 6 and titles[:4] == ["data", "future 1", "future 2", "future 3"]
    for row in (titles[4:6], titles[10:12]):
        assert sum(int(title.rstrip("%")) for title in row if title) == 100
    regressor = ForecastRegressor((6, 4, 4), (3, 8, 8), **SIZES)
    titles = [axes.get_title() for axes in futures(regressor, split(), Motions(3), rows=1, num_drawn=5).axes]
    assert titles[5:] == ["100%", "", "", ""]


def test_what_has_no_futures():
    torch.manual_seed(0)
    with pytest.raises(NotApplicable, match="no motions"):
        futures(ForecastVAE((6, 4, 4), (3, 8, 8), **SIZES), split(), None)
    with pytest.raises(NotApplicable, match="given no image"):
        futures(VAE((6, 4, 4), hidden_dims=(8,)), split(), Motions(3))
