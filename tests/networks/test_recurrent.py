"""Encoders of tokens: what they look at, and what they make of it by hand."""

import pytest
import torch
from token_cases import some_sequences
from torch import nn

from pyro_vae.networks import RecurrentEncoder, SegmentEncoder, TransformerEncoder

MADE = {
    "lstm": lambda length: RecurrentEncoder((length,), 6, 4, 5, 7, num_layers=2),
    "gru": lambda length: RecurrentEncoder((length,), 6, 4, 5, 7, cell="gru", bidirectional=False),
    "segments": lambda length: SegmentEncoder((length,), 6, 4, length // 3, 5, 7, 8),  # of three places each
    "segments, skip": lambda length: SegmentEncoder((length,), 6, 4, length // 3, 5, 7, 8, skip=True),
    "transformer": lambda length: TransformerEncoder((length,), 6, 4, width=8, heads=2),
}


def made(kind, length=6):
    torch.manual_seed(2)
    return MADE[kind](length).eval()


@pytest.mark.parametrize("kind", MADE)
def test_longer_padding_changes_no_bit(kind):
    x = some_sequences(7, 5, 6)
    short, long = made(kind), made(kind, 9)
    weights = short.state_dict()
    if kind == "transformer":
        weights["places"] = torch.cat([weights["places"], torch.randn(3, 8)])
    if kind == "segments, skip":  # of a third segment
        weights["out.weight"] = torch.cat([weights["out.weight"], torch.randn(4, 14)], 1)
    long.load_state_dict(weights)
    found = [encoder(nn.functional.pad(x, (0, n - 5))) for encoder, n in ((short, 6), (long, 9))]
    assert found[0].isfinite().all()
    if kind == "segments, skip":  # its last layer reads a segment more, and sums in another order
        torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(*found)


@pytest.mark.parametrize("kind", MADE)
def test_each_sequence_is_read_alone_and_to_its_end(kind):
    encoder, x = made(kind), some_sequences(12, 6, 6)
    together = encoder(x.view(3, 4, 6)).flatten(0, 1)
    for i, row in enumerate(x):
        torch.testing.assert_close(encoder(row), together[i], rtol=0, atol=1e-5)
        for t in range(int((row != 0).sum())):  # every token matters
            other = row.clone()
            other[t] = row[t] % 5 + 1
            assert (encoder(other) - together[i]).abs().max() > 1e-6


def test_two_directions_by_hand():
    """A layer of torch's own bidirectional LSTM, one sequence at a time without its padding."""
    encoder, x = RecurrentEncoder((6,), 6, 4, 5, 7, num_layers=2), some_sequences(6, 6, 6)
    rnn = nn.LSTM(5, 7, 2, batch_first=True, bidirectional=True)
    own = {}
    for i, layer in enumerate(encoder.reader.layers):
        for direction, suffix in zip(layer, ("", "_reverse"), strict=True):
            own |= {f"{n.removesuffix('_l0')}_l{i}{suffix}": v for n, v in direction.layers[0].state_dict().items()}
    rnn.load_state_dict(own)
    for row in x:
        tokens = row[row != 0]
        last = torch.zeros(14)
        if len(tokens):
            last = rnn(encoder.embedding(tokens)[None])[1][0][-2:].reshape(-1)  # both directions of the last layer
        torch.testing.assert_close(encoder(row), encoder.out(last), rtol=0, atol=1e-5)


def test_with_skip_all_segments_are_read_by_the_last_layer():
    encoder, x = made("segments, skip"), torch.tensor([[3, 1, 2, 5, 0, 0], [4, 2, 0, 0, 0, 0]])
    for row, count in zip(x, (2, 1), strict=True):
        vectors = torch.zeros(2, 14)
        for u in range(count):
            tokens = row[3 * u : 3 * u + 3]
            tokens = encoder.embedding(tokens[tokens != 0])[None]  # alone, without what stands behind
            both = [
                layer(t)[0, -1] for layer, t in zip(encoder.within.layers[0], (tokens, tokens.flip(1)), strict=True)
            ]
            vectors[u] = torch.cat(both)
        over = [layer(v[None])[0, -1] for layer, v in zip(
            encoder.over.layers[0], (vectors[:count], vectors[:count].flip(0)), strict=True)]  # fmt: skip
        expected = encoder.out(torch.cat([*over, vectors.flatten()]))
        torch.testing.assert_close(encoder(row), expected, rtol=1e-5, atol=1e-6)


def test_dropout_is_for_training_alone():
    encoder, x = RecurrentEncoder((6,), 6, 4, 5, 7, num_layers=2, dropout=0.5), some_sequences(5, 6, 6)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))
