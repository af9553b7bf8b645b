"""Training on data that are not in memory: the same weights, bit for bit, as on data in memory; and resumed."""

import logging
import os
import re
import signal

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from dying import die_at
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_vae
from pyro_vae import plots
from pyro_vae.data import Data, Split, as_split
from pyro_vae.errors import InputError, ReadError
from pyro_vae.evaluation import encode, log_likelihood, reconstruct
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE
from pyro_vae.training import fit

N, SHAPE = 46, (1, 4, 3)
X = torch.randint(0, 256, (N, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Images(Dataset):
    """Items x; fails once at a datum, if told so."""

    def __init__(self, fails_at=None):
        self.fails_at = fails_at

    def __len__(self):
        return N

    def __getitem__(self, place):
        if place == self.fails_at:
            self.fails_at = None
            raise OSError("the disk is gone")
        return X[place]


def pair():
    torch.manual_seed(1)
    model = VAE(SHAPE, latent_dim=2, hidden_dims=(8,))
    return model, GaussianGuide(model, hidden_dims=(8,))


def trained(data, **options):
    options = {"epochs": 3, "batch_size": 10, "device": "cpu", "progress": False, "seed": 4, **options}
    model, guide = pair()
    result = fit(model, guide, data, **options)
    return result, {**model.state_dict(), **{f"guide.{k}": v for k, v in guide.state_dict().items()}}


def dynamic(source):
    return Data(Split(as_split(source).source, binarization="dynamic"), Split({"x": X[:11] > 127}))


def same(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_weights_are_those_of_data_in_memory(compile, tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    sources = {
        "mapped": ({"x": np.load(tmp_path / "x.npy", mmap_mode="r")}, {}),
        "dataset": (Images(), {}),
        "four workers": (Images(), {"num_workers": 4}),
        "loader": (DataLoader(TensorDataset(X), batch_size=10, shuffle=True, num_workers=1), {}),
    }
    (result, expected) = trained(dynamic(X), compile=compile)
    for name, (source, options) in sources.items():
        other, weights = trained(dynamic(source), compile=compile, **options)
        same(weights, expected)
        for mine, its in zip(other.records, result.records, strict=True):
            assert {k: v for k, v in mine.items() if k != "seconds"} == {
                k: v for k, v in its.items() if k != "seconds"
            }, name


def test_a_loader_says_its_batch_size():
    loader = DataLoader(TensorDataset(X > 127), batch_size=23)
    assert trained(loader, batch_size=None)[0].steps == 6
    assert trained(loader, batch_size=10)[0].steps == 15
    assert trained([X[:40] > 127, X[40:] > 127], batch_size=10)[0].steps == 6  # has its own


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [3, 7])
def test_resumed_in_the_middle_of_an_epoch(workers, stop, tmp_path, monkeypatch):
    _, expected = trained(dynamic(Images()))
    with monkeypatch.context() as patch:
        die_at(patch, stop - 1, action=lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match=f"step {stop}, saved"):
            trained(dynamic(Images()), out=tmp_path / "run", num_workers=workers)
    _, weights = trained(dynamic(Images()), out=tmp_path / "run", resume=True, num_workers=2 - workers)
    same(weights, expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_was_reached_is_saved_when_a_datum_cannot_be_read(workers, tmp_path):
    _, expected = trained(Split(as_split(Images()).source, binarization="dynamic"))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(pyro_vae.runtime.derived_seed(4, "order", 0)))

    class Later(Images):
        """Can be read when it is checked, but not in training."""

        reads = 0

        def __getitem__(self, place):
            self.reads += 1
            if place == int(order[25]) and self.reads > 2 * N:
                raise OSError("the disk is gone")
            return X[place]

    split = Split(as_split(Later()).source, binarization="dynamic")
    with pytest.raises(ReadError, match=f"datum {int(order[25])} cannot be read: OSError: the disk is gone"):
        trained(split, out=tmp_path / "run", checkpoint_every=1e9, compile="off", epochs=50)
    good = Split(as_split(Images()).source, binarization="dynamic")
    result, weights = trained(good, out=tmp_path / "run", resume=True, num_workers=workers, compile="off", epochs=50)
    uninterrupted = trained(good, compile="off", epochs=50)[1]
    same(weights, uninterrupted)
    assert result.epochs == 50 and expected.keys() == weights.keys()


def test_an_iterable_goes_on_at_the_end_of_an_epoch(tmp_path, monkeypatch, caplog):
    batches = [X[:20] > 127, X[20:] > 127]
    _, expected = trained(batches)
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "pyro_vae"):
        die_at(patch, 2, action=lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match="step 3, saved as it was after epoch 1"):
            trained(batches, out=tmp_path / "run")
    assert "an iterable of batches: training is saved, and goes on, at the end of an epoch" in caplog.text
    result, weights = trained(batches, out=tmp_path / "run", resume=True)
    same(weights, expected)
    assert [r["epoch"] for r in result.records] == [1, 2, 3]


def test_other_data_are_refused_at_a_resume(tmp_path):
    trained(TensorDataset(X > 127), out=tmp_path / "run")
    with pytest.raises(InputError, match="training data"):
        trained(TensorDataset(X < 127), out=tmp_path / "run", resume=True, epochs=5)
    trained(TensorDataset((X > 127).clone()), out=tmp_path / "run", resume=True, epochs=5)  # the same contents


@pytest.mark.parametrize("source", ["dataset", "mapped", "batches", "arrays"])
def test_everything_takes_them(source, tmp_path):
    np.save(tmp_path / "x.npy", X.numpy() > 127)
    binary = X > 127
    data = {
        "dataset": TensorDataset(binary),
        "mapped": np.load(tmp_path / "x.npy", mmap_mode="r"),
        "batches": [binary[:30], binary[30:]],
        "arrays": {"x": binary.numpy()},
    }[source]
    model, guide = pair()
    expected = log_likelihood(model, guide, binary, num_particles=5, seed=1).per_datum
    assert torch.equal(log_likelihood(model, guide, data, num_particles=5, seed=1).per_datum, expected)
    assert torch.equal(pyro_vae.elbo(model, guide, data).per_datum, pyro_vae.elbo(model, guide, binary).per_datum)
    assert torch.equal(encode(model, guide, data)["z"], encode(model, guide, binary)["z"])
    assert torch.equal(reconstruct(model, guide, data), reconstruct(model, guide, binary))
    split = as_split(data)
    ours = plots.draw_all(model, guide, Data(split, test=split), [], tmp_path / "ours")
    theirs = plots.draw_all(
        model, guide, Data(Split({"x": binary}), test=Split({"x": binary})), [], tmp_path / "theirs"
    )
    assert [path.name for path in ours] == [path.name for path in theirs] and len(ours) > 5
    for a, b in zip(ours, theirs, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


def test_parts_by_name():
    result, _ = trained({"train": TensorDataset(X > 127), "validation": {"x": X[:9] > 127}})
    assert "validation/loss" in result.records[-1]
    model, guide = pair()
    parts = {"train": X[:20] > 127, "test": X[20:] > 127}  # of which the last is measured
    assert torch.equal(encode(model, guide, parts)["z"], encode(model, guide, X[20:] > 127)["z"])
    assert torch.equal(reconstruct(model, guide, parts), reconstruct(model, guide, X[20:] > 127))
    with pytest.raises(InputError, match="num_workers must be 0 or"):
        trained(Images(), num_workers=-1)


def test_data_outside_the_support_are_found_before_training():
    with pytest.raises(InputError, match=re.escape("neither 0 nor 1")):
        trained(Images())


def test_what_was_reached_is_saved_when_nan_come_up(tmp_path):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(pyro_vae.runtime.derived_seed(4, "order", 0)))
    x, bad = (X > 127).float(), int(order[25])  # in the third batch

    class Decaying(Images):
        reads = 0

        def __getitem__(self, place):
            self.reads += 1
            found = x[place].clone()
            if place == bad and self.reads > 6 * N:
                found[0] = torch.nan
            return found

    options = {"compile": "off", "epochs": 50, "checkpoint_every": 1e9}
    with pytest.raises(ReadError, match=f"datum {bad} is the first that does"):
        trained(Decaying(), out=tmp_path / "run", **options)
    _, weights = trained(TensorDataset(x), out=tmp_path / "run", resume=True, **options)
    same(weights, trained(TensorDataset(x), **options)[1])


def test_a_loader_among_parts_says_its_batch_size():
    loader = DataLoader(TensorDataset(X > 127), batch_size=23)
    result, _ = trained({"train": loader, "validation": {"x": X[:9] > 127}}, batch_size=None, epochs=1)
    assert result.steps == 2
    held = Images()
    held.batch_size = "as the file says"  # an attribute of the user's own
    assert trained(Split(as_split(held).source, binarization="dynamic"), batch_size=None, epochs=1)[0].steps == 1


class Conditional(torch.nn.Module):
    """log p(x | y) depends on which number y is."""

    def __init__(self):
        super().__init__()
        self.means = torch.nn.Parameter(torch.arange(3.0))

    def forward(self, x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]))
            mean = (self.means[y] + z)[:, None].expand(-1, 2)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


