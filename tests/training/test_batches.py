"""EpochBatches: each datum once an epoch, a pure function of seed, epoch and index, alike among ranks."""

import numpy as np
import pytest
import torch

from pyro_vae.data import Split
from pyro_vae.data.rows import Mapped
from pyro_vae.errors import InputError
from pyro_vae.training.batches import EpochBatches, derived_seed


def split(n=23, binarization="none"):
    x = torch.rand(n, 30) * 0.8 + 0.1
    return Split({"x": x, "y": torch.arange(n)}, binarization=binarization)


def rows(batches, epoch):
    return [batches.batch(epoch, i)["y"].tolist() for i in range(len(batches))]


def test_each_datum_once_an_epoch_in_a_new_order():
    data = split()
    batches = EpochBatches(data, 5, seed=0)
    assert len(batches) == 5
    orders = []
    for epoch in range(3):
        parts = rows(batches, epoch)
        assert [len(p) for p in parts] == [5, 5, 5, 5, 3]
        orders.append([row for part in parts for row in part])
        assert sorted(orders[-1]) == list(range(23)) and orders[-1] != list(range(23))
    assert orders[0] != orders[1] != orders[2]
    batch = batches.batch(1, 2)
    assert torch.equal(batch["x"], data.tensors["x"][batch["y"]])


def test_a_pure_function_of_seed_epoch_and_index():
    data = split(binarization="dynamic")
    one, other = EpochBatches(data, 5, seed=3), EpochBatches(data, 5, seed=3)
    expected = {(e, i): one.batch(e, i) for e in range(3) for i in range(5)}
    torch.manual_seed(99)
    state = torch.get_rng_state()
    for e, i in ((2, 4), (0, 0), (2, 1), (1, 3), (0, 4)):
        got = other.batch(e, i)
        assert torch.equal(got["x"], expected[e, i]["x"]) and torch.equal(got["y"], expected[e, i]["y"])
    assert torch.equal(torch.get_rng_state(), state)
    assert rows(EpochBatches(data, 5, seed=4), 0) != rows(one, 0)


def test_dynamic_binarization_is_drawn_anew_each_epoch():
    batches = EpochBatches(split(binarization="dynamic"), 23, seed=3)
    x = []
    for epoch in range(200):
        batch = batches.batch(epoch, 0)
        assert set(batch["x"].unique().tolist()) <= {0.0, 1.0}
        x.append(batch["x"][batch["y"].argsort()])
    assert not torch.equal(x[0], x[1])
    error = torch.stack(x).mean(0) - batches.split.tensors["x"]
    assert error.abs().max() < 5 * 0.5 / 200**0.5 and error.mean().abs() < 0.01


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("binarization", ["none", "dynamic"])
@pytest.mark.parametrize("n", [24, 23, 25])
def test_ranks_together_see_the_joint_batch(world, binarization, n):
    data = split(n, binarization)
    joint = EpochBatches(data, 8, seed=1)
    ranks = [EpochBatches(data, 8, seed=1, rank=r, world=world) for r in range(world)]
    assert {len(r) for r in ranks} == {3}  # a rest of one datum is too small to be shared
    for epoch in range(2):
        for index in range(len(ranks[0])):
            whole, parts = joint.batch(epoch, index), [r.batch(epoch, index) for r in ranks]
            kept = len(whole["y"]) // world * world
            for key in ("x", "y"):
                assert torch.equal(torch.cat([p[key] for p in parts]), whole[key][:kept])
            assert len({len(p["y"]) for p in parts}) == 1


def test_a_batch_larger_than_the_data():
    batches = EpochBatches(split(7), 100, seed=0)
    assert len(batches) == 1 and sorted(rows(batches, 0)[0]) == list(range(7))
    ranks = [EpochBatches(split(7), 100, seed=0, rank=r, world=2) for r in range(2)]
    seen = [row for r in ranks for row in rows(r, 0)[0]]
    assert len(ranks[0]) == 1 and len(seen) == len(set(seen)) == 6


def test_bad_sizes_are_named():
    with pytest.raises(InputError, match="batch_size must be a positive integer, got 0"):
        EpochBatches(split(), 0, seed=0)
    with pytest.raises(InputError, match="batch_size 9 must be a multiple of the number of devices, 2"):
        EpochBatches(split(), 9, seed=0, world=2)
    with pytest.raises(InputError, match="hold 1 data, at least 2"):
        EpochBatches(split(1), 2, seed=0, world=2)


def test_seeds_differ_by_every_part():
    seeds = [derived_seed(*parts) for parts in ((0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), (0, "a"), (0,))]
    assert len(set(seeds)) == len(seeds) and all(0 <= s < 2**63 for s in seeds)
    assert derived_seed(1, "x") == derived_seed(1, "x")
    torch.Generator().manual_seed(max(seeds))


@pytest.mark.parametrize(("n", "batch_size", "world"), [(43, 8, 1), (43, 8, 2), (41, 8, 4), (5, 8, 1), (40, 8, 2)])
def test_sizes_are_those_of_the_joint_batches(n, batch_size, world):
    ranks = [EpochBatches(Split({"x": torch.rand(n, 2)}), batch_size, 1, rank, world) for rank in range(world)]
    for index in range(len(ranks[0])):
        assert ranks[0].size(index) == sum(len(batches.batch(0, index)["x"]) for batches in ranks)


