"""The cosine transform over time: against scipy's, a rotation, a projection, blind to mirrors."""

import pytest
import torch
from scipy.fft import dct

from pyro_vae.data import mirrored
from pyro_vae.errors import InputError
from pyro_vae.networks import CosineTransform


@pytest.mark.parametrize("frames", [1, 2, 7, 10, 30])
def test_it_is_scipys(frames):
    x = torch.randn(4, 3, 2 * frames, 5, 2)
    wanted = torch.from_numpy(dct(x.double().unflatten(2, (2, frames)).numpy(), norm="ortho", axis=3)).flatten(2, 3)
    torch.testing.assert_close(CosineTransform(frames)(x), wanted.float(), rtol=1e-5, atol=1e-5)
    few = max(1, frames // 2)
    found = CosineTransform(frames, few)(x).unflatten(2, (2, few))
    torch.testing.assert_close(found, wanted.float().unflatten(2, (2, frames))[:, :, :, :few], rtol=1e-5, atol=1e-5)


def test_all_coefficients_are_a_rotation():
    transform, x = CosineTransform(10), torch.randn(6, 20, 4, 4)
    y = transform(x)
    torch.testing.assert_close(transform.inverse(y), x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(y.square().sum((1, 2, 3)), x.square().sum((1, 2, 3)))
    assert transform.matrix.double().slogdet().logabsdet.abs() < 1e-5 and transform.complete


def test_fewer_are_a_projection():
    transform, x = CosineTransform(10, 4), torch.randn(6, 20, 4, 4)
    smooth = transform.inverse(transform(x))
    torch.testing.assert_close(transform.inverse(transform(smooth)), smooth, rtol=1e-5, atol=1e-5)
    assert (smooth.square().sum() < x.square().sum()) and not transform.complete
    torch.testing.assert_close((smooth * (x - smooth)).sum(), torch.tensor(0.0), rtol=0, atol=1e-3)
    linear = (torch.arange(1.0, 11.0) / 10).repeat(2).view(1, 20, 1, 1)  # of even speed: 5 of 10 have 99.97 % of it
    left = CosineTransform(10, 5)(linear).square().sum() / linear.square().sum()
    assert 0.9995 < left < 1


@pytest.mark.parametrize("coefficients", [10, 4])
def test_it_commutes_with_mirrors(coefficients):
    transform, x = CosineTransform(10, coefficients), torch.randn(6, 20, 4, 4)
    torch.testing.assert_close(transform(mirrored(x)), mirrored(transform(x)))


def test_refusals():
    with pytest.raises(InputError, match="10 frames have so many at most, got 11"):
        CosineTransform(10, 11)
    with pytest.raises(InputError, match="coefficients must be a positive integer"):
        CosineTransform(10, 0)
    with pytest.raises(InputError, match="CosineTransform"):
        CosineTransform(10)(torch.zeros(3, 18, 4, 4))
