"""The likelihood of fields: components of training data, that they are saved, what is refused."""

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from pyro_vae.errors import InputError
from pyro_vae.likelihoods import Gaussian, GaussianField

SHAPE = (2, 4, 3)


def data(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(24, 24, generator=generator) * torch.arange(1, 25) / 24
    return (torch.randn(n, 24, generator=generator) @ mixing).view(n, *SHAPE) + 3


@pytest.mark.parametrize("n", [15, 400])  # fewer and more data than numbers
def test_components_are_those_of_numpy(n):
    x, likelihood = data(n), GaussianField(SHAPE, num_components=5)
    assert likelihood.data_wanted == 1000
    likelihood.take_data(x)
    assert likelihood.data_wanted == 0
    values, vectors = np.linalg.eigh(np.cov(x.flatten(1).double().numpy().T))
    np.testing.assert_allclose(likelihood.deviations.numpy() ** 2, values[::-1][:5], rtol=1e-4)
    overlap = np.abs(likelihood.components.flatten(1).numpy() @ vectors[:, ::-1][:, :5])
    np.testing.assert_allclose(overlap, np.eye(5), atol=1e-3)


def test_the_exponent_is_the_papers_loss():
    x, likelihood = data(200), GaussianField(SHAPE, scale=1.0, leading=0.1, num_components=4, gradient=0.01)
    likelihood.take_data(x)
    loc = torch.zeros(200, *SHAPE)
    r = x.double()
    loss = r.square().sum((1, 2, 3)) + 0.01 * (
        r.diff(dim=2).square().sum((1, 2, 3)) + r.diff(dim=3).square().sum((1, 2, 3))
    )
    for direction, deviation in zip(likelihood.components.double(), likelihood.deviations.double(), strict=True):
        loss += 0.1 * ((r * direction).sum((1, 2, 3)) / deviation).square()
    p = likelihood(loc)
    torch.testing.assert_close((p.log_prob(loc) - p.log_prob(x)).double(), loss / 2, rtol=1e-4, atol=1e-3)


def test_without_weights_it_is_the_gaussian():
    likelihood, x = GaussianField(SHAPE, leading=0.0, gradient=0.0), data(5)
    assert likelihood.data_wanted == 0
    truth = Gaussian("learned")(torch.zeros(5, *SHAPE)).log_prob(x)
    torch.testing.assert_close(likelihood(torch.zeros(5, *SHAPE)).log_prob(x), truth)
    assert float(softplus(likelihood.raw_scale.detach()) + 1e-3) == pytest.approx(1.0)


def test_components_are_saved():
    likelihood, other = GaussianField(SHAPE, num_components=3), GaussianField(SHAPE, num_components=3)
    likelihood.take_data(data(50))
    other.load_state_dict(likelihood.state_dict())
    loc = torch.zeros(5, *SHAPE)
    assert other.data_wanted == 0
    assert torch.equal(other(loc).log_prob(data(5)), likelihood(loc).log_prob(data(5)))


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"data_shape": None}, "data_shape"),
        ({"data_shape": (24,)}, "data_shape"),
        ({"leading": -1.0}, "leading"),
        ({"gradient": float("nan")}, "gradient"),
        ({"num_components": 0}, "num_components"),
        ({"num_components": 25}, "at most 24"),
        ({"scale": "per_pixel"}, "one for all pixels"),
        ({"scale": 0.0}, "scale"),
    ],
)
def test_bad_arguments(arguments, said):
    with pytest.raises(InputError, match=said):
        GaussianField(**{"data_shape": SHAPE, **arguments})


def test_bad_data():
    likelihood = GaussianField(SHAPE, num_components=5)
    with pytest.raises(InputError, match="data_shape"):
        likelihood.take_data(torch.zeros(9, 24))
    with pytest.raises(InputError, match=r"3 training data, and these vary in 2 directions: .*num_components=2"):
        likelihood.take_data(data(3))
    with pytest.raises(InputError, match="missing"):
        likelihood.take_data(data(9).fill_(float("nan")))
    with pytest.raises(InputError, match="features are of shape"):
        likelihood(torch.zeros(5, 2, 4, 4))
