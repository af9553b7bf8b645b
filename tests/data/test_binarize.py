"""Binarization done once, and load_data's wiring of it."""

import importlib

import pytest
import torch

from pyro_vae.data import binarize, load_data
from pyro_vae.data.binarization import drawn_with, noise_for
from pyro_vae.errors import InputError


def test_threshold_at_one_half():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 256)
    expected = torch.tensor([[i / 255 >= 0.5 for i in range(256)]])
    result = binarize(levels, "threshold")
    assert result.dtype == torch.bool and torch.equal(result, expected)
    assert binarize(torch.tensor([[0.499, 0.5, 1.0]]), "threshold").tolist() == [[False, True, True]]


@pytest.mark.parametrize("floating", [False, True])
def test_static_statistics(floating):
    draws = 4000
    levels = torch.arange(256, dtype=torch.uint8).repeat(draws, 1)
    p = torch.arange(256).double() / 255
    mean = binarize(levels.float() / 255 if floating else levels, "static", seed=3).double().mean(0)
    sigma = (p * (1 - p) / draws).sqrt()
    assert mean[0] == 0 and mean[255] == 1
    assert ((mean - p).abs() <= 5 * sigma).all()


def test_static_streams():
    x = torch.full((100, 30), 127, dtype=torch.uint8)
    first = binarize(x, "static", seed=0)
    assert torch.equal(first, binarize(x, "static", seed=0))
    for other in (binarize(x, "static", seed=1), binarize(x, "static", seed=0, part="test")):
        assert 0.4 < (first != other).double().mean() < 0.6


def test_chunks_and_prefixes_draw_the_same(monkeypatch):
    module = importlib.import_module("pyro_vae.data.binarization")
    x = torch.full((100, 30), 127, dtype=torch.uint8)
    whole = binarize(x, "static", seed=5)
    assert torch.equal(binarize(x[:37], "static", seed=5), whole[:37])
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 200)
    assert torch.equal(binarize(x, "static", seed=5), whole)


def test_load_data_wires_each_kind():
    options = {"limit": 60}
    grey = load_data("mnist5k", **options)
    threshold = load_data("mnist5k", binarization="threshold", **options)
    static = load_data("mnist5k", binarization="static", binarization_seed=2, **options)
    dynamic = load_data("mnist5k", binarization="dynamic", binarization_seed=2, **options)
    levels = grey.train.tensors["x"]
    assert torch.equal(threshold.train.tensors["x"], levels >= 128)
    assert torch.equal(threshold.test.tensors["x"], grey.test.tensors["x"] >= 128)
    for part in ("train", "validation", "test"):
        stored = getattr(static, part).tensors["x"]
        assert stored.dtype == torch.bool
        assert torch.equal(stored, binarize(getattr(grey, part).tensors["x"], "static", seed=2, part=part))
    assert dynamic.train.binarization == "dynamic" and torch.equal(dynamic.train.tensors["x"], levels)
    for part in ("validation", "test"):
        assert torch.equal(getattr(dynamic, part).tensors["x"], getattr(static, part).tensors["x"])
        assert getattr(dynamic, part).binarization == "none"
    assert "seed 2" in static.description and "seed 2" in dynamic.description
    assert "threshold" in threshold.description and "not binarized" in grey.description
    whole = load_data("mnist5k", binarization="static", binarization_seed=2)
    assert torch.equal(whole.test.tensors["x"][:60], static.test.tensors["x"])


def test_refusals():
    with pytest.raises(InputError, match=r"\[-1, 0.5\]"):
        binarize(torch.tensor([[-1.0, 0.5]]), "static")
    with pytest.raises(InputError, match="Did you mean 'static'"):
        load_data("mnist5k", binarization="statc")
    for seed in (-1, 1.5, True):
        with pytest.raises(InputError, match="binarization_seed"):
            load_data("mnist5k", binarization="static", binarization_seed=seed)


def test_the_probability_of_every_level_by_enumeration():
    """All 256 values of the noise, each with a grid of dithers: x/255 exactly, at every pixel of a datum."""
    dithers = (torch.arange(255) + 0.5) / 255
    levels = torch.arange(256, dtype=torch.uint8)
    drawn = []
    for value in range(256):  # (dithers, levels): the data are the dithers
        x = levels.expand(255, -1)
        drawn.append(drawn_with(x, torch.full(x.shape, value, dtype=torch.uint8), dithers).double())
    probability = torch.stack(drawn).mean((0, 1))
    assert (probability - levels.double() / 255).abs().max() < 1.01 / 256 / 255  # one step of the grid of dithers
    assert probability[0] == 0 and probability[255] == 1


def test_noise_is_uniform():
    noise = noise_for(torch.zeros(1000, 7, 9, dtype=torch.uint8), torch.Generator().manual_seed(0))
    assert noise["noise"].shape == (1000, 7, 9) and noise["dither"].shape == (1000,)
    counts = torch.bincount(noise["noise"].flatten().to(torch.int64), minlength=256).double()
    expected = 63000 / 256
    assert ((counts - expected).square() / expected).sum() < 255 + 5 * (2 * 255) ** 0.5  # chi-squared
    numbers = noise["noise"].flatten().double()
    assert torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1].abs() < 5 / 63000**0.5
    assert noise["dither"].min() >= 0 and noise["dither"].max() < 1 and abs(noise["dither"].mean() - 0.5) < 0.05


def test_pixels_are_drawn_independently():
    """The number of ones among grey pixels varies as a sum of independent draws does."""
    x = torch.full((20_000, 64), 100, dtype=torch.uint8)
    counts = drawn_with(x, **noise_for(x, torch.Generator().manual_seed(1))).double().sum(1)
    p = 100 / 255
    assert abs(counts.mean() - 64 * p) < 5 * (64 * p * (1 - p) / 20_000) ** 0.5
    assert abs(counts.var() / (64 * p * (1 - p)) - 1) < 5 * (2 / 20_000) ** 0.5
