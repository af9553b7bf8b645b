"""What each position's logits depend on, by the Jacobian: all that is before it, nothing else."""

import math

import pytest
import torch
from prior_cases import CASES, codes, context, prior
from torch import nn

from pyro_vae.priors import GatedPixelCNN, TransformerPrior, WaveNet

WIDE = 32  # channels: of few, all the head's units may be at rest at some position, and it then depends on nothing
DEEP_ENOUGH = [
    (GatedPixelCNN, (6, 6), {"num_layers": 5, "kernel": 3}),
    (GatedPixelCNN, (4, 7), {"num_layers": 3, "kernel": 5}),
    (GatedPixelCNN, (7, 3), {"num_layers": 6, "kernel": 3}),
    (GatedPixelCNN, (6, 6), {"num_layers": 3, "kernel": 3, "attention_heads": 2, "attention_every": 3}),
    (GatedPixelCNN, (5, 8), {"num_layers": 1, "kernel": 3, "attention_heads": 4, "attention_every": 1}),
    (WaveNet, (17,), {"num_layers": 4}),
    (WaveNet, (33,), {"num_layers": 5, "cycle": 5}),
    (WaveNet, (28,), {"num_layers": 3, "cycle": 3, "kernel": 5}),
]


class Given(nn.Module):
    """An embedding that gives the same leaf whatever the codes are."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def forward(self, _):
        return self.x


def dependence(network):
    """Bool (N, N): whether the logits at i (row) change with the embedded code at j (column)."""
    shape, channels = network.shape, network.embedding.embedding_dim
    network.embedding = Given(torch.randn(1, *shape, channels, dtype=torch.float64, requires_grad=True))
    condition = network(**context(network, 1)).condition
    logits = network.logits(codes(network, 1), condition).flatten(2)  # (1, K, N)
    weights = torch.randn(logits.shape[1], dtype=torch.float64)
    rows = []
    for i in range(logits.shape[2]):
        (gradient,) = torch.autograd.grad(weights @ logits[0, :, i], network.embedding.x, retain_graph=True)
        rows.append(gradient.flatten(1, -2).norm(dim=-1)[0])
    return torch.stack(rows) != 0


def all_before(n):
    return torch.ones(n, n).tril(-1).bool()


@pytest.mark.parametrize("name", CASES)
def test_nothing_at_or_after_a_position(name):
    network = prior(name)
    found = dependence(network)
    assert not (found & ~all_before(len(found))).any()


@pytest.mark.parametrize(("kind", "shape", "options"), DEEP_ENOUGH)
def test_everything_before_a_position_if_deep_enough(kind, shape, options):
    found = dependence(kind(5, shape, channels=WIDE, **options).double().eval())
    assert torch.equal(found, all_before(len(found)))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((13,), {"num_layers": 1}),
        ((4, 5), {"num_layers": 1}),
        ((5, 4), {"num_layers": 3, "attention": "sparse", "window": 3}),
    ],
)
def test_everything_before_a_position_for_a_transformer(shape, options):
    """One layer of full attention sees all; a row and a column do so together."""
    found = dependence(TransformerPrior(5, shape, width=8, heads=2, **options).double().eval())
    assert torch.equal(found, all_before(len(found)))


@pytest.mark.parametrize(("layers", "kind"), [(1, "window"), (2, "row")])
def test_receptive_field_of_a_sparse_transformer(layers, kind):
    """A layer alone (of two layers, the last one's window of one row and column is nearly nothing beside the row)."""
    height, width, window = 4, 5, 3
    network = TransformerPrior(
        5, (height, width), width=8, num_layers=layers, heads=2, attention="sparse", window=window
    )
    found = dependence(network.double().eval())

    def around(i):  # tokens that the last layer sees at i
        rows, columns = (range(i // width - 1, i // width + 2), range(i % width - 1, i % width + 2))
        return [j for j in range(i + 1) if j // width in rows and j % width in columns]

    def sees(i):
        tokens = around(i)
        if kind == "row":
            tokens = {k for j in tokens for k in range(max(j - width, 0), j + 1)}
        return {token - 1 for token in tokens if token > 0}  # token j holds code j - 1

    assert [set(row.nonzero().flatten().tolist()) for row in found] == [sees(i) for i in range(height * width)]


def near(shape, reach):
    """The receptive field of a PixelCNN without attention: a rectangle above, and the own row to the left."""
    places = [(r, c) for r in range(shape[0]) for c in range(shape[1])]
    return torch.tensor(
        [
            [(0 < r - s <= reach and abs(c - d) <= reach) or (r == s and 0 < c - d <= reach) for s, d in places]
            for r, c in places
        ]
    )


@pytest.mark.parametrize(("layers", "kernel"), [(1, 3), (2, 3), (1, 5), (3, 3), (2, 5)])
def test_receptive_field_of_a_shallow_pixelcnn(layers, kernel):
    network = GatedPixelCNN(5, (6, 7), channels=WIDE, num_layers=layers, kernel=kernel).double().eval()
    assert torch.equal(dependence(network), near((6, 7), layers * (kernel // 2)))


@pytest.mark.parametrize(
    ("layers", "cycle", "kernel", "field"), [(1, 1, 2, 2), (3, 3, 2, 8), (4, 2, 2, 7), (2, 2, 3, 7)]
)
def test_receptive_field_of_a_wavenet(layers, cycle, kernel, field):
    network = WaveNet(5, (12,), channels=WIDE, num_layers=layers, cycle=cycle, kernel=kernel).double().eval()
    i, j = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    assert network.receptive_field == field
    assert torch.equal(dependence(network), (i > j) & (i - j <= field))


@pytest.mark.parametrize("length", [1, 2, 3, 5, 64, 65, 66, 67, 250])
@pytest.mark.parametrize("kernel", [2, 3])
def test_a_default_cycle_sees_the_whole_sequence_and_is_no_longer_than_that(length, kernel):
    network = WaveNet(2, (length,), channels=1, num_layers=12, kernel=kernel)
    cycle = max(math.log2(layer.dilation) for layer in network.layers) + 1
    seen = 1 + (kernel - 1) * (2**cycle - 1)
    assert seen >= length - 1
    assert cycle == 1 or 1 + (kernel - 1) * (2 ** (cycle - 1) - 1) < length - 1


@pytest.mark.parametrize("name", ["pixelcnn", "pixelcnn-attention", "wavenet-cycles", "transformer-sparse"])
def test_real_codes_too(name):
    """The same on codes: changing one changes logits after it only."""
    network = prior(name)
    some = codes(network, 1)
    before = network.logits(some, {}).flatten(2)
    for j in range(before.shape[2]):
        other = some.flatten(1).clone()
        other[:, j] = (other[:, j] + 1) % network.num_codes
        after = network.logits(other.reshape(some.shape), {}).flatten(2)
        changed = (after != before).any(1)[0]
        assert not changed[: j + 1].any()
        assert j + 1 == len(changed) or changed[j + 1 :].any()
