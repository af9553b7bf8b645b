"""Splits: checks, batches, conversion, dynamic binarization."""

import numpy as np
import pytest
import torch

from pyro_vae.data import Data, Split, as_data
from pyro_vae.errors import InputError


def grey(n: int = 20) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (n, 1, 3, 4), generator=generator, dtype=torch.uint8)
    return {"x": x, "y": torch.arange(n)}


def test_grey_levels_become_exact_fractions():
    levels = torch.arange(256, dtype=torch.uint8).reshape(256, 1)
    x = Split({"x": levels}).batch(slice(None))["x"]
    assert x.dtype == torch.float32
    assert x.flatten().tolist() == [torch.tensor(i / 255, dtype=torch.float32).item() for i in range(256)]


def test_properties_and_indexing():
    tensors = grey()
    split = Split(tensors, name="mine")
    assert len(split) == 20 and split.shape == (1, 3, 4) and split.keys == ("x", "y")
    assert split.device == torch.device("cpu")
    batch = split.batch(torch.tensor([7, 3, 7]))
    assert batch["y"].tolist() == [7, 3, 7]
    assert torch.equal(batch["x"] * 255, tensors["x"][[7, 3, 7]].float())


def test_bool_and_float():
    batch = Split({"x": torch.tensor([[True, False]])}).batch(slice(0, 1))
    assert batch["x"].dtype == torch.float32 and batch["x"].tolist() == [[1.0, 0.0]]
    x = torch.tensor([[-3.0, 7.5]], dtype=torch.float64)
    assert torch.equal(Split({"x": x}).batch(slice(0, 1))["x"], x)


def test_batches_cover_the_split_in_order():
    split = Split(grey())
    batches = list(split.batches(8))
    assert [len(batch["x"]) for batch in batches] == [8, 8, 4]
    assert torch.cat([batch["y"] for batch in batches]).tolist() == list(range(20))
    with pytest.raises(InputError, match="batch_size"):
        split.batches(0)


def test_mean_over_chunks(monkeypatch):
    monkeypatch.setattr("pyro_vae.data.tensors.CHUNK_ELEMENTS", 50)  # 4 data a chunk: 7 is no multiple
    tensors = grey(7)
    expected = tensors["x"].double().mean(0) / 255
    for x, truth in (
        (tensors["x"], expected),
        (tensors["x"] > 99, (tensors["x"] > 99).double().mean(0)),
        (tensors["x"].float() - 300.0, tensors["x"].double().mean(0) - 300),
    ):
        mean = Split({"x": x}).mean()
        assert mean.dtype == torch.float32 and mean.shape == (1, 3, 4)
        torch.testing.assert_close(mean.double(), truth, rtol=1e-6, atol=1e-6)
    assert torch.equal(Split({"x": tensors["x"]}, binarization="dynamic").mean(), Split({"x": tensors["x"]}).mean())


def test_subset_and_to_keep_type_and_binarization():
    split = Split(grey(), binarization="dynamic", name="mine")
    small = split.subset(3)
    assert len(small) == 3 and small.batch(slice(None))["y"].tolist() == [0, 1, 2]
    assert len(split) == 20 and len(split.subset(100)) == 20
    moved = small.to("meta")
    assert moved.device.type == "meta" and moved.tensors["x"].dtype == torch.uint8
    assert moved.binarization == "dynamic" and moved.name == "mine"
    assert small.device.type == "cpu"
    with pytest.raises(InputError, match="at least 1"):
        split.subset(0)


def test_dynamic_draws_follow_the_generator():
    split = Split({"x": torch.full((50, 40), 128, dtype=torch.uint8)}, binarization="dynamic")

    def epoch(generator):
        return torch.cat([split.batch(slice(i, i + 10), generator)["x"] for i in range(0, 50, 10)])

    generator = torch.Generator().manual_seed(4)
    first, second = epoch(generator), epoch(generator)
    assert set(first.unique().tolist()) == {0.0, 1.0} and first.dtype == torch.float32
    assert 0.4 < (first != second).double().mean() < 0.6
    generator.manual_seed(4)
    assert torch.equal(epoch(generator), first)


def test_dynamic_batches_are_the_same_every_pass_and_leave_the_global_state():
    split = Split({"x": torch.full((50, 40), 128, dtype=torch.uint8)}, binarization="dynamic")
    state = torch.get_rng_state()
    first = torch.cat([batch["x"] for batch in split.batches(20)])
    second = torch.cat([batch["x"] for batch in split.batches(20)])
    assert torch.equal(first, second) and 0.4 < first.mean() < 0.6
    assert torch.equal(torch.get_rng_state(), state)


