"""Attention masks against their definitions, written out position by position."""

import itertools

import pytest
import torch

from pyro_vae.errors import InputError
from pyro_vae.networks.transformer import (
    after_prompt,
    causal_mask,
    column_mask,
    grid_mask,
    layer_kinds,
    prompt_mask,
    row_mask,
    window_mask,
)

SHAPES = [(1, 1), (1, 5), (5, 1), (3, 4), (4, 3), (6, 6), (2, 9)]


def written_out(shape, sees):
    """The mask of a rule on (row, column) of the query, (row, column) of the key, and the two's raster positions."""
    height, width = shape
    places = list(itertools.product(range(height), range(width)))
    result = torch.zeros(len(places), len(places), dtype=torch.bool)
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            result[i, j] = j <= i and sees(*query, *key, i, j)
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_row(shape):
    width = shape[1]

    def sees(r, c, s, d, i, j):  # the own row up to here, and the row above from the same column on
        return s == r or (s == r - 1 and d >= c)

    assert torch.equal(row_mask(shape), written_out(shape, sees))
    assert row_mask(shape).sum(1).tolist() == [min(i, width) + 1 for i in range(shape[0] * width)]


@pytest.mark.parametrize("shape", SHAPES)
def test_column(shape):
    assert torch.equal(column_mask(shape), written_out(shape, lambda r, c, s, d, i, j: d == c))
    assert column_mask(shape).sum(1).tolist() == [r + 1 for r in range(shape[0]) for _ in range(shape[1])]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [3, 5, 11])
def test_window(shape, window):
    def sees(r, c, s, d, i, j):
        return max(abs(r - s), abs(c - d)) <= (window - 1) // 2

    assert torch.equal(window_mask(shape, window), written_out(shape, sees))


@pytest.mark.parametrize("length", [1, 2, 7])
def test_causal(length):
    expected = [[j <= i for j in range(length)] for i in range(length)]
    assert causal_mask(length).tolist() == expected
    assert grid_mask("full", (length,), 3).tolist() == expected
    assert torch.equal(grid_mask("full", (length, 2), 3), causal_mask(2 * length))


@pytest.mark.parametrize("given", [0, 1, 6])
@pytest.mark.parametrize("kind", ["full", "row", "column", "window"])
def test_all_that_is_given_is_always_visible(kind, given):
    mask = grid_mask(kind, (3, 4), 3)
    whole = after_prompt(mask, given)
    assert whole.shape == (12, given + 12)
    assert whole[:, :given].all() and torch.equal(whole[:, given:], mask)


@pytest.mark.parametrize(("text", "others"), [(0, 3), (4, 0), (4, 1), (3, 5), (0, 0)])
def test_given_tokens(text, others):
    """A text looks back in itself only; a label and coarser codes see the text and each other."""
    total = text + others
    expected = [[(j <= i) if i < text else True for j in range(total)] for i in range(total)]
    assert prompt_mask(text, others).tolist() == expected
    if others == 1:  # the prior leaves such a mask away
        assert torch.equal(prompt_mask(text, others), causal_mask(total))


def test_order_of_layers():
    r, c, w = "row", "column", "window"
    assert layer_kinds("sparse", 12) == [r, c, r, r, r, c, r, r, r, c, r, w]
    assert layer_kinds("sparse", 2) == [r, w] and layer_kinds("sparse", 1) == [w]
    assert layer_kinds("full", 3) == ["full"] * 3


def test_what_cannot_be():
    for window in (2, 4, 1, 0, -1):
        with pytest.raises(InputError, match=f"window must be odd and at least 3, got {window}"):
            window_mask((3, 3), window)
    with pytest.raises(InputError, match=r"'sparse' needs a grid \(height, width\), got \(9,\)"):
        grid_mask("row", (9,), 3)
    with pytest.raises(InputError, match=r"unknown attention 'sparce'. Did you mean 'sparse'\?"):
        layer_kinds("sparce", 3)
