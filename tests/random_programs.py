"""Random pairs of small Pyro programs, each from one integer, with their data and the exact log p(x).

A program is written as source, as a user writes it, and compiled: a failing test shows it. What is exact is computed
beside it from the same constants (:mod:`exact_values`), by enumeration and quadrature.
"""

from __future__ import annotations

import copy
import linecache
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import torch
from exact_values import integral, linear_gaussian
from pyro import poutine
from pyro.nn import PyroModule
from random_latents import Draws, Latents, hierarchy, multivariate, none, of_family
from random_sites import HIDDEN, OF_THE_BATCH, DataSite, data_sites, decoder_constants, decoder_style
from random_states import bits, mixture, states, two_states
from torch import Tensor, nn
from torch.nn import functional as F

FORMS = ("function", "nn.Module", "PyroModule", "methods", "pyro.module")


@dataclass
class Program:
    """A pair, its data and the truth.

    Attributes:
        seed: what it was made from.
        source: of both programs.
        marks: what kinds it is of.
        model, guide, batch: as a user has them.
        truth: gives log p(x) of every datum, or with True what K -> infinity particles give (it differs where the guide
            is a point mass), nats, ``(N,)`` float64.
        counted: elements of each datum that no mask leaves out, ``(N,)``, by data site.
        density: whether a data site is one (or a probability), by name.
        deterministic: whether any number of particles gives the expected value.
        refusal: "never", "allowed" or "required".
        sampled: of a number R: log of R weights p(x | z), z from the prior, ``(R, N)``, by torch alone.
    """

    seed: int
    source: str
    marks: set[str]
    model: Callable
    guide: Callable
    batch: dict[str, Tensor]
    truth: Callable[[bool], Tensor] = field(repr=False)
    counted: dict[str, Tensor]
    density: dict[str, bool]
    deterministic: bool = False
    refusal: str = "never"
    sampled: Callable[[int], Tensor] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in self.batch.items())
        return f"seed {self.seed} [{'; '.join(sorted(self.marks))}] {shapes}\n{self.source}"

    @cached_property
    def exact(self) -> Tensor:
        """log p(x) of every datum, nats, ``(N,)`` float64."""
        return self.truth(False)

    @cached_property
    def expected(self) -> Tensor:
        """What an estimate is of: log p(x), or log p(x, z*) of a guide that is a point mass."""
        return self.truth(True)

    @property
    def kind(self) -> str:
        """What it is, in a line."""
        return f"seed {self.seed}: {'; '.join(sorted(self.marks))}"


@lru_cache(maxsize=1000)
def random_program(seed: int) -> Program:
    """The program of a seed, with an exact value; made once."""
    from random_plates import program_with_inner_plate

    b = Draws(seed)
    family = b.choice("flat", "inner plate", "conjugate", weights=(16, 5, 1))
    if family == "inner plate":
        return program_with_inner_plate(b, seed)
    if family == "conjugate":
        return _conjugate(b, seed)
    return _flat(b, seed)


def batch_dependent_program(seed: int) -> Program:
    """A program in which the density of a datum depends on the others: a refusal is right."""
    b = Draws(seed)
    style = b.choice(*OF_THE_BATCH)
    b.mark(f"decoder {style}")
    return _flat(b, seed, OF_THE_BATCH[style])


