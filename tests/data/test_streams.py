"""Data that are not in memory: the same numbers as in memory, whatever they are read from."""

import logging
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from pyro_vae.data import Data, Split, as_data, as_split, load_data
from pyro_vae.data.rows import Mapped, Piece, read_ahead
from pyro_vae.data.split import split_digest
from pyro_vae.data.streams import Batches, Items
from pyro_vae.errors import InputError, ReadError
from pyro_vae.training.batches import EpochBatches

N, SHAPE = 23, (1, 4, 3)


def grey():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (N, *SHAPE), dtype=torch.uint8, generator=generator)
    return x, torch.arange(N) % 5


class Pairs(Dataset):
    """Items (x, y)."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, place):
        return self.x[place], int(self.y[place])


class Rows(Dataset):
    """A Hugging Face dataset in numpy format is like this: dicts, one by one or some at once."""

    def __init__(self, x, y):
        self.x, self.y = x.numpy(), y.numpy()

    def __len__(self):
        return len(self.x)

    def __getitems__(self, places):
        return [{"x": self.x[i], "y": self.y[i]} for i in places]


def mapped(x, y, folder):
    np.save(folder / "x.npy", x.numpy())
    return {"x": np.load(folder / "x.npy", mmap_mode="r"), "y": y.numpy()}


def sources(folder):
    x, y = grey()
    return {
        "mapped": as_split(mapped(x, y, folder)),
        "items": as_split(Pairs(x, y)),
        "workers": as_split(Pairs(x, y), num_workers=2),
        "at once": as_split(Rows(x, y)),
        "loader": as_split(DataLoader(Pairs(x, y), batch_size=7, shuffle=True, num_workers=2)),
        "batches": as_split([(x[i : i + 5], y[i : i + 5]) for i in range(0, N, 5)]),
    }


KINDS = ["mapped", "items", "workers", "at once", "loader", "batches"]


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("binarization", ["none", "dynamic"])
def test_a_split_reads_what_a_split_in_memory_holds(kind, binarization, tmp_path):
    x, y = grey()
    memory = Split({"x": x, "y": y}, binarization=binarization)
    split = Split(sources(tmp_path)[kind].source, binarization=binarization)
    assert not split.in_memory and len(split) == N and split.shape == SHAPE and split.keys == ("x", "y")
    assert split.columns == memory.columns and torch.equal(split.column("y"), y)
    torch.testing.assert_close(split.mean(), memory.mean())
    for index in (slice(3, 9), slice(None)):
        equal(split.batch(index), memory.batch(index))
    for ours, theirs in zip(split.batches(6), memory.batches(6), strict=True):
        equal(ours, theirs)
    index = torch.tensor([4, 20, 1])
    generators = [torch.Generator().manual_seed(2) for _ in range(2)]
    equal(split.batch(index, generators[0]), memory.batch(index, generators[1]))
    equal(split.fixed(index).batch(slice(None)), memory.fixed(index).batch(slice(None)))
    equal(split.fixed().batch(index), memory.fixed().batch(index))
    assert split.fixed(index).in_memory
    equal(split.subset(4).batch(slice(None)), memory.subset(4).batch(slice(None)))
    for ours, theirs in zip(split.subset(9).batches(4), memory.subset(9).batches(4), strict=True):
        equal(ours, theirs)
    labels = torch.full((N,), -1)
    equal(split.replaced({"y": labels}).batch(slice(2, 5)), memory.replaced({"y": labels}).batch(slice(2, 5)))
    for ours, theirs in zip(
        split.replaced({"y": labels}).batches(4), memory.replaced({"y": labels}).batches(4), strict=True
    ):
        equal(ours, theirs)
    with pytest.raises(InputError, match="not in memory"):
        _ = split.tensors


@pytest.mark.parametrize("source", ["memory", "dataset"])
def test_the_mean_of_entries_that_may_be_missing_is_that_of_those_that_are_known(source, monkeypatch):
    x = torch.randn(50, 3)
    x[torch.rand(50, 3) < 0.3] = torch.nan
    x[:, 2] = torch.nan  # never known
    for module in ("rows", "tensors"):
        monkeypatch.setattr(f"pyro_vae.data.{module}.CHUNK_ELEMENTS", 30)  # in several pieces
    split = Split({"x": x} if source == "memory" else TensorDataset(x), missing=True)
    torch.testing.assert_close(split.mean(), x.nanmean(0).nan_to_num())


@pytest.mark.parametrize("kind", ["mapped", "items", "workers", "at once", "loader"])
@pytest.mark.parametrize("world", [1, 2])
def test_batches_of_training_are_those_of_data_in_memory(kind, world, tmp_path):
    x, y = grey()
    source = sources(tmp_path)[kind].source
    for rank in range(world):
        ours = EpochBatches(Split(source, binarization="dynamic"), 6, 3, rank, world)
        theirs = EpochBatches(Split({"x": x, "y": y}, binarization="dynamic"), 6, 3, rank, world)
        assert len(ours) == len(theirs)
        for epoch, index in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (5, 2), (5, 3), (6, 0)]:
            equal(ours.rows(epoch, index), theirs.rows(epoch, index))
        equal(ours.batch(4, 1), theirs.batch(4, 1))  # out of turn
        ours.close()


def test_an_iterable_gives_its_own_batches():
    x, y = grey()
    batches = EpochBatches(sources_of_batches := as_split([(x[:9], y[:9]), (x[9:], y[9:])]), 4, 0)
    assert len(batches) == 2 and [batches.size(i) for i in range(2)] == [9, 14] and batches.batch_size == 14
    for epoch in range(2):
        for index, rows in enumerate((slice(0, 9), slice(9, N))):
            assert torch.equal(batches.rows(epoch, index)["x"], x[rows])
    assert torch.equal(batches.batch(7, 1)["y"], y[9:])
    batches.close()
    with pytest.raises(InputError, match="divided among devices"):
        EpochBatches(sources_of_batches, 4, 0, 0, 2)


@pytest.mark.parametrize("loader", ["sampler", "iterable", "shuffled iterable"])
def test_loaders_with_an_order_of_their_own(loader):
    x, y = grey()

    class Stream(IterableDataset):
        def __iter__(self):
            order = torch.randperm(N) if loader != "iterable" else torch.arange(N)
            return iter([(x[i], y[i]) for i in order.tolist()])

    data = Pairs(x, y)
    given = {
        "sampler": lambda: DataLoader(data, batch_size=5, sampler=WeightedRandomSampler(torch.ones(N), N)),
        "iterable": lambda: DataLoader(Stream(), batch_size=5),
        "shuffled iterable": lambda: DataLoader(Stream(), batch_size=5),
    }[loader]()
    split = as_split(given)
    assert isinstance(split.source, Batches) and split.source.sizes == (5, 5, 5, 5, 3)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = [EpochBatches(split, 5, 0).rows(epoch, 0)["x"] for epoch in (0, 0, 1)]
    assert torch.equal(first[0], first[1])  # the order is a function of the epoch
    assert torch.equal(first[0], first[2]) == (loader == "iterable")
    assert torch.equal(state[0], torch.get_rng_state()) and state[2] == random.getstate()
    assert state[1] == np.random.get_state()[1].tolist()


class Augmented(Pairs):
    """Transforms that draw from all three states."""

    def __getitem__(self, place):
        noise = torch.rand(1) + np.random.rand() + random.random()
        return self.x[place].float() / 255 + noise.float(), int(self.y[place])


def test_random_transforms_are_functions_of_seed_epoch_and_datum():
    x, y = grey()
    runs = [EpochBatches(as_split(Augmented(x, y), num_workers=n), 6, 3) for n in (0, 2)]
    for epoch, index in [(0, 0), (0, 1), (2, 1)]:
        a, b = (run.rows(epoch, index)["x"] for run in runs)
        assert torch.equal(a, b)
    assert not torch.equal(runs[0].rows(0, 0)["x"], runs[0].rows(1, 0)["x"])
    split = as_split(Augmented(x, y), num_workers=2)
    whole = split.batch(slice(None))["x"]
    assert torch.equal(whole, torch.cat([b["x"] for b in split.batches(4)]))  # wherever it is cut
    assert torch.equal(whole[3:5], split.batch(torch.tensor([3, 4]))["x"])
    for run in runs:
        run.close()


def test_digests(tmp_path):
    x, y = grey()
    for name, split in sources(tmp_path).items():
        assert split_digest(split) == split_digest(sources(tmp_path)[name]), name
    assert split_digest(sources(tmp_path)["mapped"]) == split_digest(Split({"x": x, "y": y}))
    other = x.clone()
    other[5] += 1
    assert split_digest(as_split(Pairs(x, y))) != split_digest(as_split(Pairs(other, y)))
    assert split_digest(as_split([x])) != split_digest(as_split([other]))
    assert split_digest(as_split(Pairs(x, y)).subset(3)) != split_digest(as_split(Pairs(x, y)).subset(4))


def test_types_of_mapped_arrays(tmp_path):
    arrays = {
        "x": np.random.rand(5, 2),
        "y": np.arange(5, dtype=np.uint8),
        "z": np.arange(5, dtype=">i2"),
        "w": np.ones(5, np.uint16),
    }
    mapped = {}
    for name, array in arrays.items():
        np.save(tmp_path / name, array)
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    rows = Mapped(mapped)
    for index in (slice(1, 3), torch.tensor([2, 0])):
        read = rows.read(index)
        expected = Split(
            {
                key: torch.as_tensor(value.astype(value.dtype.newbyteorder("="))) if key == "x" else value
                for key, value in arrays.items()
            }
            | {"x": arrays["x"]}
        )
        for name, value in read.items():
            assert value.dtype == expected.tensors[name].dtype
            assert torch.equal(value, expected.tensors[name][index])


def test_a_file_does_not_fill_the_process(tmp_path):
    """What of it is resident in the process stays nothing, however much of it was read."""
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (3000, 20_000))
    array[:] = np.arange(3000)[:, None] % 251
    array.flush()
    del array
    rows = Mapped({"x": np.load(tmp_path / "x.npy", mmap_mode="r")[::3][10:]})  # a part of it, too
    for index in (torch.arange(90, 800), slice(90, 800), slice(None)):
        read = rows.read(index)["x"]
        places = torch.arange(10, 1000)[index] * 3
        assert torch.equal(read, (places % 251)[:, None].expand(-1, 20_000).to(torch.uint8))
    with open("/proc/self/smaps") as file:
        lines = file.read().splitlines()
    at = [i for i, line in enumerate(lines) if line.endswith("x.npy")]  # none, if the mapping is gone already
    resident = [next(int(line.split()[1]) for line in lines[i:] if line.startswith("Rss")) for i in at]
    assert sum(resident) < 1024  # KiB


def test_a_file_that_is_cut_off_later(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((100, 50), np.float32))
    rows = Mapped({"x": np.load(tmp_path / "x.npy", mmap_mode="r")})
    with open(tmp_path / "x.npy", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ReadError, match="the file ends before datum 99"):
        rows.read(torch.tensor([99]))


def test_reading_ahead_ends_with_who_reads():
    made = []

    def numbers():
        for i in range(10**6):
            made.append(i)
            yield {"x": torch.tensor([i])}

    stream = read_ahead(numbers())
    assert [int(next(stream)["x"]) for _ in range(3)] == [0, 1, 2]
    stream.close()
    assert len(made) < 100

    def failing():
        yield {"x": torch.zeros(1)}
        raise ReadError("the disk is gone")

    stream = read_ahead(failing())
    next(stream)
    with pytest.raises(ReadError, match="the disk is gone"):
        next(stream)


# ------------------------------------------------------------------------------ what is refused
class Odd(Pairs):
    """Wrong in one place."""

    def __init__(self, x, y, at=7, what="shape"):
        super().__init__(x, y)
        self.at, self.what = at, what

    def __getitem__(self, place):
        x, y = super().__getitem__(place)
        if place == self.at:
            if self.what == "shape":
                return x[..., :2], y
            if self.what == "type":
                return x.float(), y
            if self.what == "text":
                return x, "cat"
            if self.what == "error":
                raise OSError("no such picture")
            if self.what == "nan":
                return x.float() / 0 * 0, y
        return (x.float() if self.what == "nan" else x), y


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("shape", r"datum 7 has x uint8 \(1, 4, 2\).* uint8 \(1, 4, 3\).*; all must be alike"),
        ("type", r"datum 7 has x float32"),
        ("text", "'y' is a text .*'cat'.*: map texts to integers"),
        ("error", "datum 7 cannot be read: OSError: no such picture"),
        ("nan", "x holds NaN or infinite numbers"),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrong_item_is_named(what, message, workers):
    split = as_split(Odd(*grey(), what=what), num_workers=workers)
    with pytest.raises(InputError, match=message):
        list(split.batches(23))
    with pytest.raises(InputError, match=message):
        split.batch(slice(5, 9))


def test_what_cannot_be_data():
    x, y = grey()
    with pytest.raises(InputError, match="gone through only once"):
        as_split(iter([x]))
    with pytest.raises(InputError, match="there are no data"):
        as_split([])
    with pytest.raises(InputError, match="there are no data"):
        as_split(Pairs(x[:0], y[:0]))
    with pytest.raises(InputError, match="rename one of them to x"):
        as_split([{"image": x}])
    with pytest.raises(InputError, match="tuple of 3: make a dict"):
        as_split(TensorDataset(x, y, y))
    with pytest.raises(InputError, match="single items: make batches"):

        class Stream(IterableDataset):
            def __iter__(self):
                return iter([x[0]])

        as_split(Stream())
    with pytest.raises(InputError, match="got int"):
        as_data(3)


class Growing(Pairs):
    """Of another length later."""

    more = 0

    def __len__(self):
        return len(self.x) - self.more


def test_a_length_that_changes():
    data = Growing(*grey())
    split = as_split(data)
    data.more = 1
    with pytest.raises(ReadError, match="had 23 data and has 22 now"):
        list(split.batches(5))


def test_batches_that_change():
    x, _ = grey()
    batches = [x[:5], x[5:10]]
    split = as_split(batches)
    batches.pop()
    stream = split.source.stream([Piece(0, 0, torch.arange(5)), Piece(0, 1, torch.arange(5, 10))])
    next(stream)
    with pytest.raises(ReadError, match="gave 1 batches in epoch 1, and 2 when"):
        next(stream)
    batches.append(x[5:11])
    with pytest.raises(ReadError, match="batch 1 has 6 data, and was 5 data when"):
        list(split.source.stream([Piece(0, 0, torch.arange(5)), Piece(0, 1, torch.arange(5, 10))]))


class Dying(Pairs):
    """Ends its worker."""

    def __getitem__(self, place):
        if place == 20 and torch.utils.data.get_worker_info() is not None:
            import os

            os._exit(3)
        return super().__getitem__(place)


# torch tells of a process that ended by an exception from a signal handler, between any two instructions: also when a
# socket to that process has just been opened and nobody can close it yet
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_worker_that_dies():
    split = as_split(Dying(*grey()), num_workers=1)
    with pytest.raises(ReadError, match="a process that reads data ended"):
        list(split.batches(4))


def test_labels_that_are_texts_become_integers(caplog):
    x, _ = grey()
    with caplog.at_level(logging.INFO, "pyro_vae"):
        split = as_split({"x": x, "y": ["dog", "cat", "dog"] + ["ant"] * (N - 3)})
    assert split.column("y").tolist()[:4] == [2, 1, 2, 0] and "0: ant, 1: cat, 2: dog" in caplog.text


# ------------------------------------------------------------------------------ files
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        *[(shape, None) for shape in ((40, 6), (40, 5, 4), (40, 5, 4, 3), (40, 2, 5, 4, 3), (40, 2, 3, 5, 4))],
        *[((40, 3, 3, 3), "NHWC"), ((40, 3, 3, 3, 3), "NTHWC")],  # whose shapes do not tell
    ],
)
def test_an_array_file_is_the_same_mapped(shape, layout, tmp_path):
    array = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    np.save(tmp_path / "x.npy", array)
    ours, theirs = (load_data(str(tmp_path / "x.npy"), in_memory=kept, layout=layout) for kept in (False, True))
    for part, split in theirs.splits.items():
        assert not ours.splits[part].in_memory
        equal(ours.splits[part].batch(slice(None)), split.batch(slice(None)))
    drawn = load_data(str(tmp_path / "x.npy"), in_memory=False, layout=layout, binarization="dynamic", limit=3)
    assert len(drawn.test) == 3
    values = drawn.test.fixed().batch(slice(None))["x"]
    assert set(values.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(values, drawn.test.fixed().batch(torch.arange(3))["x"])


def test_what_needs_memory_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((40, 6, 6), np.uint8))
    np.savez(tmp_path / "x.npz", x=np.zeros((40, 6, 6), np.uint8))
    for options, message in [
        ({"binarization": "static"}, "'static' is done once, in memory: take 'dynamic'"),
        ({"image_size": 3}, "image_size is for data in memory"),
        ({"num_labels": 3}, "num_labels is for data in memory"),
        ({"binarization": "dynamic", "binarization_seed": 5}, "binarization_seed is for data in memory"),
    ]:
        with pytest.raises(InputError, match=message):
            load_data(str(tmp_path / "x.npy"), in_memory=False, **options)
    data = load_data(str(tmp_path / "x.npy"), in_memory=False, binarization="dynamic")
    assert "the others once" in data.description and "seed" not in data.description
    with pytest.raises(InputError, match=r"in_memory=False is for .npy files"):
        load_data(str(tmp_path / "x.npz"), in_memory=False)


def test_a_folder_of_images_is_the_same_decoded_when_wanted(tmp_path):
    from PIL import Image

    generator = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(12):
            pixels = generator.integers(0, 255, (9, 7 + i % 2, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    ours, theirs = (load_data(str(tmp_path), in_memory=kept, image_size=6) for kept in (False, True))
    assert isinstance(ours, Data)
    for part, split in theirs.splits.items():
        assert not ours.splits[part].in_memory and ours.splits[part].names == split.names
        equal(ours.splits[part].batch(slice(None)), split.batch(slice(None)))
        equal(ours.splits[part].with_workers(2).batch(slice(0, 2)), split.batch(slice(0, 2)))
    with pytest.raises(InputError, match=r"pixels .*give image_size|all splits must have the same"):
        load_data(str(tmp_path), in_memory=False).train.batch(slice(None))


def test_workers_are_those_of_the_loader_or_of_the_argument():
    x, y = grey()
    source = as_split(DataLoader(Pairs(x, y), num_workers=2)).source
    assert isinstance(source, Items) and source.num_workers == 2
    assert as_split(Pairs(x, y)).with_workers(3).source.num_workers == 3


# ------------------------------------------------------- what would be other data, and look like data
class OneBuffer(Dataset):
    """Fills one buffer again and again, as readers of video and of sensors do."""

    def __init__(self, kind):
        self.kind, self.x, self.y = kind, np.zeros(3, np.float32), torch.zeros((), dtype=torch.int64)

    def __len__(self):
        return N

    def __getitem__(self, place):
        self.x[:] = place
        self.y.fill_(place)
        x = torch.from_numpy(self.x)
        return {"tensor": x, "array": self.x, "pair": (x, self.y), "dict": {"x": self.x, "y": self.y}}[self.kind]


@pytest.mark.parametrize("collate", [None, torch.utils.data.default_collate])
@pytest.mark.parametrize("kind", ["tensor", "array", "pair", "dict"])
def test_a_dataset_that_hands_out_one_buffer(kind, collate):
    if collate is not None and kind in ("tensor", "array"):
        rows = Items(OneBuffer(kind), collate=lambda items: {"x": collate(items)})
    else:
        rows = Items(OneBuffer(kind), collate=collate and (lambda items: collate(items)))
    batches = EpochBatches(Split(rows), 8, seed=1)
    for index in range(len(batches)):
        places, batch = batches._places(0, index), batches.batch(0, index)
        streamed = batches.split.finish(batches.rows(0, index))
        for found in (batch, streamed):
            assert torch.equal(found["x"], places[:, None].expand(-1, 3).float())
            assert "y" not in found or torch.equal(found["y"], places)
    batches.close()


class OneBatchBuffer:
    """An iterable that fills one buffer again and again."""

    def __init__(self):
        self.x = torch.zeros(5, 3)

    def __iter__(self):
        for place in range(4):
            self.x[:] = place * 5 + torch.arange(5.0)[:, None]
            yield self.x


def test_an_iterable_that_hands_out_one_buffer():
    split = Split(Batches(OneBatchBuffer()))
    split.batch(slice(0, 2))
    training = EpochBatches(split, 5, seed=0)
    kept = [training.rows(0, index)["x"] for index in range(2)]
    assert split.batch(slice(2, 20))["x"][:, 0].tolist() == list(range(2, 20))
    assert torch.cat(kept)[:, 0].tolist() == list(range(10))
    training.close()


def test_batches_of_a_list_are_not_altered():
    batches = [torch.zeros(4, 2), torch.zeros(4, 2)]
    training = EpochBatches(Split(Batches(batches)), 4, seed=0)
    training.split.finish(training.rows(0, 0))["x"].add_(1)
    training.close()
    assert not any(batch.any() for batch in batches)


class Counting(IterableDataset):
    def __iter__(self):
        yield from torch.arange(20.0)[:, None]


def test_workers_that_persist_serve_two_readers():
    loader = DataLoader(Counting(), batch_size=5, num_workers=1, persistent_workers=True)
    split = as_split(loader)
    split.batch(slice(0, 2))
    training = EpochBatches(split, 5, seed=0)
    seen = [training.rows(0, index)["x"] for index in range(2)]
    assert split.batch(slice(2, 20))["x"][:, 0].tolist() == list(range(2, 20))
    seen += [training.rows(0, index)["x"] for index in range(2, 4)]
    assert torch.cat(seen)[:, 0].tolist() == list(range(20))
    training.close()


def test_an_iterable_that_gives_other_data_each_time_is_not_measured():
    own = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.arange(20.0)[:, None], torch.arange(20))
    loader = DataLoader(data, batch_size=5, sampler=WeightedRandomSampler(torch.ones(20), 20, generator=own))
    split = as_split(loader)
    with pytest.raises(ReadError, match="batch 0 holds other data than when it was gone through first"):
        split.column("x")
    training = EpochBatches(split, 5, seed=0)  # where each epoch may have its own
    assert training.rows(0, 0)["x"].shape == (5, 1)
    training.close()


class Scaled(DataLoader):
    """Makes its batches itself."""

    def __iter__(self):
        return (100 * x for (x,) in super().__iter__())


def test_a_loader_that_makes_its_batches_itself():
    split = as_split(Scaled(TensorDataset(torch.ones(4, 2)), batch_size=2))
    assert isinstance(split.source, Batches) and bool((split.batch(slice(0, 4))["x"] == 100).all())


def test_tables_that_are_read_by_columns_are_refused():
    class Frame:  # as that of pandas: data[i] is column i
        columns = (0, 1, 2, 3)

        def __len__(self):
            return 3

        def __getitem__(self, name):
            return np.zeros(3)

        def to_numpy(self, dtype):
            return np.zeros((3, 4), dtype)

    with pytest.raises(InputError, match=r"a Frame is no array and no dataset: give its array, .to_numpy"):
        as_split(Frame())
    scipy = pytest.importorskip("scipy.sparse")
    with pytest.raises(InputError, match=r"a csr_matrix is no array and no dataset: give its array, .toarray"):
        as_split(scipy.csr_matrix(np.eye(3)))


def test_a_mask_for_each_datum_needs_an_order():
    batches = Batches([torch.zeros(4, 2)] * 2)
    with pytest.raises(InputError, match="a mask for each datum needs data that stay in their order"):
        Split(batches, mask=torch.ones(8, 2, dtype=torch.bool))
    assert "mask" in Split(batches, mask=torch.ones(2, dtype=torch.bool)).batch(slice(0, 3))


def test_a_text_is_the_same_number_in_all_parts():
    x = np.zeros((3, 2), np.float32)
    data = as_data({"train": {"x": x, "y": ["ant", "cat", "dog"]}, "test": {"x": x, "y": ["emu", "dog", "cat"]}})
    assert data.train.column("y").tolist() == [0, 1, 2] and data.test.column("y").tolist() == [3, 2, 1]
    with pytest.raises(InputError, match="'y' are texts in one part and numbers in another"):
        as_data({"train": {"x": x, "y": ["ant", "cat", "dog"]}, "test": {"x": x, "y": np.arange(3)}})


@pytest.mark.parametrize("index", [torch.tensor([9, 3, 7]), slice(2, 8)])
def test_nan_are_told_of_the_datum_that_has_them(index):
    x = torch.zeros(N, 2)
    x[7] = torch.nan
    with pytest.raises(ReadError, match="datum 7 is the first that does"):
        Split(Items(TensorDataset(x))).batch(index)


def test_a_tuple_is_not_guessed_at():
    x, y = torch.zeros(5, 4), torch.ones(5, 4)
    for make in (as_split, as_data, Split):
        with pytest.raises(InputError, match="a tuple of 2 may be data and labels, or batches"):
            make((x, y))


def test_a_split_takes_a_dataset_a_loader_and_batches():
    x = torch.rand(12, 4)
    x[3, 1] = torch.nan
    for source in (TensorDataset(x), DataLoader(TensorDataset(x), batch_size=5), [x[:5], x[5:]]):
        split = Split(source, missing=True)
        assert not split.in_memory and torch.equal(split.batch(slice(0, 12))["x"].isnan(), x.isnan())
        expected = Split({"x": x}, missing=True).mean()
        assert torch.allclose(split.mean(), expected)
    grey_levels, _ = grey()
    drawn = Split(TensorDataset(grey_levels), binarization="dynamic")
    expected = Split({"x": grey_levels}, binarization="dynamic").batch(slice(0, N))["x"]
    assert torch.equal(drawn.batch(slice(0, N))["x"], expected)


def test_texts_that_are_python_objects():
    x = np.zeros((3, 2), np.float32)
    words = np.array(["dog", "ant", "elephant"], dtype=object)
    data = as_data({"train": {"x": x, "y": words}, "test": {"x": x[:2], "y": ["cat", "dog"]}})
    assert data.train.column("y").tolist() == [2, 0, 3] and data.test.column("y").tolist() == [1, 2]
    assert as_split({"x": x, "y": words}).column("y").tolist() == [1, 0, 2]
    with pytest.raises(InputError, match="'y' must be numbers, got object"):
        as_split({"x": x, "y": np.array(["dog", 1, None], dtype=object)})
