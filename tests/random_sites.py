"""Decoders and data sites of random programs: their source, and the densities of values without Pyro.

A decoder's meaning is what it does to rows: features ``(M, F)`` to outputs ``(M, D)``. Of those that are written for
rows only, some raise an error with particles to the left of the data, some compute something else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributions as td
from random_latents import Draws
from torch import Tensor, nn

HIDDEN = 4  # of a decoder's layer

BROADCASTING = {
    "affine": "out = torch.tanh(h @ W + c) @ V + BIAS",
    "network": "out = NET(h) + c @ V",
}
ROWS_ONLY = {  # with particles: another number, without a word
    "softmax(…, 1)": "out = F.softmax(2 * (h @ W + c), 1) @ (2 * V) + BIAS",
    "cumsum(1)": "out = torch.tanh(h @ W + c).cumsum(1) @ (0.5 * V) + BIAS",
    "norm(dim=1)": "g = h @ W + c\nout = (g / (1 + g.square().sum(1, keepdim=True)).sqrt()) @ (2 * V) + BIAS",
    "mean(1)": "g = torch.tanh(h @ W + c)\nout = (g - g.mean(1, keepdim=True)) @ V + BIAS",
    "flip(1)": "out = torch.tanh(h @ W + c).flip(1) @ V + BIAS",
    "h[:, :1]": "out = torch.tanh(sum(h[:, i : i + 1] * W[i] for i in range(FEATURES)) + c) @ V + BIAS",
    "batch norm": "out = NORM(h) + c @ V",
    # or an error, that does not say what would be right
    "view(-1, …)": "out = NET(h.reshape(-1, FEATURES)).view(-1, OUTPUTS) + c @ V",
    "flatten(1)": "out = NET(h.flatten(1)) + c @ V",
    "einsum": 'out = torch.tanh(torch.einsum("nf,fh->nh", h, W) + c) @ V + BIAS',
    "t()": "out = torch.tanh((W.t() @ h.t()).t() + c) @ V + BIAS",
    "cat(…, 1)": "out = torch.tanh(torch.cat([h, h.square()], 1) @ WW + c) @ V + BIAS",
}
OF_THE_BATCH = {  # what a datum gets depends on the others: no density of a datum
    "mean of the batch": "out = torch.tanh((h - h.mean(0)) @ W + c) @ V + BIAS",
    "softmax(…, 0)": "out = torch.tanh(F.softmax(h, 0) @ W + c) @ V + BIAS",
    "batch statistics": "out = torch.tanh(F.batch_norm(h @ W, None, None, training=True) + c) @ V + BIAS",
    "first of the batch": "out = torch.tanh(h[:1] @ W + c) @ V + 0 * h[:, :1] + BIAS",
}


def decoder_style(b: Draws) -> str:
    """Source of ``out`` from ``h`` and ``c``."""
    rows_only = b.chance(0.45)
    if rows_only:
        b.mark("rows only")
    styles = ROWS_ONLY if rows_only else BROADCASTING
    style = b.choice(*styles)
    b.mark(f"decoder {style}")
    return styles[style]


def decoder_constants(b: Draws, source: str, features: int, outputs: int) -> None:
    """Put the constants and the network that a decoder's source refers to into the names."""
    b.normal("W", features, HIDDEN), b.normal("WW", 2 * features, HIDDEN, scale=0.7)
    b.normal("V", HIDDEN, outputs, scale=0.8), b.normal("BIAS", outputs, scale=0.3)
    b.names |= {"FEATURES": features, "OUTPUTS": outputs}
    with torch.random.fork_rng():
        torch.manual_seed(b.rng.randrange(10**6))
        if "NET(" in source:
            b.names["NET"] = nn.Sequential(nn.Linear(features, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, outputs))
        if "NORM(" in source:
            norm = nn.BatchNorm1d(HIDDEN)
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2.0)
            b.names["NORM"] = nn.Sequential(
                nn.Linear(features, HIDDEN), norm, nn.Tanh(), nn.Linear(HIDDEN, outputs)
            ).eval()


@dataclass
class DataSite:
    """One data site.

    Attributes:
        name, argument: of the site and of the batch entry it observes.
        source: the statement, a line or two (a mask's block).
        log_prob: of outputs ``(M, D)`` and a batch of M rows: nats, ``(M,)``, masks applied.
        counted: of a batch: elements of each datum that count, ``(N,)``.
        sample: of outputs ``(N, D)``: values.
        masks: argument names of masks and their shapes per datum.
        shape: of a value.
        density: whether it is one, or a probability.
    """

    name: str
    argument: str
    source: list[str]
    log_prob: Callable[[Tensor, dict[str, Tensor]], Tensor]
    counted: Callable[[dict[str, Tensor]], Tensor]
    sample: Callable[[Tensor], Tensor]
    masks: dict[str, tuple[int, ...]]
    shape: tuple[int, ...]
    density: bool


@dataclass
class Kind:
    """What a data site of size n takes of the outputs, its elements' shape, its source and its distribution."""

    outputs: Callable[[int], int]
    shape: Callable[[int], tuple[int, ...]]
    source: str
    distribution: Callable[[Tensor, float], td.Distribution]
    one_hot: bool = False


def _vector(n: int) -> tuple[int, ...]:
    return (n,)


