"""Small likelihoods of tokens, away from their start, and all the sequences that they could draw."""

import itertools

import torch

from pyro_vae.likelihoods import ConductorTokens, RecurrentTokens, TransformerTokens

T, V, F = 4, 4, 3
SIZES = {"embedding_dim": 5, "hidden_dim": 6}


def _conductor(shape, v, **more):
    return ConductorTokens(shape, v, **{"num_segments": 2, "conductor_dim": 7, "features": F, **SIZES, **more})


KINDS = {
    "lstm": lambda shape, v, **more: RecurrentTokens(shape, v, **{"features": F, "num_layers": 2, **SIZES, **more}),
    "gru": lambda shape, v, **more: RecurrentTokens(shape, v, **{"features": F, "cell": "gru", **SIZES, **more}),
    "transformer": lambda shape, v, **more: TransformerTokens(
        shape, v, **{"features": F, "width": 8, "heads": 2, **more}
    ),
    "conductor-lstm": _conductor,
    "conductor-gru": lambda shape, v, **more: _conductor(shape, v, cell="gru", **more),
    "conductor-skip": lambda shape, v, **more: _conductor(shape, v, skip=True, num_layers=2, **more),
}
WITHOUT = [kind for kind in KINDS if "conductor" not in kind]  # those that need no features


def strong(kind, shape=(T,), num_tokens=V, **more):
    """A likelihood whose conditionals differ, in evaluation mode."""
    torch.manual_seed(3)
    likelihood = KINDS[kind](shape, num_tokens, **more)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return likelihood.eval()


def all_sequences(ends, length=T, num_tokens=V):
    """All sequences, by hand: up to T-1 tokens and zeros, or T tokens."""
    tokens = range(1, num_tokens)
    sizes = range(length) if ends else [length]
    found = [(*words, *[0] * (length - n)) for n in sizes for words in itertools.product(tokens, repeat=n)]
    return torch.tensor(found)


def some_sequences(count, length=T, num_tokens=V, ends=True):
    """Random ones, of all lengths, the longest not first."""
    x = torch.randint(1, num_tokens, (count, length))
    if not ends:
        return x
    lengths = torch.arange(count) % length
    return torch.where(torch.arange(length) < lengths[:, None], x, 0)
