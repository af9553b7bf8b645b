"""Small pairs of programs over codes, as a user would write them: plain functions, fixed tensors, nothing of ours."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import yaml
from torch import nn

from pyro_vae.cli import main
from pyro_vae.data import Split
from pyro_vae.distributions import UniformCodes
from pyro_vae.priors import Prior, UniformPrior

SIDE, DIM, NOISE = 8, 3, 0.3  # of an image; of a code's vector; of the likelihood


def fixed(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(n=30, labels=True, name="toy test"):
    tensors = {"x": fixed(n, 1, SIDE, SIDE, seed=5).mul(0.25).add(0.5).clamp(0, 1)}
    if labels:
        tensors["y"] = torch.arange(n) % 3
    return Split(tensors, name=name)


def patches(x, size):
    """``(..., 1, 8, 8)`` to ``(..., h, w, size * size)``, centred."""
    x = 4 * (x.squeeze(-3) - 0.5).unfold(-2, size, size).unfold(-2, size, size)
    return x.flatten(-2)


def nearest(codebook, features):
    """Codes ``(..., h, w)`` of features ``(..., h, w, D)``."""
    return (features[..., None, :] - codebook).square().sum(-1).argmin(-1)


def embed(codebook, codes):
    """``(..., h, w)`` to ``(..., D, h, w)``."""
    return codebook[codes].movedim(-1, -3)


def decoded(z, weight):
    """A linear picture of ``(..., D, *grid)``: ``(..., 1, 8, 8)``."""
    return (z.flatten(-len(weight.shape[1:])) @ weight.flatten(1).T).unflatten(-1, (1, SIDE, SIDE))


class OneLevel:
    """codes (4, 4) of K, z (3, 4, 4), x (1, 8, 8)."""

    def __init__(self, num_codes=8):
        self.num_codes = num_codes
        self.codebook = fixed(num_codes, DIM, seed=1)
        self.encoder = fixed(4, DIM, seed=2)
        self.decoder = 0.1 * fixed(SIDE * SIDE, DIM, 4, 4, seed=3)

    def quantized(self, x):
        codes = nearest(self.codebook, patches(x, 2) @ self.encoder)  # (..., 4, 4)
        return codes, embed(self.codebook, codes)

    def model(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            codes = pyro.sample("codes", UniformCodes(self.num_codes, (4, 4)))
            z = pyro.sample("z", dist.Delta(embed(self.codebook, codes), event_dim=3))
            return pyro.sample("x", dist.Normal(decoded(z, self.decoder), NOISE).to_event(3), obs=x)

    def guide(self, x):
        codes, z = self.quantized(x)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("codes", dist.Delta(codes, event_dim=2))
            pyro.sample("z", dist.Delta(z, event_dim=3))


class TwoLevels:
    """codes_top (2, 2) of 5, z_top (3, 2, 2); codes_bottom (4, 4) of 8, z_bottom (3, 4, 4); x (1, 8, 8)."""

    def __init__(self):
        self.top, self.bottom = fixed(5, DIM, seed=1), fixed(8, DIM, seed=2)
        self.to_top, self.to_bottom = 0.5 * fixed(16, DIM, seed=3), fixed(4, DIM, seed=4)
        self.from_top = 0.1 * fixed(SIDE * SIDE, DIM, 2, 2, seed=5)
        self.from_bottom = 0.1 * fixed(SIDE * SIDE, DIM, 4, 4, seed=6)

    def mean(self, z_top, z_bottom):
        return decoded(z_top, self.from_top) + decoded(z_bottom, self.from_bottom)

    def quantized(self, x):
        top = nearest(self.top, patches(x, 4) @ self.to_top)
        bottom = nearest(self.bottom, patches(x, 2) @ self.to_bottom)
        return {"codes_top": top, "z_top": embed(self.top, top)} | {
            "codes_bottom": bottom,
            "z_bottom": embed(self.bottom, bottom),
        }

    def model(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            top = pyro.sample("codes_top", UniformCodes(5, (2, 2)))
            z_top = pyro.sample("z_top", dist.Delta(embed(self.top, top), event_dim=3))
            bottom = pyro.sample("codes_bottom", UniformCodes(8, (4, 4)))
            z_bottom = pyro.sample("z_bottom", dist.Delta(embed(self.bottom, bottom), event_dim=3))
            return pyro.sample("x", dist.Normal(self.mean(z_top, z_bottom), NOISE).to_event(3), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            for name, value in self.quantized(x).items():
                pyro.sample(name, dist.Delta(value, event_dim=2 if name.startswith("codes") else 3))


class Signals:
    """codes (8,) of 6, as independent categoricals, and no site of vectors; x (16,)."""

    def __init__(self, shape=(16,)):
        self.shape = shape
        self.levels = torch.linspace(0, 1, 6)

    def model(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            codes = pyro.sample("codes", dist.Categorical(torch.ones(8, 6)).to_event(1))
            mean = self.levels[codes].repeat_interleave(2, -1).unflatten(-1, self.shape)
            return pyro.sample("x", dist.Normal(mean, 0.1).to_event(len(self.shape)), obs=x)

    def codes(self, x):
        return (x.flatten(1).unflatten(-1, (8, 2)).mean(-1) * 5).round().clamp(0, 5).long()

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("codes", dist.Delta(self.codes(x), event_dim=1))


class Table(Prior):
    """A learned prior in miniature: independent categoricals at every position, for each label if there are any."""

    def __init__(self, num_codes, shape, num_classes=None):
        super().__init__(num_codes, shape, num_classes)
        self.logits = nn.Parameter(4 * fixed(num_classes or 1, *self.shape, num_codes, seed=9))

    def forward(self, **context):
        given = self.own_context(context)
        logits = self.logits[given["y"]] if given else self.logits[0]
        return TemperedTable(logits, len(self.shape))


class TemperedTable(dist.TorchDistribution):
    """Independent categoricals ``(*batch, *shape, K)`` with a temperature."""

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, logits, rank):
        self.base, self.rank = dist.Categorical(logits=logits).to_event(rank), rank
        super().__init__(self.base.batch_shape, self.base.event_shape)

    @property
    def support(self):
        return self.base.support

    def tempered(self, temperature, top_k=None):
        logits = self.base.base_dist.logits
        if top_k is not None:
            kept = logits >= logits.topk(top_k, -1).values[..., -1:]
            logits = logits.masked_fill(~kept, -math.inf)
        return TemperedTable(logits / temperature, self.rank)

    def sample(self, sample_shape=()):
        return self.base.sample(sample_shape)

    def log_prob(self, value):
        return self.base.log_prob(value)


class WithPriors(nn.Module):
    """The one-level model as a module that holds its prior; conditional on labels if that is."""

    def __init__(self, prior=None):
        super().__init__()
        self.of = OneLevel()
        self.priors = nn.ModuleDict({"codes": prior if prior is not None else UniformPrior(8, (4, 4))})

    @property
    def context(self):
        return self.priors["codes"].context

    def forward(self, x=None, *, y=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            codes = pyro.sample("codes", self.priors["codes"](y=y))
            z = pyro.sample("z", dist.Delta(embed(self.of.codebook, codes), event_dim=3))
            return pyro.sample("x", dist.Normal(decoded(z, self.of.decoder), NOISE).to_event(3), obs=x)


class WithPriorsGuide(nn.Module):
    """Its guide."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.of = model.of

    def forward(self, x):
        self.of.guide(x)


