"""One unit moved at a time: which, over what range, and what the others do meanwhile."""

import sys

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.data import Split
from pyro_vae.plots import NotApplicable, traversals
from pyro_vae.plots.latent_walks import QUANTILES

WEIGHT = torch.randn(3, 5, generator=torch.Generator().manual_seed(3))
SPREAD = torch.tensor([0.01, 2.0, 0.5])  # how far the posterior means of the units lie apart


@pytest.fixture
def drawn(monkeypatch):
    """What is given to the grid of the figure."""
    given = {}

    def grid(values, title, rows, columns, limits):
        given.update(values=values, rows=rows, columns=columns)
        return "figure"

    monkeypatch.setattr(sys.modules[traversals.__module__], "grid", grid)
    return given


def model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT, 0.1).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, :3] * SPREAD, 0.5).to_event(1))


def test_units_by_what_they_tell_and_over_their_own_quantiles(drawn):
    x = torch.randn(400, 5)
    assert traversals(model, guide, Split({"x": x}), rows=2) == "figure"
    assert drawn["rows"] == ["z[1]", "z[2]"] and drawn["columns"][0] == "1%"
    values = drawn["values"]  # (2, 7, 5)
    assert values.shape == (2, 7, 5)
    held = x[0, :3] * SPREAD
    z = torch.linalg.lstsq(WEIGHT.T, values.flatten(0, 1).T).solution.T.reshape(2, 7, 3)  # x.mean = z W
    torch.testing.assert_close(z[0][:, [0, 2]], held[[0, 2]].expand(7, 2), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(z[1][:, [0, 1]], held[[0, 1]].expand(7, 2), atol=1e-4, rtol=1e-4)
    for row, unit in enumerate((1, 2)):
        total = (SPREAD[unit] ** 2 * x[:, unit].var() + 0.25).sqrt()  # of the aggregated posterior
        expected = total * torch.special.ndtri(torch.tensor(QUANTILES)) + SPREAD[unit] * x[:, unit].mean()
        torch.testing.assert_close(z[row, 1:-1, unit], expected[1:-1], atol=0.35 * float(total), rtol=0)
        assert bool((z[row].diff(dim=0)[:, unit] > 0).all())


def two_levels(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        top = pyro.sample("z2", dist.Normal(0.0, 1.0))
        low = pyro.sample("z1", dist.Normal(10 * top, 1.0))
        pyro.sample("x", dist.Normal(torch.stack([top, low], -1), 0.1).to_event(1), obs=x)


def its_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z2", dist.Normal(x[:, 0], 0.1))
        pyro.sample("z1", dist.Normal(x[:, 1], 0.1))


def test_sites_above_are_held_and_those_below_follow(drawn):
    x = torch.randn(200, 2)
    traversals(two_levels, its_guide, Split({"x": x}), rows=2)
    top, low = drawn["values"]  # (7, 2) each: z2, z1
    assert drawn["rows"] == ["z2", "z1"]
    noise = top[:, 1] - 10 * top[:, 0]  # z1 is drawn given the z2 of each step, with one noise
    torch.testing.assert_close(noise, noise[:1].expand(7), atol=1e-4, rtol=1e-4)
    assert float(top[:, 0].diff().min()) > 0
    torch.testing.assert_close(low[:, 0], x[0, 0].expand(7))
    assert float(low[:, 1].diff().min()) > 0


def test_a_picture_and_what_there_is_none_of(caplog):
    figure = traversals(model, guide, Split({"x": torch.randn(30, 5)}))
    assert len(figure.axes) == 3 * len(QUANTILES)

    def codes(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            code = pyro.sample("code", dist.Categorical(torch.ones(4)))
            pyro.sample("x", dist.Normal(code.unsqueeze(-1) + torch.zeros(5), 1.0).to_event(1), obs=x)

    def of_codes(x):
        with pyro.plate("data", len(x)):
            pyro.sample("code", dist.Categorical(logits=x[:, :4]))

    with pytest.raises(NotApplicable, match="no latent site has real values"):
        traversals(codes, of_codes, Split({"x": torch.randn(9, 5)}))
    with pytest.raises(NotApplicable, match="neither images nor vectors"):
        traversals(model, guide, Split({"x": torch.randn(9, 5, 5, 5)}))
