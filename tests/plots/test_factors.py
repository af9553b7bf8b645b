"""The heat map of what units know of factors."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.data import Split
from pyro_vae.errors import InputError, NotApplicable
from pyro_vae.plots import factor_information
from pyro_vae.plots.registry import in_report


def model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(30), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def split(**more):
    row, side = torch.arange(240) % 4, torch.arange(240) // 4 % 3
    x = torch.zeros(240, 30)
    x[:, 7], x[:, 25] = row.float(), -side.float()
    return Split({"x": x, "factor.row": row, "factor.side": side, **more}, name="toy")


def test_it_holds_the_share_of_each_factors_entropy_that_a_unit_knows():
    axes = factor_information(model, guide, split()).axes[0]
    matrix = torch.as_tensor(axes.images[0].get_array())
    rows = [text.get_text() for text in axes.get_yticklabels()]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["row", "side"]
    assert matrix.shape == (20, 2) and len(set(rows)) == 20 and "the 20 of 30 that know most" in axes.get_title()
    expected = torch.zeros(20, 2, dtype=torch.float64)
    expected[rows.index("z[7]"), 0] = expected[rows.index("z[25]"), 1] = 1
    torch.testing.assert_close(matrix, expected)
    assert {text.get_text() for text in axes.texts} == {"0.00", "1.00"} and "factor_information" in in_report()


def test_what_does_not_apply_is_said():
    with pytest.raises(NotApplicable, match="have no known factors"):
        factor_information(model, guide, Split({"x": torch.rand(9, 30)}))
    with pytest.raises(InputError, match="'same' has fewer than two classes"):
        factor_information(model, guide, split(**{"factor.same": torch.ones(240).long()}))
