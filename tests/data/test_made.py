"""Data that are drawn from known models: always the same, and as those models say."""

import math

import numpy as np
import pytest
import torch

from pyro_vae.data import load_data
from pyro_vae.data.sources.made import CONCENTRATION, LIBRARY, OVERDISPERSION, count_rates, table_columns, topic_words
from pyro_vae.errors import InputError


@pytest.mark.parametrize("name", ["toy-table", "toy-counts", "toy-topics"])
def test_they_are_always_the_same_and_touch_no_random_state(name):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = load_data(name).test.tensors["x"]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    second = load_data(name).test.tensors["x"]
    torch.testing.assert_close(first, second, atol=0, rtol=0, equal_nan=True)
    assert [len(split) for split in load_data(name).splits.values()] == [2000, 500, 500]


def test_the_table_has_the_moments_of_its_columns():
    data = load_data("toy-table", missing_share=0.25)
    x = data.train.tensors["x"]
    assert abs(x.isnan().float().mean() - 0.25) < 0.01 and data.train.missing
    columns = table_columns(torch.randn(400_000, 2, generator=torch.Generator().manual_seed(3)))
    assert x.shape[1] == len(columns)
    for values, (name, column) in zip(x.T, columns.items(), strict=True):
        known = values[~values.isnan()]
        drawn = column.sample().float()
        error = known.std() / math.sqrt(len(known))
        assert abs(known.mean() - drawn.mean()) < 5 * error, name
        assert column.support.check(known).all()
    whole = load_data("toy-table", missing_share=0.0).train.tensors["x"]
    assert not whole.isnan().any()


def test_the_counts_are_gamma_poisson_of_their_library_size():
    split = load_data("toy-counts").train
    x, library, kind = (split.tensors[key] for key in ("x", "library", "y"))
    log = library.log()
    assert abs(log.mean() - LIBRARY[0]) < 5 * LIBRARY[1] / 2000**0.5 and abs(log.std() - LIBRARY[1]) < 0.05
    torch.testing.assert_close(count_rates(kind, torch.zeros(2000)).sum(1), torch.ones(2000))
    t = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    for k in range(3):
        mine = kind == k
        share = count_rates(torch.full((4000,), k), t)  # of a factor as they have it
        found = x[mine] / library[mine, None]
        variance = share.var(0) + OVERDISPERSION * share.square().mean(0) + share.mean(0) * (1 / library[mine]).mean()
        assert ((found.mean(0) - share.mean(0)).abs() / (variance / mine.sum()).sqrt()).max() < 5


def test_the_documents_have_the_words_of_their_topics():
    x = load_data("toy-topics").train.tensors["x"]
    n = x.sum(1)
    assert n.min() >= 50 and n.max() <= 150 and abs(n.mean() - 100) < 3
    topics = topic_words()
    torch.testing.assert_close(topics.sum(1), torch.ones(5))
    share, expected = x.sum(0) / x.sum(), topics.mean(0)  # of a symmetric Dirichlet
    spread = (topics.var(0) / (1 + 5 * CONCENTRATION) / 2000).sqrt() + (expected / x.sum()).sqrt()
    assert ((share - expected).abs() < 6 * spread + 1e-4).all()


def test_an_array_file_with_holes(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 3))
    x[::4, 1] = np.nan
    path = tmp_path / "table.npy"
    np.save(path, x)
    with pytest.raises(InputError, match="holds NaN or infinite numbers"):
        load_data(str(path))
    data = load_data(str(path), missing=True)
    assert data.train.missing and data.test.missing
    assert sum(int(split.tensors["x"].isnan().sum()) for split in data.splits.values()) == 10
    x[0, 0] = np.inf
    np.save(path, x)
    with pytest.raises(InputError, match="'x' holds infinite numbers"):
        load_data(str(path), missing=True)