def _flat(b: Draws, seed: int, decode: str | None = None) -> Program:
    n = b.choice(2, 3, 4, 5)
    part = latents(b)
    of_the_batch = decode is not None
    decode = decode or decoder_style(b)
    sites, outputs = data_sites(b)
    decoder_constants(b, decode, part.num_features, outputs)
    context_source, context = _context(b, n)
    factor = _factor(b) if part.model and b.chance(0.12) else None
    masks = {m: shape for site in sites for m, shape in site.masks.items()}

    b.normal("E", math.prod(sites[0].shape), 2, scale=0.5)
    truth = _Truth(b.names, part, sites, context_source, decode, factor)
    batch = dict(context)
    batch |= {m: torch.rand(n, *shape, generator=b.generator) < 0.6 for m, shape in masks.items()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        batch |= truth.sample_data(n, batch)
    data = [site.argument for site in sites]
    batch = {name: batch[name] for name in [*data, *[k for k in batch if k not in data]]}

    model = [
        *context_source,
        'with pyro.plate("data", n, dim=-1):',
        *_indented([*part.model, f"h = {part.features}", *decode.split("\n")]),
        *_indented([f'pyro.factor("f", {factor})'] if factor else []),
        *_indented([line for site in sites for line in site.source]),
    ]
    inner = [line.replace("WIDTH", str(part.num_features)) for line in part.guide]
    inner = [line.replace("ARGUMENTS", ", ".join(f"{k}={k}" for k in batch)) for line in inner]
    guide = [
        "e = torch.tanh(x.reshape(len(x), -1).float() @ E)",
        'with pyro.plate("data", len(x), dim=-1):',
        *_indented(inner),
    ]
    if part.exact_guide:
        b.names["posterior"] = truth.posterior
    optional = [k for k in batch if k not in data] + ["y"] * ("y" not in batch and "optional context" in b.marks)
    source, model, guide = _built(b, seed, model, guide, data, optional, list(batch) if part.exact_guide else ["x"])
    stars = truth.stars(batch)
    return Program(
        seed,
        source,
        b.marks,
        model,
        guide,
        batch,
        lambda estimated: truth.exact(batch, stars if estimated else {}),
        {site.name: site.counted(batch) for site in sites},
        {site.name: site.density for site in sites},
        deterministic=part.exact_guide or set(stars) == truth.latents,
        refusal="required" if of_the_batch else part.refusal,
        sampled=lambda r: truth.sampled(batch, r),
    )


def latents(b: Draws) -> Latents:
    """A random latent part."""
    kind = b.choice(*KINDS, weights=[weight for _, weight in KINDS.values()])
    b.mark(kind)
    return KINDS[kind][0](b)


def _context(b: Draws, n: int) -> tuple[list[str], dict[str, Tensor]]:
    """Source of c, ``(N, H)`` or ``(H,)``, and the context's entries of the batch."""
    b.normal("C", HIDDEN, scale=0.5)
    kind = b.choice("none", "vector", "label", "optional", "left out", weights=(5, 2, 2, 1, 1))
    size = "n = num_samples if x is None else len(x)"
    if kind == "none":
        return [size, "c = C"], {}
    if kind == "label":
        b.mark("required context")
        b.normal("U", 3, HIDDEN)
        return [size, "c = U[y]"], {"y": torch.randint(3, (n,), generator=b.generator)}
    b.normal("U", 2, HIDDEN)
    y = torch.randn(n, 2, generator=b.generator)
    if kind == "vector":
        b.mark("required context")
        return [size, "c = y @ U"], {"y": y}
    b.mark("optional context")
    return [size, "c = C if y is None else y @ U"], {"y": y} if kind == "optional" else {}


def _factor(b: Draws) -> str:
    b.mark("factor")
    return b.choice("-0.3 * h.square().sum(-1)", "torch.tanh(h).sum(-1) - 0.1", "-0.2 * (h - 1).square().sum(-1)")


class _Truth:
    """The joint density of a flat program, by rows: one row is a value of the latents beside one datum."""

    def __init__(self, names, part: Latents, sites: list[DataSite], context, decode: str, factor: str | None) -> None:
        self.names, self.part, self.sites = names, part, sites
        self.context, self.decode, self.factor = context, decode, factor
        self.latents = set(part.draw(torch.zeros(1, HIDDEN).double(), 1))

    def env(self, dtype: torch.dtype) -> dict:
        def cast(value):
            if isinstance(value, nn.Module):
                return copy.deepcopy(value).to(dtype) if dtype != torch.float32 else value
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        return {"torch": torch, "F": F} | {k: cast(v) for k, v in self.names.items() if k != "posterior"}

    def c(self, env: dict, batch: dict[str, Tensor], n: int) -> Tensor:
        scope = env | {"x": None, "num_samples": n, "y": None} | {k: _cast(v, env["C"].dtype) for k, v in batch.items()}
        exec("\n".join(self.context), scope)
        return scope["c"].expand(n, HIDDEN)

    def outputs(self, env: dict, values: dict[str, Tensor], c: Tensor) -> dict:
        """What the decoder makes of values ``(M, *event)`` and context ``(M, H)``, row by row."""
        scope = env | values | {"c": c, "n": len(c)}
        exec(f"h = {self.part.features}\n{self.decode}", scope)
        return scope

    def log_likelihood(self, env: dict, values: dict[str, Tensor], c: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """log p(x | z), factors included, of values ``(R, N, *event)``; ``(R, N)``."""
        n, dtype = len(c), env["C"].dtype
        r = next((len(v) for v in values.values()), 1)
        rows = {k: _cast(v.reshape(r * n, *v.shape[2:]), dtype) for k, v in values.items()}
        scope = self.outputs(env, rows, c.repeat(r, 1))
        tiled = {k: v.repeat(r, *(1,) * (v.dim() - 1)) for k, v in batch.items()}
        total = sum(site.log_prob(scope["out"].double(), tiled) for site in self.sites)
        if self.factor:
            total = total + eval(self.factor, scope)
        return total.reshape(r, n)

    @torch.no_grad()
    def exact(self, batch: dict[str, Tensor], stars: dict[str, Tensor] | None = None) -> Tensor:
        """log p(x), or log p(x, z*) with some latents held at given values."""
        env = self.env(torch.float64)
        c = self.c(env, batch, len(batch["x"]))
        values, weights = self.part.nodes(c)
        assert (weights.logsumexp(0).abs() < 1e-6).all(), "the nodes do not cover the prior"
        for name, star in (stars or {}).items():
            same = (values[name] == star).reshape(*weights.shape, -1).all(-1)
            weights = torch.where(same, weights, -torch.inf)
        return integral(weights, self.log_likelihood(env, values, c, batch))

    @torch.no_grad()
    def sampled(self, batch: dict[str, Tensor], r: int) -> Tensor:
        env = self.env(torch.float64)
        c = self.c(env, batch, len(batch["x"]))
        return self.log_likelihood(env, self.part.draw(c, r), c, batch)

    @torch.no_grad()
    def posterior(self, **batch: Tensor) -> Tensor:
        """Logits of the states of an only discrete latent, ``(N, K)``: what an exact guide uses, of its own modules."""
        env = self.env(torch.float32)
        c = self.c(env, batch, len(batch["x"]))
        values, weights = self.part.nodes(c)
        return (weights + self.log_likelihood(env, values, c, batch)).T.float()

    @torch.no_grad()
    def sample_data(self, n: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        env = self.env(torch.float64)
        c = self.c(env, batch, n)
        values = {k: _cast(v[0], torch.float64) for k, v in self.part.draw(c, 1).items()}
        out = self.outputs(env, values, c)["out"]
        return {site.argument: site.sample(out) for site in self.sites}

    @torch.no_grad()
    def stars(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        scope = self.env(torch.float32) | batch
        scope["e"] = torch.tanh(batch["x"].reshape(len(batch["x"]), -1).float() @ scope["E"])
        return {name: eval(source, scope) for name, source in self.part.stars.items()}


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _conjugate(b: Draws, seed: int) -> Program:
    """A linear-Gaussian model with its posterior as the guide."""
    b.mark("conjugate"), b.mark("exact guide")
    n, latent, data = b.choice(2, 3, 5), b.choice(1, 2), b.choice(1, 2, 3)
    w, bias = b.normal("W", latent, data), b.normal("BIAS", data)
    scale = round(b.rng.uniform(0.4, 1.0), 2)
    covariance = torch.linalg.inv(torch.eye(latent).double() + w.double() @ w.double().T / scale**2)
    (
        b.name("GAIN", (w.double().T / scale**2 @ covariance).float()),
        b.name("L", torch.linalg.cholesky(covariance).float()),
    )
    rows_only = b.chance(0.4)
    mean = "torch.cat([z @ W, z[:, :0]], 1) + BIAS" if rows_only else "z @ W + BIAS"
    if rows_only:
        b.mark("rows only")
    noise = torch.randn(n, latent + data, generator=b.generator)
    batch = {"x": noise[:, :latent] @ w + bias + scale * noise[:, latent:]}
    model = [
        "n = num_samples if x is None else len(x)",
        'with pyro.plate("data", n, dim=-1):',
        f'    z = pyro.sample("z", dist.Normal(torch.zeros({latent}), 1.0).to_event(1))',
        f'    pyro.sample("x", dist.Normal({mean}, {scale}).to_event(1), obs=x)',
    ]
    guide = [
        'with pyro.plate("data", len(x), dim=-1):',
        '    pyro.sample("z", dist.MultivariateNormal((x - BIAS) @ GAIN, scale_tril=L))',
    ]
    source, model, guide = _built(b, seed, model, guide, ["x"], [], ["x"])
    exact = linear_gaussian(w.double(), bias.double(), scale, batch["x"])
    counted = torch.full((n,), float(data), dtype=torch.float64)
    return Program(
        seed, source, b.marks, model, guide, batch, lambda _: exact, {"x": counted}, {"x": True}, deterministic=True
    )


def _indented(lines: list[str], by: int = 1) -> list[str]:
    return [textwrap.indent(line, "    " * by) for line in lines]


def _built(
    b: Draws, seed: int, model: list[str], guide: list[str], data: list[str], others: list[str], guide_takes: list[str]
) -> tuple[str, Callable, Callable]:
    """Write both programs in one of several forms and compile them; returns source, model and guide."""
    form = b.choice(*FORMS)
    required = [k for k in others if k == "y" and "required context" in b.marks]
    arguments = [*[f"{k}=None" for k in data], *[f"{k}=None" for k in others if k not in required]]
    signature = ", ".join([*arguments, "num_samples=1", *(["*", *required] if required else [])])
    modules = [k for k, v in b.names.items() if isinstance(v, nn.Module)]
    if form == "pyro.module" and not modules:
        form = "function"
    b.mark(form)
    own = ""
    if form in ("function", "pyro.module"):
        if form == "pyro.module":
            model = [*[f'pyro.module("{k.lower()}", {k})' for k in modules], *model]
        head, first = "", ""
    else:
        base = {"nn.Module": "(nn.Module)", "PyroModule": "(PyroModule)", "methods": ""}[form]
        own = "self, "
        setup = ["def __init__(self):", *(["    super().__init__()"] if base else [])]
        setup += [f"    self.{k.lower()} = {k}" for k in modules] + ["    pass"]
        head, first = base, "\n".join(_indented(setup))
        for k in modules:
            model = [line.replace(f"{k}(", f"self.{k.lower()}(") for line in model]
    names = ("model", "guide") if not own or form == "methods" else ("forward", "forward")
    one = [f"def {names[0]}({own}{signature}):", *_indented(model)]
    two = [f"def {names[1]}({own}{', '.join(guide_takes)}):", *_indented(guide)]
    if not own:
        source = "\n".join([*one, "", *two])
    elif form == "methods":
        source = "\n".join(["class Pair:", first, *_indented(one), *_indented(two)])
    else:
        source = "\n".join([f"class Model{head}:", first, *_indented(one), f"class Guide{head}:", *_indented(two)])
    space = SimpleNamespace(torch=torch, F=F, pyro=pyro, dist=dist, poutine=poutine, nn=nn, PyroModule=PyroModule)
    scope = {**vars(space), **b.names, "__name__": f"program_{seed}"}
    file = f"<program {seed}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    exec(compile(source, file, "exec"), scope)
    if form == "methods":
        pair = scope["Pair"]()
        return source, pair.model, pair.guide
    if own:
        return source, scope["Model"](), scope["Guide"]()
    return source, scope["model"], scope["guide"]


KINDS: dict[str, tuple[Callable[[Draws], Latents], float]] = {
    "no latents": (none, 1),
    "normal": (of_family("normal"), 4),
    "lognormal": (of_family("lognormal"), 2),
    "gamma": (of_family("gamma"), 2),
    "exponential": (of_family("exponential"), 2),
    "beta": (of_family("beta"), 2),
    "MultivariateNormal": (multivariate, 2),
    "hierarchy": (hierarchy, 3),
    "Categorical": (states, 2),
    "OneHotCategorical": (states, 2),
    "Bernoulli": (bits, 2),
    "two discrete": (two_states, 2),
    "discrete to continuous": (mixture, 2),
}
