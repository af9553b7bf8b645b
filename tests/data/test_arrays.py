"""Array files of one's own."""

import numpy as np
import pytest
import torch

from pyro_vae.data import load_data
from pyro_vae.errors import CorruptFileError, InputError

PARTS = ("train", "validation", "test")


def save(tmp_path, **arrays):
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, **arrays)
    return str(path)


def test_random_split_is_a_partition_and_keeps_pairs(tmp_path):
    path = save(tmp_path, x=np.arange(105, dtype=np.float64).reshape(105, 1), y=np.arange(105, dtype=np.int16))
    data = load_data(path)
    assert [len(getattr(data, part)) for part in PARTS] == [85, 10, 10]
    labels = torch.cat([getattr(data, part).tensors["y"] for part in PARTS])
    assert labels.dtype == torch.int64 and labels.sort().values.tolist() == list(range(105))
    assert labels.tolist() != list(range(105))
    for part in PARTS:
        tensors = getattr(data, part).tensors
        assert tensors["x"].dtype == torch.float32 and torch.equal(tensors["x"][:, 0], tensors["y"].float())
    assert torch.equal(load_data(path).test.tensors["y"], data.test.tensors["y"])
    assert [len(getattr(load_data(path, limit=4), part)) for part in PARTS] == [4, 4, 4]


def test_too_few_data_to_split(tmp_path):
    data = load_data(save(tmp_path, x=np.zeros((9, 2), np.float32)))
    assert len(data.train) == 9 and data.validation is None and data.test is None


def test_given_splits_are_kept(tmp_path):
    path = save(
        tmp_path,
        x_train=np.full((5, 2), -1.5),
        y_train=np.arange(5),
        x_test=np.full((3, 2), 2.5),
        y_test=np.arange(3),
    )
    data = load_data(path)
    assert data.validation is None and len(data.train) == 5 and len(data.test) == 3
    assert data.train.batch(slice(0, 1))["x"].tolist() == [[-1.5, -1.5]]
    assert data.test.tensors["y"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 6), (6,)),
        ((2, 5, 6), (1, 5, 6)),
        ((2, 3, 5, 6), (3, 5, 6)),
        ((2, 4, 5, 6), (4, 5, 6)),
        ((2, 5, 6, 3), (3, 5, 6)),
        ((2, 5, 6, 1), (1, 5, 6)),
        ((2, 3, 6, 3), (3, 6, 3)),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.bool_])
def test_shapes(tmp_path, shape, expected, dtype):
    array = (np.arange(np.prod(shape)).reshape(shape) % 200).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    data = load_data(str(tmp_path / "x.npy"))
    assert data.train.shape == expected
    wanted = np.moveaxis(array, -1, 1) if expected[-1] != shape[-1] else array.reshape(2, *expected)
    got = np.stack([x.numpy() for x in data.train.tensors["x"]])
    order = np.argsort([x.sum() for x in got.astype(float)], kind="stable")
    if dtype is not np.bool_:  # the split is at random: put the two data in order
        wanted = wanted[np.argsort([x.sum() for x in wanted.astype(float)], kind="stable")]
        assert np.array_equal(got[order], wanted) and got.dtype == dtype


def test_binarization_of_floats(tmp_path):
    path = save(tmp_path, x=np.array([[0.2, 0.8]] * 10))
    data = load_data(path, binarization="threshold")
    assert data.train.batch(slice(0, 1))["x"].tolist() == [[0.0, 1.0]]
    path = save(tmp_path, x=np.array([[0.2, 8.0]] * 10))
    for how in ("threshold", "static", "dynamic"):
        with pytest.raises(InputError, match=r"mine.npz train: .*\[0, 1\]"):
            load_data(path, binarization=how)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((3, 2))}, "unexpected array 'images'"),
        ({"x_test": np.zeros((3, 2))}, "no 'x' and no 'x_train'; found: x_test"),
        ({"y_train": np.zeros(3)}, "no 'x' and no 'x_train'; found: y_train"),
        ({"x_train": np.zeros((3, 2)), "x_val": np.zeros((3, 2))}, "unexpected array 'x_val'"),
        ({"x": np.zeros((3, 2)), "x_test": np.zeros((3, 2))}, "both 'x' and 'x_test'"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, "'y' has 4 entries but 'x' has 3"),
        (
            {"x_train": np.zeros((3, 2)), "y_train": np.zeros(3), "x_test": np.zeros((3, 2))},
            "test has x but train has x, y",
        ),
        ({"x_train": np.zeros((3, 2)), "x_test": np.zeros((3, 4))}, r"\(2,\) in train but \(4,\) in test"),
        ({"x": np.zeros((3, 2), np.int64)}, "'x' must be uint8 .* got int64"),
        ({"x": np.array([["a"]])}, "'x' must be uint8"),
        ({"x": np.zeros((3, 2)), "y": np.array(["a", "b", "c"])}, "'y' must be numbers, got <U1"),
        ({"x": np.zeros(3)}, r"'x' has shape \(3,\)"),
        ({"x": np.zeros((0, 3))}, r"'x' is empty, its shape is \(0, 3\)"),
        ({"x": np.float32(3)}, "single number"),
        ({"x": np.array([[1.0, np.nan]])}, "'x' holds NaN"),
        ({"x_train": np.ones((2, 2)), "x_test": np.array([[np.inf, 1.0]])}, "'x_test' holds NaN or infinite"),
        ({"x": np.array([[None]])}, "Python objects"),
    ],
)
def test_refusals_name_file_and_array(tmp_path, arrays, message):
    path = save(tmp_path, **arrays)
    with pytest.raises(InputError, match=message) as caught:
        load_data(path)
    assert "mine.npz" in str(caught.value)


@pytest.mark.parametrize("name", ["mine.npz", "mine.npy"])
@pytest.mark.parametrize("keep", [0, 0.1, 0.5, 0.95])
def test_truncated_files_are_named(tmp_path, name, keep):
    path = tmp_path / name
    array = np.random.RandomState(0).randint(0, 256, (50, 28, 28)).astype(np.uint8)
    np.save(path, array) if name.endswith("npy") else np.savez_compressed(path, x=array)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CorruptFileError, match="truncated or damaged") as caught:
        load_data(str(path))
    assert str(path) in str(caught.value)


def test_damaged_inside(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, x=np.random.RandomState(0).randint(0, 256, (50, 28, 28)).astype(np.uint8))
    content = bytearray(path.read_bytes())
    content[5000:5100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"mine.npz"):
        load_data(str(path))
    path.write_text("this is no array file")
    with pytest.raises(CorruptFileError, match=r"mine.npz"):
        load_data(str(path))


def test_pickles_are_not_run(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "mine.npy").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match=r"mine.npy"):
        load_data(str(tmp_path / "mine.npy"))
    assert not (tmp_path / "ran").exists()
