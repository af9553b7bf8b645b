"""Datasets read by torchvision, on small files in its layouts or stand-ins for its classes."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from pyro_vae.data import load_data
from pyro_vae.errors import CorruptFileError, InputError


def fail(*args, **kwargs):
    raise OSError("no route to host")


@pytest.fixture
def tiny_cifar(tmp_path, monkeypatch):
    """Five training batches of 10 images and a test batch of 10, in CIFAR-10's files."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    kind = torchvision.datasets.CIFAR10

    def save(name, content):
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        return [name, hashlib.md5(raw).hexdigest()]

    def batch(start):
        index = np.arange(start, start + 10)
        return {"data": np.repeat(index[:, None], 3072, 1).astype(np.uint8), "labels": (index % 10).tolist()}

    monkeypatch.setattr(kind, "train_list", [save(f"data_batch_{i}", batch(10 * i)) for i in range(5)])
    monkeypatch.setattr(kind, "test_list", [save("test_batch", batch(100))])
    name, md5 = save("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(kind, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return tmp_path


def test_cifar10(tiny_cifar):
    data = load_data("cifar10", root=tiny_cifar)
    for part, index in (("train", range(45)), ("validation", range(45, 50)), ("test", range(100, 110))):
        x, y = (getattr(data, part).tensors[key] for key in ("x", "y"))
        assert x.shape == (len(index), 3, 32, 32) and x.dtype == torch.uint8
        assert x[:, 2, 5, 7].tolist() == list(index) and y.tolist() == [i % 10 for i in index]


def test_cifar10_from_the_variable(tiny_cifar, monkeypatch):
    monkeypatch.setenv("PYRO_VAE_DATA", str(tiny_cifar))
    assert len(load_data("cifar10", image_size=8).train) == 45


def test_cifar10_damaged_is_not_read_and_the_failed_download_tells(tiny_cifar, monkeypatch, empty_home):
    path = tiny_cifar / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", fail)
    with pytest.raises(InputError) as caught:
        load_data("cifar10", root=tiny_cifar)
    assert "no route to host" in str(caught.value) and str(tiny_cifar) in str(caught.value)
    assert str(empty_home / ".cache/pyro_vae") in str(caught.value)


class FakeOmniglot:
    """White paper (255) with ink (0) in the middle third; label = place."""

    def __init__(self, root, background, download):
        self.length, self.offset = (30, 0) if background else (7, 500)

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        image = np.full((105, 105), 255, np.uint8)
        image[35:70, 35:70] = 0
        return Image.fromarray(image), self.offset + i


def test_omniglot(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "Omniglot", FakeOmniglot)
    data = load_data("omniglot")
    for part, labels in (("train", range(27)), ("validation", range(27, 30)), ("test", range(500, 507))):
        x, y = (getattr(data, part).tensors[key] for key in ("x", "y"))
        assert x.shape == (len(labels), 1, 28, 28) and y.tolist() == list(labels)
        assert (x[:, 0, 0, 0] == 0).all() and (x[:, 0, 14, 14] == 255).all()  # ink is white
    small = load_data("omniglot", image_size=16, limit=2)
    assert small.train.shape == (1, 16, 16) and small.test.tensors["y"].tolist() == [500, 501]


class FakeCelebA:
    """Black left and right of, white in the middle; the attributes are the place in binary."""

    def __init__(self, root, split, target_type, download):
        assert target_type == "attr"
        self.length = {"train": 6, "valid": 3, "test": 2}[split]
        self.read = 0

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        image = np.zeros((218, 178, 3), np.uint8)
        image[20:198] = (10, 20, 30)
        return Image.fromarray(image), torch.arange(40) == i


def test_celeba(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CelebA", FakeCelebA)
    data = load_data("celeba", limit=4)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [4, 3, 2]
    x = data.train.tensors["x"]
    assert x.shape == (4, 3, 64, 64) and (x == torch.tensor([10, 20, 30]).reshape(3, 1, 1)).all()
    assert torch.equal(data.train.batch(slice(None))["attributes"], torch.eye(40).bool()[:4])


class FakeSVHN:
    """Arrays as torchvision leaves them after reading."""

    def __init__(self, root, split, download):
        n = 20 if split == "train" else 5
        self.data = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1) * np.ones((1, 3, 32, 32), np.uint8)
        self.labels = np.arange(n) % 10


def test_svhn(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "SVHN", FakeSVHN)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    data = load_data("svhn")
    assert data.train.tensors["x"][:, 0, 0, 0].tolist() == list(range(18))
    assert data.validation.tensors["y"].tolist() == [8, 9] and len(data.test) == 5


def test_svhn_asks_for_scipy_before_downloading(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install scipy"):
        load_data("svhn")


# ------------------------------------------------------------------ files of strangers
class Pages:
    """Omniglot's or CelebA's class, as torchvision reads them, over files that are no pictures."""

    def __init__(self, root, download, **options):
        self.file = PAGE["file"]

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return Image.open(self.file).convert("L"), torch.tensor(0)


PAGE = {}


@pytest.mark.parametrize("name", ["Omniglot", "CelebA"])
def test_an_image_that_is_a_program_is_not_run(name, tmp_path, monkeypatch):
    """Encapsulated PostScript, whatever its name says: Pillow would start Ghostscript."""
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: started.append(a))
    monkeypatch.setattr("PIL.EpsImagePlugin.has_ghostscript", lambda: True)
    PAGE["file"] = tmp_path / "0001_01.png"
    PAGE["file"].write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 105 105\n%%EndComments\nshowpage\n")
    monkeypatch.setattr(torchvision.datasets, name, Pages)
    was = Image.open
    with pytest.raises(CorruptFileError, match="image 0 cannot be read"):
        load_data(name.lower(), root=tmp_path)
    assert not started and Image.open is was


class Harm:
    def __reduce__(self):
        return print, ("HARM",)


def test_a_pickle_of_cifar_that_names_more_than_arrays(tiny_cifar, monkeypatch, capsys):
    """Even if its MD5 is the right one."""
    raw = pickle.dumps({"data": Harm(), "labels": [0]})
    (tiny_cifar / "cifar-10-batches-py" / "data_batch_0").write_bytes(raw)
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [["data_batch_0", hashlib.md5(raw).hexdigest()], *kind.train_list[1:]])
    with pytest.raises(InputError, match=r"it names builtins\.print, which no array needs"):
        load_data("cifar10", root=tiny_cifar)
    assert "HARM" not in capsys.readouterr().out and torchvision.datasets.cifar.pickle is pickle
