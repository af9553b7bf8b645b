"""Observed parts: quadrants, masks of one's own, what a batch then holds."""

import pytest
import torch

from pyro_vae.data import Split, load_data
from pyro_vae.data.binarization import quadrant_mask
from pyro_vae.errors import InputError


def test_quadrants():
    rows = {1: ["..", "x."], 2: ["x.", "x."], 3: ["x.", "xx"]}
    for observed, picture in rows.items():
        mask = quadrant_mask((3, 4, 6), observed)
        for i, row in enumerate(picture):
            for j, cell in enumerate(row):
                block = mask[:, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3]
                assert bool((block == (cell == "x")).all()), (observed, i, j)
    assert quadrant_mask((1, 5, 5), 1).nonzero()[:, 1:].tolist() == [[i, j] for i in (2, 3, 4) for j in (0, 1)]


@pytest.mark.parametrize("binarization", ["none", "static", "dynamic"])
def test_a_batch_holds_the_observed_part(binarization):
    data = load_data("mnist5k", binarization=binarization, observed_quadrants=1, limit=50)
    assert "lower left" in data.description
    for split in (data.train, data.test):
        assert split.keys == ("x", "y", "mask")
        batch = split.batch(torch.tensor([4, 9, 4]), torch.Generator().manual_seed(1))
        assert batch["mask"].dtype == torch.bool and batch["mask"].shape == batch["x"].shape == (3, 1, 28, 28)
        assert torch.equal(batch["y"], batch["x"] * batch["mask"])  # of the binarized x
        assert batch["mask"].float().mean() == 0.25 and batch["y"].any()


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (1, 3, 4), (6, 2, 3, 4), (6, 1, 3, 4)])
def test_masks_of_ones_own(shape):
    x = torch.rand(6, 2, 3, 4)
    mask = torch.rand(shape) < 0.5
    whole = mask.expand(6, 2, 3, 4)
    split = Split({"x": x, "y": torch.arange(6)}, mask=mask)
    for index in (slice(1, 4), torch.tensor([5, 0, 2])):
        batch = split.batch(index)
        assert torch.equal(batch["mask"], whole[index]) and torch.equal(batch["y"], x[index] * whole[index])
    small = split.subset(2)
    assert torch.equal(small.batch(slice(None))["mask"], whole[:2])
    assert split.to("meta").batch(slice(0, 2))["y"].device.type == "meta"
    batch["mask"].zero_()  # a program may work in place
    assert torch.equal(split.batch(index)["mask"], whole[index])


def test_vectors():
    split = Split({"x": torch.ones(4, 3)}, mask=torch.tensor([True, False, True]))
    assert split.batch(slice(0, 2))["y"].tolist() == [[1, 0, 1]] * 2


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3, 5, dtype=torch.bool), r"got \(3, 5\)"),
        (torch.ones(5, 2, 3, 4, dtype=torch.bool), r"\(6, 2, 3, 4\).*got \(5, 2, 3, 4\)"),
        (torch.ones(4, dtype=torch.bool), r"got \(4,\)"),
        (torch.ones(3, 4), "bool tensor.*got torch.float32"),
        ([[True]], "bool tensor.*got list"),
    ],
)
def test_refused_masks(mask, message):
    with pytest.raises(InputError, match=f"my data: mask must be.*{message}"):
        Split({"x": torch.rand(6, 2, 3, 4)}, mask=mask, name="my data")


def test_refused_quadrants(tmp_path):
    with pytest.raises(InputError, match="observed_quadrants must be 1, 2 or 3, got 4"):
        load_data("mnist5k", observed_quadrants=4, limit=10)
    file = tmp_path / "vectors.npy"
    import numpy as np

    np.save(file, np.zeros((20, 5), dtype=np.float32))
    with pytest.raises(InputError, match=r"observed_quadrants is for images, but one x has shape \(5,\)"):
        load_data(str(file), observed_quadrants=1)