class OfX(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.layer(x)[:, 0], 1.0))


def test_texts_are_not_numbered_anew_for_programs_that_take_them():
    x, options = torch.randn(6, 2), {"epochs": 1, "device": "cpu", "progress": False}
    model, guide = Conditional(), OfX()
    texts = {"x": x, "y": ["ant", "cat", "dog", "ant", "cat", "dog"]}
    some = {"x": x[4:], "y": ["cat", "dog"]}
    fit(model, guide, texts, **options)
    for call in (log_likelihood, encode, reconstruct):
        with pytest.raises(InputError, match="'y' are texts, which would be numbered by those that are here"):
            call(model, guide, some)
    expected = log_likelihood(model, guide, {"x": x[4:], "y": torch.tensor([1, 2])}, num_particles=8)
    parts = {"train": texts, "test": some}
    assert log_likelihood(model, guide, parts, num_particles=8).mean == expected.mean
    data = pyro_vae.data.as_data(texts)
    fit(model, guide, data, **options)
    log_likelihood(model, guide, data.train, num_particles=8)  # the very numbers of training
    plain = VAE(SHAPE, latent_dim=2, hidden_dims=(8,))  # takes no y
    encode(plain, GaussianGuide(plain, hidden_dims=(8,)), {"x": X[:2] > 127, "y": ["cat", "dog"]})
