"""The figure of the worst data: those with the largest k-hat, in order, with their numbers."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import plots as figures
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation.dimensions import DataSite
from pyro_vae.evaluation.results import LogLikelihood
from pyro_vae.plots import NotApplicable

SITES = {"x": DataSite(9.0, False)}

SHAPE = (1, 3, 3)
NARROW = [7, 31, 52]


def model(x=None, num_samples=1):
    """z ~ N(0, 1), every pixel is the sigmoid of z and noise."""
    with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = z.sigmoid()[..., None, None, None].expand(*z.shape, *SHAPE)
        return pyro.sample("x", dist.Normal(mean, 10.0).to_event(3), obs=x)


def guide(x):
    """Nearly the posterior (the prior), but far too narrow where the last pixel is above 1/2."""
    scale = torch.where(x[..., 0, 2, 2] > 0.5, 0.05, 1.2)
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), scale))


@pytest.fixture
def split():
    x = 0.4 * torch.rand(60, *SHAPE, generator=torch.Generator().manual_seed(0))
    x[NARROW, 0, 2, 2] = 1.0
    return Split({"x": x}, name="toy")


def labels(figure):
    return [label.get_text() for label in figure.axes[0].get_xticklabels()]


def tiles(figure, rows, columns):
    picture = torch.as_tensor(figure.axes[0].images[0].get_array())[..., 0]
    return [[picture[4 * i : 4 * i + 3, 4 * j : 4 * j + 3] for j in range(columns)] for i in range(rows)]


def test_the_data_with_too_narrow_a_guide_are_found(split):
    figure = figures.worst_data(model, guide, split, n=3, seed=2)  # of 200 particles k-hat is noisy: 0.35 to 1.2
    shown = tiles(figure, 2, 3)
    known = {tuple(split.tensors["x"][i].flatten().tolist()) for i in NARROW}
    assert {tuple(tile.flatten().tolist()) for tile in shown[0]} == known
    for tile in shown[1]:  # reconstructions: z is near 0
        assert (tile - 0.5).abs().max() < 0.1
    shapes = [float(label.split()[1]) for label in labels(figure)]
    assert shapes == sorted(shapes, reverse=True) and min(shapes) > 0.7
    assert "the worst of 60 data" in figure.get_suptitle() and "200 particles" in figure.get_suptitle()


def test_what_was_measured_is_shown_in_order_without_undefined_values(split):
    shapes = torch.full((60,), torch.nan).double()
    shapes[[3, 40, 12, 59]] = torch.tensor([0.31, 1.25, -0.4, 0.72]).double()
    measured = LogLikelihood(torch.arange(60.0).double() - 100, torch.arange(60.0).double() + 1, shapes, 500, SITES)
    figure = figures.worst_data(model, guide, split, measured)
    expected = ["k 1.25\nESS 41\n-60.0", "k 0.72\nESS 60\n-41.0", "k 0.31\nESS 4\n-97.0", "k -0.40\nESS 13\n-88.0"]
    assert labels(figure) == expected
    for tile, i in zip(tiles(figure, 1, 4)[0], [40, 59, 3, 12], strict=True):
        assert torch.equal(tile, split.tensors["x"][i, 0])
    assert len(labels(figures.worst_data(model, guide, split, measured, n=2))) == 2
    with pytest.raises(InputError, match="measured has 60 data, but the split has 59"):
        figures.worst_data(model, guide, split.subset(59), measured)


def test_where_it_does_not_apply_it_says_why(split):
    def certain(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Delta(torch.zeros(len(x))))

    unknown = LogLikelihood(torch.zeros(60), torch.ones(60), torch.full((60,), torch.nan), 20, SITES)
    for arguments, words in (
        ((model, certain, split), "no datum has a Pareto k-hat"),
        ((model, guide, split, unknown), "no datum has a Pareto k-hat"),
        ((model, guide, Split({"x": torch.rand(5, 5, 3, 3)})), "neither images nor vectors"),
    ):
        with pytest.raises(NotApplicable, match=words):
            figures.worst_data(*arguments)
