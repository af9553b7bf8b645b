"""Small data drawn from known models: a table of mixed columns, counts with a library size, documents by topics."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.data.dataset import RawData
from pyro_vae.data.parts import PARTS, Parts
from pyro_vae.data.registry import source

SIZES = (2000, 500, 500)  # of the splits
TABLE = ("height", "weight", "income", "job", "smokes", "visits", "score")
LIBRARY = (6.0, 0.4)  # mean and standard deviation of the log of the library size
OVERDISPERSION = 0.3
CONCENTRATION = 0.3  # of the topics of a document


@source("toy-table", "3,000 rows of 7 columns (real, class, count, bounded), drawn from 2 factors, 20 % missing")
def load_table(*, missing_share: float = 0.2) -> RawData:
    """Draw a table: z ~ N(0, I) of two factors, and seven columns given z (:func:`table_columns`).

    Args:
        missing_share: probability that an entry is missing (NaN), whatever its value.

    Returns:
        ``x`` float32 (N, 7) per split: height, weight, income (real), job (one of 3), smokes (one of 2), visits (a
        count), score (in (0, 1)); 2,000 train, 500 validation, 500 test, always the same.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        columns = table_columns(torch.randn(sum(SIZES), 2))
        x = torch.stack([column.sample().float() for column in columns.values()], 1)
        x[torch.rand(x.shape) < missing_share] = torch.nan
    return RawData(_cut({"x": x}), missing=True)


def table_columns(z: Tensor) -> dict[str, dist.TorchDistribution]:
    """p(x_j | z) of the toy table's columns by name, for factors ``(..., 2)``; batch shape ``(...)`` each."""
    a, b = z.unbind(-1)
    job = torch.stack([1.5 * a, 1.5 * b, -a - b], -1)
    mean = (0.8 * a - 0.8 * b).sigmoid()
    return {
        "height": dist.Normal(a, 0.4),
        "weight": dist.Normal(0.8 * a + 0.5 * b.square() - 0.5, 0.5),
        "income": dist.Normal((2 * b).tanh(), 0.3),
        "job": dist.Categorical(logits=job),
        "smokes": dist.Categorical(logits=torch.stack([torch.zeros_like(a), 2 * a * b], -1)),
        "visits": dist.NegativeBinomial(torch.tensor(4.0), logits=1 + 0.7 * b - torch.tensor(4.0).log()),
        "score": dist.Beta(10 * mean, 10 * (1 - mean)),
    }


@source("toy-counts", "3,000 cells of 100 counts each (gamma-Poisson) of 3 kinds, with their library sizes")
def load_counts() -> RawData:
    """Draw counts: a library size, one of three kinds and a factor t ~ N(0, 1) of a cell; see :func:`count_rates`.

    x_g ~ Poisson(rate), with rates that are gamma distributed of mean l rho_g(kind, t) and shape 1 / 0.3.

    Returns:
        ``x`` float32 (N, 100), ``library`` float32 (N,), log-normal of median e^6 = 403, and the kinds ``y`` int64
        (N,) per split: 2,000 train, 500 validation, 500 test, always the same.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        count = sum(SIZES)
        kind, t = torch.randint(3, (count,)), torch.randn(count)
        library = torch.exp(LIBRARY[0] + LIBRARY[1] * torch.randn(count))
        mean = library[:, None] * count_rates(kind, t)
        shape = torch.tensor(1 / OVERDISPERSION)
        x = torch.poisson(dist.Gamma(shape, shape / mean).sample())
    return RawData(_cut({"x": x, "library": library, "y": kind}))


def count_rates(kind: Tensor, t: Tensor) -> Tensor:
    """rho, the share of each of 100 counts in a cell of a kind (0, 1, 2) with factor t, ``(..., 100)``."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(100, generator=generator)
    of_kind = 1.5 * torch.randn(3, 100, generator=generator) * (torch.rand(3, 100, generator=generator) < 0.3)
    slope = 0.7 * torch.randn(100, generator=generator) * (torch.rand(100, generator=generator) < 0.3)
    return (base + of_kind[kind] + t[..., None] * slope).softmax(-1)


@source("toy-topics", "3,000 documents of 50 to 150 words of a vocabulary of 200, drawn from 5 topics (Dirichlet)")
def load_topics() -> RawData:
    """Draw documents as latent Dirichlet allocation does: theta ~ Dirichlet(0.3), words ~ sum_k theta_k topic_k.

    Returns:
        ``x``, the counts of words, float32 (N, 200) per split: 2,000 train, 500 validation, 500 test, always the same.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        topics = topic_words()
        theta = dist.Dirichlet(torch.full((len(topics),), CONCENTRATION)).sample((sum(SIZES),))
        lengths = torch.randint(50, 151, (sum(SIZES),))
        words = (theta @ topics).multinomial(150, replacement=True)  # (N, 150), of which the first ones count
        counted = (torch.arange(150) < lengths[:, None]).float()
        x = torch.zeros(len(words), topics.shape[1]).scatter_add_(1, words, counted)
    return RawData(_cut({"x": x}))


def topic_words() -> Tensor:
    """Probabilities of the words of each topic, ``(5, 200)``, drawn from Dirichlet(0.1)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return dist.Dirichlet(torch.full((200,), 0.1)).sample((5,))


def _cut(tensors: dict[str, Tensor]) -> Parts:
    pieces = {key: tensor.split(SIZES) for key, tensor in tensors.items()}
    return {part: {key: piece[i] for key, piece in pieces.items()} for i, part in enumerate(PARTS)}
