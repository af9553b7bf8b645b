"""The digest of a split: the same for the same data, another for any other."""

import hashlib
from importlib import import_module

import numpy as np
import torch

from pyro_vae.data import Split
from pyro_vae.data.split import split_digest

X = torch.arange(24, dtype=torch.uint8).reshape(4, 6)
Y = torch.arange(4)


def test_it_is_the_sha_256_of_what_it_says():
    expected = hashlib.sha256(b"none")
    expected.update(b"/x torch.float32 (2, 3)/" + np.arange(6, dtype=np.float32).tobytes())
    assert split_digest(Split({"x": torch.arange(6.0).reshape(2, 3)})) == expected.hexdigest()


def test_equal_data_have_equal_digests():
    whole = split_digest(Split({"x": X, "y": Y}))
    assert split_digest(Split({"y": Y.clone(), "x": X.clone()}, name="other")) == whole
    assert split_digest(Split({"x": torch.cat([X, X]), "y": torch.cat([Y, Y])}).subset(4)) == whole
    assert split_digest(Split({"x": X.T.contiguous().T, "y": Y})) == whole


def test_other_data_have_others():
    splits = [
        Split({"x": X, "y": Y}),
        Split({"x": X, "y": Y.flip(0)}),
        Split({"x": X}),
        Split({"x": X, "y": Y}).subset(3),
        Split({"x": X.flip(0), "y": Y}),
        Split({"x": X.reshape(4, 2, 3), "y": Y}),
        Split({"x": X.float() / 255, "y": Y}),
        Split({"x": X, "y": Y}, binarization="dynamic"),
        Split({"x": X, "y": Y}, mask=torch.ones(6, dtype=torch.bool)),
        Split({"x": X, "z": Y}),
        Split({"x": X, "y": Y, "t": torch.stack([Y, Y + 1], 1)}),
        Split({"x": X, "y": Y}).with_variants({"t": torch.stack([Y, Y + 1], 1)}),
    ]
    assert len({split_digest(split) for split in splits}) == len(splits)


def test_the_digest_of_dynamic_data_says_how_evaluation_draws(monkeypatch):
    split = Split({"x": X}, binarization="dynamic")
    before, drawn = split_digest(split), split.fixed().tensors["x"]
    for module in ("binarization", "split"):
        monkeypatch.setattr(import_module(f"pyro_vae.data.{module}"), "EVALUATION_DRAW", "another")
    assert split_digest(split) != before and not torch.equal(split.fixed().tensors["x"], drawn)