class Labelled(WithPriors):
    """Codes with a prior of every label, as a configuration can name it."""

    def __init__(self) -> None:
        super().__init__(Table(8, (4, 4), num_classes=3))


def labelled_run(folder):
    """A run of it, trained for an epoch by the command line."""
    np.savez(folder / "mine.npz", **{name: value.numpy() for name, value in images(60).tensors.items()})
    config = {
        "data": {"name": str(folder / "mine.npz"), "binarization": "none"},
        "model": {"class_path": "code_pairs.Labelled"},
        "guide": {"class_path": "code_pairs.WithPriorsGuide"},
        "fit": {"epochs": 1, "batch_size": 20, "device": "cpu", "compile": "off"},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(folder / "mine.yaml"), "--trust", "--out", str(folder / "run")]) == 0
    return folder / "run"


def three_layers(x=None, num_samples=1):
    """A hierarchy without codes: z3 -> z2 -> z1 -> x, two dimensions each."""
    with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
        z3 = pyro.sample("z3", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z2 = pyro.sample("z2", dist.Normal(2 * z3, 0.1).to_event(1))
        z1 = pyro.sample("z1", dist.Normal(2 * z2, 0.1).to_event(1))
        return pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=x)


def bottom_up(x):
    """Its guide, which draws nothing: z1 = x, z2 = x + 1, z3 = x + 2."""
    with pyro.plate("data", len(x), dim=-1):
        z1 = pyro.sample("z1", dist.Delta(x, event_dim=1))
        z2 = pyro.sample("z2", dist.Delta(z1 + 1, event_dim=1))
        pyro.sample("z3", dist.Delta(z2 + 1, event_dim=1))