KINDS = {
    "Normal": Kind(lambda n: n, _vector, "dist.Normal({o}, NOISE)", td.Normal),
    "LogNormal": Kind(lambda n: n, _vector, "dist.LogNormal({o}, NOISE)", td.LogNormal),
    "Normal number": Kind(
        lambda n: 1, lambda n: (), "dist.Normal({o}[..., 0], NOISE)", lambda o, s: td.Normal(o[:, 0], s)
    ),
    "Normal image": Kind(
        lambda n: 4,
        lambda n: (2, 2),
        "dist.Normal({o}.reshape(*out.shape[:-1], 2, 2), NOISE)",
        lambda o, s: td.Normal(o.reshape(-1, 2, 2), s),
    ),
    "Bernoulli": Kind(lambda n: n, _vector, "dist.Bernoulli(logits={o})", lambda o, s: td.Bernoulli(logits=o)),
    "Poisson": Kind(
        lambda n: n, _vector, "dist.Poisson(F.softplus({o}))", lambda o, s: td.Poisson(nn.functional.softplus(o))
    ),
    "Categorical": Kind(
        lambda n: n + 1, lambda n: (), "dist.Categorical(logits={o})", lambda o, s: td.Categorical(logits=o)
    ),
    "Categoricals": Kind(
        lambda n: 2 * (n + 1),
        lambda n: (2,),
        "dist.Categorical(logits={o}.reshape(*out.shape[:-1], 2, -1))",
        lambda o, s: td.Categorical(logits=o.reshape(len(o), 2, -1)),
    ),
    "OneHotCategorical": Kind(
        lambda n: n + 1,
        lambda n: (),
        "dist.OneHotCategorical(logits={o})",
        lambda o, s: td.OneHotCategorical(logits=o),
        one_hot=True,
    ),
}


def data_sites(b: Draws) -> tuple[list[DataSite], int]:
    """One to three data sites that share a decoder's outputs; and how many outputs that are."""
    names = ["x", *b.rng.sample(["label", "w", "target", "x2", "measured"], 2)]
    count = b.choice(1, 2, 3, weights=(6, 3, 1))
    if count > 1:
        b.mark("several data sites")
    sites, start = [], 0
    for name in names[:count]:
        site, outputs = _data_site(b, name, start)
        sites.append(site)
        start += outputs
    return sites, start


def _data_site(b: Draws, name: str, start: int) -> tuple[DataSite, int]:
    kind = b.choice(*KINDS)
    b.mark(f"data {kind}")
    n, noise = b.choice(1, 2, 3), round(b.rng.uniform(0.5, 1.0), 2)
    width, elements, distribution = KINDS[kind].outputs(n), KINDS[kind].shape(n), KINDS[kind].distribution
    numbers = width if KINDS[kind].one_hot else 1
    shape = (width,) if KINDS[kind].one_hot else elements
    rows_only = "rows only" in b.marks and b.chance(0.3)
    part = f"out[{':' if rows_only else '...'}, {start}:{start + width}]"
    fn = KINDS[kind].source.format(o=part).replace("NOISE", str(noise))
    block, fn, masks, constant = _masked(b, fn, elements, "" if name == "x" else f"_{name}")
    site = name
    if name == "x" and b.chance(0.25):
        site = "observed"
        b.mark("site not named as its argument")
    statement = f'pyro.sample("{site}", {fn}, obs={name})'
    source = [block, "    " + statement] if block else [statement]

    def kept(batch: dict[str, Tensor]) -> Tensor:  # (M, *elements)
        keep = torch.ones(len(batch["x"]), *elements, dtype=torch.float64)
        if constant is not None:
            keep = keep * constant
        for mask, per_datum in masks.items():
            each = batch[mask].double()
            keep = keep * (each if per_datum == elements else each.reshape(-1, *(1,) * len(elements)))
        return keep

    def log_prob(out: Tensor, batch: dict[str, Tensor]) -> Tensor:
        each = distribution(out[:, start : start + width], noise).log_prob(_typed(batch[name])) * kept(batch)
        return each.flatten(1).sum(1) if elements else each

    def counted(batch: dict[str, Tensor]) -> Tensor:
        return numbers * kept(batch).reshape(len(batch["x"]), -1).sum(1)

    def sample(out: Tensor) -> Tensor:
        value = distribution(out[:, start : start + width], noise).sample()
        return value.float() if value.is_floating_point() or name == "x" else value  # x: no integers but codes

    return DataSite(site, name, source, log_prob, counted, sample, masks, shape, "Normal" in kind), width


def _masked(
    b: Draws, fn: str, elements: tuple[int, ...], suffix: str
) -> tuple[str, str, dict[str, tuple[int, ...]], Tensor | None]:
    """A source with events and masks: the handler's line, the distribution, the masks' shapes, a constant mask."""
    masks: dict[str, tuple[int, ...]] = {}
    block, constant = "", None
    chosen = [how for how in ("inside", "constant", "outside", "handler") if b.chance(0.12)]
    event = f".to_event({len(elements)})" if elements else ""
    for how in chosen:
        mask = f"keep_{how}{suffix}"
        if how == "constant":
            if not elements:
                continue
            constant = torch.rand(elements, generator=b.generator) < 0.6
            mask = mask.upper()
            b.name(mask, constant)
        else:
            masks[mask] = elements if how == "inside" else ()
        if how == "handler":
            block = f"with poutine.mask(mask={mask}):"
        elif how == "outside":
            event += f".mask({mask})"
        else:
            fn += f".mask({mask})"
        b.mark(f"mask {how}")
    return block, fn + event, masks, constant


def _typed(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value
