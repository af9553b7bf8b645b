"""What the axes of an array are: said, or told and named in the log."""

import logging

import numpy as np
import pytest

from pyro_vae.data import load_data
from pyro_vae.errors import InputError


def loaded(tmp_path, shape, layout=None):
    np.save(tmp_path / "mine.npy", np.zeros(shape, np.uint8))
    return load_data(str(tmp_path / "mine.npy"), layout=layout).train.shape


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((4, 3, 28, 3), "NHWC", (3, 3, 28)),
        ((4, 3, 28, 3), "NCHW", (3, 28, 3)),
        ((4, 8, 9, 4), "NHWC", (4, 8, 9)),
        ((4, 8, 9), "NHW", (1, 8, 9)),
        ((4, 2, 9), "NCL", (2, 9)),
    ],
)
def test_said(tmp_path, caplog, shape, layout, expected):
    with caplog.at_level(logging.INFO):
        assert loaded(tmp_path, shape, layout) == expected
    assert not caplog.records


def test_the_axes_move_with_their_numbers(tmp_path):
    array = np.arange(2 * 3 * 5 * 4, dtype=np.uint8).reshape(2, 3, 5, 4)
    np.savez(tmp_path / "mine.npz", x_train=array, x_test=array)
    data = load_data(str(tmp_path / "mine.npz"), layout="NHWC")
    for split in (data.train, data.test):
        assert np.array_equal(split.tensors["x"].numpy(), np.moveaxis(array, -1, 1))


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ((4, 3, 28, 3), "images with channels first, (N, channels, height, width); else say layout=NHWC"),
        ((4, 28, 28, 4), "images with channels first, (N, channels, height, width); else say layout=NHWC"),
        ((4, 3, 28), "grey images, (N, height, width); else say layout=NCL"),
        ((4, 28, 28, 3), None),
        ((4, 1, 28, 28), None),
        ((4, 28, 28), None),
        ((4, 7), None),
    ],
)
def test_told_and_named(tmp_path, caplog, shape, line):
    with caplog.at_level(logging.INFO):
        loaded(tmp_path, shape)
    told = [record.getMessage() for record in caplog.records]
    assert told == ([] if line is None else [f"{tmp_path}/mine.npy: 'x': shape {shape} read as {line}"])


def test_refusals(tmp_path):
    with pytest.raises(InputError, match=r"mine.npy: 'x' has shape \(4, 8, 9\), but layout NCHW is images"):
        loaded(tmp_path, (4, 8, 9), "NCHW")
    with pytest.raises(InputError, match=r"unknown layout 'NHCW'. Did you mean 'N"):
        loaded(tmp_path, (4, 8, 9, 3), "NHCW")
    with pytest.raises(InputError, match="layout is not for these data, which have no options of their own"):
        load_data("mnist5k", layout="NCHW")
