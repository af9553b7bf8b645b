"""Small autoregressive priors of all kinds, with contexts for them, and a sampler that is slow and plain."""

import math

import torch

from pyro_vae.priors import GatedPixelCNN, TransformerPrior, WaveNet

TOP = {"codes_top": (4, (3, 2))}
BEFORE = {"codes_top": (4, (5,))}
CASES = {
    "pixelcnn": lambda: GatedPixelCNN(6, (5, 4), channels=8, num_layers=3, kernel=3),
    "pixelcnn-wide": lambda: GatedPixelCNN(6, (3, 7), channels=8, num_layers=2, kernel=7),
    "pixelcnn-attention": lambda: GatedPixelCNN(
        6, (4, 5), channels=8, num_layers=3, kernel=3, attention_heads=2, attention_every=1
    ),
    "pixelcnn-label": lambda: GatedPixelCNN(6, (5, 4), num_classes=3, channels=8, num_layers=2),
    "pixelcnn-coarser": lambda: GatedPixelCNN(6, (5, 4), coarser=TOP, channels=8, num_layers=2),
    "pixelcnn-all": lambda: GatedPixelCNN(
        6, (5, 3), 3, {**TOP, "codes_middle": (5, (4, 3))}, 8, 4, 3, attention_heads=4, attention_every=2, dropout=0.5
    ),
    "pixelcnn-one": lambda: GatedPixelCNN(6, (1, 1), channels=4, num_layers=2, attention_heads=1, attention_every=1),
    "pixelcnn-row": lambda: GatedPixelCNN(6, (1, 9), channels=4, num_layers=3),
    "pixelcnn-column": lambda: GatedPixelCNN(6, (9, 1), channels=4, num_layers=1),
    "pixelcnn-one-code": lambda: GatedPixelCNN(1, (3, 3), channels=4, num_layers=2),
    "wavenet": lambda: WaveNet(6, (20,), channels=8, num_layers=5),
    "wavenet-cycles": lambda: WaveNet(6, (23,), channels=8, num_layers=6, cycle=2, kernel=3),
    "wavenet-wide": lambda: WaveNet(6, (9,), channels=8, num_layers=3, cycle=9, kernel=4),
    "wavenet-long": lambda: WaveNet(6, (150,), 2, {"codes_top": (4, (41,))}, channels=4, num_layers=8),
    "wavenet-label": lambda: WaveNet(6, (12,), num_classes=3, channels=8, num_layers=3),
    "wavenet-coarser": lambda: WaveNet(6, (12,), coarser=BEFORE, channels=8, num_layers=3),
    "wavenet-all": lambda: WaveNet(6, (12,), 3, BEFORE, channels=8, num_layers=4, dropout=0.5),
    "wavenet-one": lambda: WaveNet(6, (1,), channels=4, num_layers=2),
    "wavenet-one-code": lambda: WaveNet(1, (4,), channels=4, num_layers=2),
    "transformer": lambda: TransformerPrior(6, (5, 4), width=8, num_layers=2, heads=2),
    "transformer-sparse": lambda: TransformerPrior(
        6, (5, 4), width=8, num_layers=7, heads=2, attention="sparse", window=3
    ),
    "transformer-window": lambda: TransformerPrior(
        6, (3, 7), width=8, num_layers=1, heads=1, attention="sparse", window=5
    ),
    "transformer-sequence": lambda: TransformerPrior(6, (11,), width=8, num_layers=2, heads=4),
    "transformer-label": lambda: TransformerPrior(6, (5, 4), num_classes=3, width=8, num_layers=2, heads=2),
    "transformer-coarser": lambda: TransformerPrior(
        6, (5, 4), coarser=TOP, width=8, num_layers=3, heads=2, attention="sparse", window=3
    ),
    "transformer-text": lambda: TransformerPrior(
        6, (5, 4), text_length=4, num_words=5, width=8, num_layers=3, heads=2, attention="sparse", window=3
    ),
    "transformer-all": lambda: TransformerPrior(
        6,
        (5, 4),
        3,
        {**TOP, "codes_middle": (5, (4, 3))},
        width=8,
        num_layers=4,
        heads=2,
        attention="sparse",
        dropout=0.5,
    ),
    "transformer-everything": lambda: TransformerPrior(
        6, (12,), 3, BEFORE, text_length=3, num_words=7, width=8, num_layers=2, heads=2, condition_dropout=0.3
    ),
    "transformer-one": lambda: TransformerPrior(6, (1, 1), width=4, num_layers=2, heads=1, attention="sparse"),
    "transformer-row": lambda: TransformerPrior(6, (1, 9), width=4, num_layers=3, heads=1, attention="sparse"),
    "transformer-column": lambda: TransformerPrior(6, (9, 1), width=4, num_layers=3, heads=1, attention="sparse"),
}


def prior(name):
    """The prior of a case, in double precision and in evaluation mode, with weights from torch's generator."""
    return CASES[name]().double().eval()


def context(network, *leading):
    """A random context with these leading dimensions."""
    given = {} if network.num_classes is None else {"y": torch.randint(network.num_classes, leading)}
    if network.text_length is not None:
        given["text"] = texts(network, *leading)
    return given | {n: torch.randint(g.num_codes, (*leading, *g.shape)) for n, g in network.coarser.items()}


def texts(network, *leading):
    """Random texts of all lengths."""
    words = torch.randint(1, network.num_words, (*leading, network.text_length))
    lengths = torch.randint(network.text_length + 1, (*leading, 1))
    return words.masked_fill(torch.arange(network.text_length) >= lengths, 0)


def codes(network, *leading):
    """Random codes."""
    return torch.randint(network.num_codes, (*leading, *network.shape))


@torch.no_grad()
def naive_sample(distribution, batch, temperature=1.0, top_k=None):
    """Samples by one full pass per position, from the random numbers that ``sample`` uses: ``(batch, *shape)``."""
    network, shape = distribution.network, distribution.event_shape
    result = torch.zeros(batch, math.prod(shape), dtype=torch.int64)
    for i in range(result.shape[1]):
        logits = network.logits(result.reshape(batch, *shape), distribution.condition).flatten(2)[:, :, i]
        exponential = -torch.rand_like(logits).log()
        scaled = logits / temperature
        if top_k is not None:
            kept = scaled.sort(-1, descending=True).values[:, top_k - 1 : top_k]
            scaled = torch.where(scaled >= kept, scaled, -torch.inf)
        result[:, i] = (scaled.softmax(-1) / exponential).argmax(-1)
    return result.reshape(batch, *shape)


def step_by_step(network, some, condition):
    """Cached logits ``(batch, K, N)`` of given codes; what is not yet known is -1."""
    flat, known = some.flatten(1), torch.full_like(some.flatten(1), -1)
    with torch.no_grad():
        steps, result = network.steps(len(some), condition), []
        for i in range(flat.shape[1]):
            result.append(steps(i, known).clone())
            known[:, i] = flat[:, i]
    return torch.stack(result, -1)