def evaluated(kind: str) -> Split:
    """Data of one half everywhere, dynamically binarized, or codes with variants; 50 of them."""
    if kind == "variants":
        x = torch.arange(50)[:, None].expand(50, 3)
        split = Split({"x": x, "y": torch.arange(50)}, integers=True)
        return split.with_variants(
            {"x": torch.stack([x, x + 100], 1), "text": torch.arange(100).view(50, 2, 1).short()}
        )
    x = torch.full((50, 5, 6), 128, dtype=torch.uint8) if kind != "real" else torch.full((50, 5, 6), 0.5)
    mask = {"mask": (torch.arange(50)[:, None, None] % 5 > torch.arange(5)[:, None]).expand(50, 5, 6)}
    return Split({"x": x}, binarization="dynamic", **(mask if kind == "mask" else {}))


@pytest.mark.parametrize("kind", ["grey", "real", "mask", "variants"])
def test_evaluation_data_depend_on_nothing_but_their_place(kind):
    split = evaluated(kind)
    whole = split.batch(slice(None))
    if kind != "variants":
        assert 0.45 < whole["x"].mean() < 0.55 and whole["x"][0].ne(whole["x"][1]).any()
        assert whole["x"][:16].ne(whole["x"][16:32]).any()  # of another block
    for size in (1, 7, 16, 50, 1000):
        batches = list(split.batches(size))
        for key, value in whole.items():
            assert torch.equal(torch.cat([batch[key] for batch in batches]), value), (size, key)
    places = torch.tensor([41, 3, 3, 17])
    for same, expected in (
        (split.subset(21).batch(slice(None)), slice(0, 21)),
        (split.batch(slice(13, 37)), slice(13, 37)),
        (split.batch(slice(-3, None)), slice(47, 50)),
        (split.fixed().batch(slice(None)), slice(None)),
        (split.subset(21).fixed().batch(slice(None)), slice(0, 21)),
        (split.fixed().subset(21).batch(slice(None)), slice(0, 21)),
        (split.fixed(places).batch(slice(None)), places),
        (split.fixed().batch(places), places),
    ):
        assert same.keys() == whole.keys()
        for key, value in whole.items():
            assert same[key].dtype == value.dtype and torch.equal(same[key], value[expected]), key


def test_fixed_data_are_stored_small_in_chunks_and_plain_data_are_themselves(monkeypatch):
    split = evaluated("grey")
    fixed = split.fixed()
    assert fixed.tensors["x"].dtype == torch.bool and fixed.binarization == "none" and fixed.fixed() is fixed
    monkeypatch.setattr("pyro_vae.data.tensors.CHUNK_ELEMENTS", 100)
    assert torch.equal(split.fixed().tensors["x"], fixed.tensors["x"])
    plain = Split(grey(), name="plain")
    assert plain.fixed() is plain


def test_evaluation_leaves_the_global_state_and_training_draws_anew():
    split = evaluated("grey")
    state = torch.get_rng_state()
    fixed = split.fixed().batch(slice(None))["x"]
    assert torch.equal(split.batch(slice(None))["x"], fixed)
    assert torch.equal(torch.get_rng_state(), state)
    rows = torch.arange(50)
    drawn = [split.batch(rows)["x"], split.batch(rows)["x"], fixed]
    assert all(0.4 < (a != b).double().mean() < 0.6 for a, b in zip(drawn, drawn[1:] + drawn[:1], strict=True))


def test_dynamic_probability_in_evaluation():
    split = Split({"x": torch.arange(256, dtype=torch.uint8).repeat(4000, 1)}, binarization="dynamic")
    mean = split.fixed().mean().double()
    p = torch.arange(256).double() / 255
    assert mean[0] == 0 and mean[255] == 1
    assert ((mean - p).abs() <= 5 * (p * (1 - p) / 4000).sqrt()).all()


def test_dynamic_probability_of_every_level():
    draws = 4000
    split = Split({"x": torch.arange(256, dtype=torch.uint8).repeat(draws, 1)}, binarization="dynamic")
    mean = split.batch(slice(None), torch.Generator().manual_seed(0))["x"].double().mean(0)
    p = torch.arange(256).double() / 255
    assert mean[0] == 0 and mean[255] == 1
    sigma = (p * (1 - p) / draws).sqrt()
    assert ((mean - p).abs() <= 5 * sigma).all()
    assert ((mean - p)[1:-1] / sigma[1:-1]).square().mean() < 1.5  # chi-squared / 254, sigma 0.09


