"""Attribute vectors and their correlation, against numbers worked out by hand and by numpy."""

import numpy as np
import pytest
import torch

from pyro_vae.errors import InputError
from pyro_vae.evaluation.latent_space import attribute_correlation, attribute_vectors


def test_vectors_of_classes_are_differences_of_means():
    z = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 6.0], [0.0, 2.0], [-4.0, 8.0]])
    names, vectors = attribute_vectors(z, torch.tensor([7, 7, 2, 2, 5]))
    assert names == [2, 5, 7]
    torch.testing.assert_close(vectors[0], torch.tensor([0.0, 4.0]) - torch.tensor([0.0, 8 / 3]))
    torch.testing.assert_close(vectors[1], torch.tensor([-4.0, 8.0]) - torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(vectors[2], torch.tensor([2.0, 0.0]) - torch.tensor([-4 / 3, 16 / 3]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_vectors_of_overlapping_attributes_keep_the_shape_of_z(dtype):
    generator = torch.Generator().manual_seed(0)
    has = torch.rand(200, 3, generator=generator) < 0.4
    known = torch.randn(3, 2, 5, generator=generator)
    z = torch.randn(200, 2, 5, generator=generator) + 100
    names, vectors = attribute_vectors(z, has.to(dtype))
    assert names == [0, 1, 2] and vectors.shape == known.shape
    for a in range(3):
        torch.testing.assert_close(vectors[a], z[has[:, a]].mean(0) - z[~has[:, a]].mean(0), rtol=1e-4, atol=1e-4)
    one = (torch.arange(200) % 2).to(dtype)[:, None]
    shifted = attribute_vectors(one[..., None].float() * known[:1] + 1, one).vectors
    torch.testing.assert_close(shifted, known[:1])


def test_scalar_latents():
    assert attribute_vectors(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 0, 1])).vectors.tolist() == [-4.5, 4.5]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(5, dtype=torch.int64), "attribute 0: all of the 5 data have it"),
        (torch.stack([torch.arange(5) % 2, torch.zeros(5)], 1), "attribute 1: none of the 5 data"),
        (torch.rand(5), "labels must be integer classes"),
        (torch.rand(5, 2), "0s and 1s"),
        (torch.zeros(5, 2, 2), r"of shape \(5, 2, 2\)"),
        (torch.arange(4), "4 labels for 5 data"),
    ],
)
def test_labels_that_have_no_vectors_are_refused(labels, words):
    with pytest.raises(InputError, match=words):
        attribute_vectors(torch.randn(5, 3), labels)


def test_correlation_of_known_vectors():
    vectors = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 2.0, 1.0], [1.0, 0.0, 1.0]])
    expected = torch.tensor([[1.0, 1, -1, 0], [1, 1, -1, 0], [-1, -1, 1, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(attribute_correlation(vectors), expected, atol=1e-6, rtol=0)
    z = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
    found = attribute_correlation(z)
    np.testing.assert_allclose(found, np.corrcoef(z.flatten(1).numpy()), atol=1e-5)
    assert torch.equal(found, found.T) and found.abs().max() <= 1


def test_correlations_that_mean_nothing_are_refused():
    with pytest.raises(InputError, match="at least 3 units"):
        attribute_correlation(torch.randn(4, 2))
    with pytest.raises(InputError, match="attribute vector 1 is the same in all units"):
        attribute_correlation(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
