"""IDX files: the reader, the search, the splits, the failing download."""

import gzip
import struct
from urllib.error import URLError

import numpy as np
import pytest
import torch

from pyro_vae.data import load_data
from pyro_vae.data.sources.idx import FILES, read_idx
from pyro_vae.errors import CorruptFileError, InputError


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_set(folder, value=0, compressed=True):
    """A complete set of 2 x 2 images; image i holds the bytes of i, plus value in the last pixel."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 60_000), ("test", 10_000)):
        index = np.arange(count)
        x = np.stack([index % 256, index // 256, index * 0, index * 0 + value], 1).astype(np.uint8)
        for key, array in (("x", x.reshape(-1, 2, 2)), ("y", (index % 10).astype(np.uint8))):
            name, content = FILES[part, key], idx_bytes(array)
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
            else:
                (folder / name).write_bytes(content)


def value_of(data):
    return data.train.tensors["x"][0, 0, 1, 1].item()


@pytest.mark.parametrize("compressed", [True, False])
def test_splits(tmp_path, compressed):
    write_set(tmp_path, compressed=compressed)
    data = load_data("kmnist", root=tmp_path)
    for part, first, size in (("train", 0, 50_000), ("validation", 50_000, 10_000), ("test", 0, 10_000)):
        x, y = (getattr(data, part).tensors[key] for key in ("x", "y"))
        assert x.shape == (size, 1, 2, 2) and x.dtype == torch.uint8 and y.dtype == torch.int64
        index = torch.arange(first, first + size)
        assert torch.equal(x[:, 0, 0, 0].long() + 256 * x[:, 0, 0, 1].long(), index)
        assert torch.equal(y, index % 10)
    assert "50,000 train / 10,000 validation / 10,000 test" in data.description


def test_order_of_search(tmp_path, monkeypatch, empty_home):
    name = "fashion-mnist"
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path / "variable"))
    (tmp_path / "root").mkdir()
    write_set(empty_home / "system" / name, 1)
    assert value_of(load_data(name)) == 1
    write_set(empty_home / ".cache/pyro_vae/FashionMNIST/raw", 2, compressed=False)
    assert value_of(load_data(name)) == 2
    write_set(tmp_path / "variable" / name, 3)
    assert value_of(load_data(name, root=tmp_path / "root")) == 3
    write_set(tmp_path / "root", 4)
    assert value_of(load_data(name, root=tmp_path / "root")) == 4
    assert value_of(load_data(name)) == 3


def test_loose_files_outside_root_are_not_taken_for_any_set(tmp_path, monkeypatch):
    write_set(tmp_path)  # whose are they? all three sets use these file names
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.MNIST.download", fail)
    with pytest.raises(InputError, match="no local copy"):
        load_data("mnist")


def fail(*args, **kwargs):
    raise URLError("no route to host")


def test_failed_download_says_where_it_looked(tmp_path, monkeypatch, empty_home):
    monkeypatch.setattr("torchvision.datasets.FashionMNIST.download", fail)
    with pytest.raises(InputError) as caught:
        load_data("fashion-mnist", root=tmp_path)
    text = str(caught.value)
    for part in (str(tmp_path), str(empty_home / ".cache/pyro_vae/FashionMNIST/raw"), "system/fashion-mnist"):
        assert part in text
    assert "dataset-fashion-mnist" in text and "root=" in text and "no route to host" in text


def test_download_is_read_from_the_cache(monkeypatch, empty_home):
    def download(self):
        write_set(empty_home / ".cache/pyro_vae/MNIST/raw", 9, compressed=False)

    monkeypatch.setattr("torchvision.datasets.MNIST.download", download)
    assert value_of(load_data("mnist")) == 9


def test_reader_reads_any_shape(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx_bytes(array))
    assert torch.equal(read_idx(tmp_path / "a"), torch.from_numpy(array))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-5], "header says 2 x 3 x 4 bytes but 19 follow"),
        (lambda raw: raw + b"\0", "but 25 follow"),
        (lambda raw: raw[:9], "truncated or damaged"),
        (lambda raw: b"", "begins with nothing"),
        (lambda raw: b"\0\0\x0d" + raw[3:], "begins with 00 00 0d 03"),
        (lambda raw: b"<html>not found</html>", "not an IDX file"),
        (lambda raw: gzip.compress(raw)[:-9], "gzip"),
        (lambda raw: gzip.compress(raw)[:12] + b"rubbish" + gzip.compress(raw)[19:], "gzip|not an IDX file"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, message):
    raw = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(raw))
    with pytest.raises(CorruptFileError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_a_damaged_or_incomplete_local_copy_is_an_error(tmp_path):
    write_set(tmp_path)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptFileError, match="t10k-labels"):
        load_data("mnist", root=tmp_path)
    path.write_bytes(idx_bytes(np.zeros(9_999, np.uint8)))
    with pytest.raises(CorruptFileError, match="expected 10,000 labels of mnist, got shape"):
        load_data("mnist", root=tmp_path)
