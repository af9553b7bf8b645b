"""EpochBatches: each datum once an epoch, a pure function of seed, epoch and index, alike among ranks."""

import pytest
import torch

from pyro_vae.data import Split
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
