"""The registry, the embedded digits, and what load_data refuses."""

import hashlib

import numpy as np
import pytest
import torch

from pyro_vae.data import dataset_names, load_data
from pyro_vae.errors import InputError

CHECKSUMS = {  # sha256 of the uint8 images followed by the labels as bytes
    "train": "8405c6cc4f7ba7f3e817f3f91cded0cabb83dbe3a2ac2f75d0e986e83b8274b2",
    "validation": "3f7e2dc26818812da28e111640dc33eaeb88ae04d7a1fdb4f42917894d1653f8",
    "test": "65a970ea34c4903e605f7aa6e887463e3f81c8862f77414948a346e61dbec621",
}


def test_mnist5k_is_what_the_documentation_says():
    data = load_data("mnist5k")
    seen = set()
    for part, size in (("train", 4000), ("validation", 500), ("test", 500)):
        split = getattr(data, part)
        x, y = split.tensors["x"], split.tensors["y"]
        assert len(split) == size and split.shape == (1, 28, 28)
        assert x.dtype == torch.uint8 and y.dtype == torch.int64
        assert y.bincount().tolist() == [size // 10] * 10
        assert (y[1:] < y[:-1]).any()  # shuffled: not one class after the other
        content = x.numpy().tobytes() + y.numpy().astype(np.uint8).tobytes()
        assert hashlib.sha256(content).hexdigest() == CHECKSUMS[part]
        seen |= {image.numpy().tobytes() for image in x}
    assert len(seen) == 5000  # no digit twice, none in two splits
    assert data.name == "mnist5k" and "4,000 train / 500 validation / 500 test" in data.description
    assert 0.12 < data.train.mean().mean() < 0.14  # MNIST's is 0.1307


def test_names_and_descriptions():
    names = dataset_names()
    expected = {
        "mnist5k",
        "fashion-mnist",
        "mnist",
        "kmnist",
        "omniglot",
        "cifar10",
        "svhn",
        "celeba",
        "speech",
        "state-space",
    }
    expected |= {"emoji", "emoji-names", "shapes", "toy-table", "toy-counts", "toy-topics", "grammar", "verses"}
    expected |= {"tunes", "grid-world", "vizdoom", "coloured-shapes", "moving-scenes"}
    assert names.keys() == expected
    assert all(text and "\n" not in text for text in names.values())


def test_limit_and_image_size():
    whole = load_data("mnist5k")
    data = load_data("mnist5k", limit=7, image_size=14)
    for part in ("train", "validation", "test"):
        split = getattr(data, part)
        assert len(split) == 7 and split.shape == (1, 14, 14) and split.tensors["x"].dtype == torch.uint8
        assert torch.equal(split.tensors["y"], getattr(whole, part).tensors["y"][:7])
    # Halving with the antialiased triangle filter weighs four neighbours as 1, 3, 3, 1 along each side;
    # at the border those of them that exist.
    image = whole.train.tensors["x"][:7, 0].double()
    weights = torch.zeros(14, 28, dtype=torch.float64)
    for i in range(14):
        for offset, weight in zip(range(-1, 3), (1, 3, 3, 1), strict=True):
            if 0 <= 2 * i + offset < 28:
                weights[i, 2 * i + offset] = weight
    weights /= weights.sum(1, keepdim=True)
    expected = weights @ image @ weights.T
    assert (data.train.tensors["x"][:, 0].double() - expected).abs().max() <= 1.5  # rounded along each side
    assert "at most 7" in data.description


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mnits5k", {}, "unknown dataset 'mnits5k'. Did you mean 'mnist5k'?"),
        ("fashionmnist", {}, "Did you mean 'fashion-mnist'?"),
        ("missing.npz", {}, "'missing.npz': no such file"),
        ("some/folder", {}, "'some/folder': no such file or folder"),
        ("mnist5k", {"limit": 0}, "limit must be a positive integer, got 0"),
        ("mnist5k", {"limit": 2.5}, "limit must be a positive integer, got 2.5"),
        ("mnist5k", {"image_size": -4}, "image_size must be a positive integer, got -4"),
        ("mnist5k", {"root": "/no/such"}, "root: no such folder: /no/such"),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(InputError) as caught:
        load_data(name, **options)
    assert message in str(caught.value)


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "data.xls").write_text("1,2\n")
    with pytest.raises(InputError, match=r"data.xls: a data file must be .npz or .npy, or of texts, .txt"):
        load_data(str(tmp_path / "data.xls"))