# ------------------------------------------------------------------------------ batches of like length
def sentences(n=95, longest=19):
    """Tokens with lengths from 1 to the longest, each as its number says, and the same as padded sequences."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, longest + 1, (n,), generator=generator)
    x = torch.where(torch.arange(longest + 1) < lengths[:, None], torch.arange(1, n + 1)[:, None], 0)
    return x, lengths


@pytest.mark.parametrize("given", ["tokens", "entry"])
def test_batches_of_like_length(given):
    x, lengths = sentences()
    if given == "tokens":
        data = Split({"x": x}, integers=True)
    else:
        data = Split({"x": x[..., None].float(), "lengths": lengths})
    batches = EpochBatches(data, 5, seed=0, length_buckets=4)
    assert len(batches) == 19
    positions = []
    for epoch in range(3):
        rows = [
            (b["x"].reshape(5, -1).amax(1).long() - 1).tolist() for b in (batches.batch(epoch, i) for i in range(19))
        ]
        flat = [row for batch in rows for row in batch]
        assert sorted(flat) == list(range(95))
        order = torch.randperm(95, generator=torch.Generator().manual_seed(derived_seed(0, "order", epoch)))
        wanted = []  # sorted within every 20 data of the random order, cut into batches of 5
        for some in order.split(20):
            wanted += [sorted(part.tolist()) for part in some[lengths[some].argsort(stable=True)].split(5)]
        assert sorted(map(sorted, rows)) == sorted(wanted) and [sorted(r) for r in rows] != wanted
        assert any(lengths[r].tolist() != sorted(lengths[r].tolist()) for r in rows)
        spread = [(lengths[r].max() - lengths[r].min()).item() for r in rows]
        assert (
            sum(spread) / 19 < 5 < 10 < sum((lengths[r].max() - lengths[r].min()).item() for r in order.split(5)) / 19
        )
        positions.append(flat)
    assert positions[0] != positions[1] != positions[2]


def test_batches_of_like_length_are_a_function_of_seed_epoch_and_index():
    x, _ = sentences(23)
    data = Split({"x": x}, integers=True)
    one, other = (EpochBatches(data, 5, seed=3, length_buckets=2) for _ in range(2))
    expected = {(e, i): one.batch(e, i)["x"] for e in range(3) for i in range(5)}
    for e, i in ((2, 4), (0, 0), (2, 1), (1, 3), (0, 4)):
        assert torch.equal(other.batch(e, i)["x"], expected[e, i])
    assert len(expected[0, 4]) == 3  # what makes no whole batch comes last, and may be any
    plain = EpochBatches(data, 5, seed=3)
    assert torch.equal(plain.batch(1, 4)["x"], expected[1, 4])
    assert not torch.equal(plain.batch(1, 0)["x"], expected[1, 0])


def test_ranks_share_batches_of_like_length():
    x, _ = sentences(24)
    data = Split({"x": x}, integers=True)
    joint = EpochBatches(data, 8, seed=1, length_buckets=3)
    ranks = [EpochBatches(data, 8, seed=1, rank=r, world=2, length_buckets=3) for r in range(2)]
    for index in range(3):
        parts = [r.batch(0, index)["x"] for r in ranks]
        assert torch.equal(torch.cat(parts), joint.batch(0, index)["x"]) and {len(p) for p in parts} == {4}


def test_batches_of_like_length_of_data_that_are_read(tmp_path):
    x, _ = sentences(23)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = Split(Mapped({"x": np.load(tmp_path / "x.npy", mmap_mode="r")}), integers=True)
    assert not mapped.in_memory
    read, kept = (EpochBatches(s, 5, 2, length_buckets=2) for s in (mapped, Split({"x": x}, integers=True)))
    for epoch, index in ((0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 3)):
        assert torch.equal(read.rows(epoch, index)["x"], kept.rows(epoch, index)["x"])
    read.close()


def test_lengths_that_are_not_there_are_refused():
    for data, words in (
        (split(), r"have no lengths: give an entry 'lengths'.*x are torch.float32 of shape \(30,\)"),
        (Split({"x": torch.ones(4, 3, 2, dtype=torch.long)}, integers=True), "have no lengths"),
        (Split({"x": torch.rand(4, 3), "lengths": torch.rand(4)}), "'lengths' of data is torch.float32 of shape"),
        (Split({"x": torch.rand(4, 3), "lengths": torch.ones(4, 3).long()}), "where a single integer is right"),
        (Split([(torch.rand(3, 2),), (torch.rand(3, 2),)]), "come in batches of their own"),
    ):
        with pytest.raises(InputError, match="length_buckets=2 makes batches of like length.*" + words):
            EpochBatches(data, 2, seed=0, length_buckets=2)
    with pytest.raises(InputError, match="length_buckets must be a positive integer, got 0"):
        EpochBatches(split(), 5, seed=0, length_buckets=0)