@pytest.mark.parametrize(
    ("tensors", "options", "message"),
    [
        ({"y": torch.zeros(3)}, {}, "need a tensor 'x'"),
        ({}, {}, "nothing"),
        ({"x": torch.zeros(3, 2), "y": torch.zeros(4)}, {}, "x 3, y 4"),
        ({"x": torch.zeros(0, 2)}, {}, "no data"),
        ({"x": torch.tensor(1.0)}, {}, "single number"),
        ({"x": [[1.0]]}, {}, "tensor or an array of NumPy, got list"),
        ({"x": torch.zeros(3, 2, dtype=torch.int64)}, {}, "uint8 .* got torch.int64"),
        ({"x": torch.tensor([[0.0], [float("nan")]])}, {}, "NaN"),
        ({"x": torch.tensor([[float("inf")]])}, {}, "infinite"),
        ({"x": torch.tensor([[0.5], [1.5]])}, {"binarization": "dynamic"}, r"\[0.5, 1.5\]"),
        ({"x": torch.zeros(3, 2)}, {"binarization": "static"}, "load_data"),
    ],
)
def test_refusals(tensors, options, message):
    with pytest.raises(InputError, match=message) as caught:
        Split(tensors, name="my split", **options)
    assert "my split" in str(caught.value)


def test_as_data():
    x = torch.rand(5, 2)
    for obj in (x, {"x": x}, Split({"x": x})):
        data = as_data(obj)
        assert torch.equal(data.train.batch(slice(None))["x"], x)
        assert data.validation is None and data.test is None
    assert as_data(data) is data
    with pytest.raises(InputError, match="an iterable must give batches"):
        as_data([1, 2])
    with pytest.raises(InputError, match=r"\(2,\) in train but \(3,\) in test"):
        Data(Split({"x": x}), test=Split({"x": torch.rand(5, 3)}))


def test_variants_of_one_draw_go_together():
    n, m = 50, 6
    x = torch.arange(n * m).reshape(n, m, 1).expand(n, m, 4).to(torch.int32)
    split = Split({"x": x[:, 0].long(), "y": torch.arange(n)}, integers=True)
    split = split.with_variants({"x": x, "above": x[..., 0]}).with_variants({"apart": x[..., :2]})
    assert split.shape == (4,) and split.keys == ("x", "y", "above", "apart")
    index = torch.arange(n).flip(0)
    batch = split.batch(index, torch.Generator().manual_seed(0))
    assert batch["x"].dtype == torch.int64 and batch["x"].shape == (n, 4)
    assert torch.equal(batch["x"][:, 0] // m, index) and torch.equal(batch["y"], index)  # each datum's own
    assert torch.equal(batch["above"], batch["x"][:, 0])
    which, other = batch["x"][:, 0] % m, batch["apart"][:, 0] % m
    assert len(which.unique()) == m and not torch.equal(which, other)
    first = next(split.batches(n))
    assert torch.equal(first["x"], x[:, 0].long()) and torch.equal(first["apart"], x[:, 0, :2].long())
    again = split.with_variants({"above": torch.zeros(n, 1, dtype=torch.long)})
    assert again.variants == (("x",), ("apart",), ("above",)) and not again.batch(index)["above"].any()
    for wrong in (
        {"a": torch.zeros(n, 0, dtype=torch.long)},
        {"a": torch.zeros(n, 2)},
        {"a": x, "b": x[:, :3]},
    ):
        with pytest.raises(InputError, match=r"must be integers \(50, M, ...\) with one M"):
            split.with_variants(wrong)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", ">f8"])
def test_arrays_of_numpy_become_what_they_do_in_a_file(dtype):
    array = np.array([[0.5, 1.0], [0.25, 0.0]]).astype(dtype)
    array.flags.writeable = False
    split = Split({"x": array, "y": np.array([3, 1], np.uint8)}, mask=np.array([True, False]))
    assert split.tensors["x"].dtype == torch.float32 and split.tensors["x"].tolist() == [[0.5, 1.0], [0.25, 0.0]]
    assert split.tensors["y"].dtype == torch.int64 and split.tensors["y"].tolist() == [3, 1]
    assert split.mask.tolist() == [True, False]
    assert as_data(array).train.tensors["x"].dtype == torch.float32
    assert as_data(np.array([[0, 255]], np.uint8)).train.batch(slice(None))["x"].tolist() == [[0.0, 1.0]]
    with pytest.raises(InputError, match="x must be uint8"):
        Split({"x": np.array([[0, 300]])})
    with pytest.raises(InputError, match="'y' must be numbers, got <U1"):
        Split({"x": array, "y": np.array(["a", "b"])})
