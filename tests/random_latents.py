"""Latent parts of random programs: their source in model and guide, and their nodes and draws without Pyro.

The continuous ones are here, the discrete ones in ``random_states``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributions as td
from exact_values import (
    ONE,
    TWO,
    beta_axis,
    exponential_axis,
    gamma_axis,
    lognormal_axis,
    normal_axis,
    product,
)
from torch import Tensor

Values = dict[str, Tensor]


class Draws:
    """Choices and constants of one program, all from its seed.

    Attributes:
        names: constants (tensors) that the program's source refers to.
        marks: what kinds the program is of.
    """

    def __init__(self, seed: int) -> None:
        self.rng, self.generator = random.Random(seed), torch.Generator().manual_seed(seed)
        self.names: dict[str, object] = {}
        self.marks: set[str] = set()

    def choice(self, *options, weights=None):
        return self.rng.choices(options, weights)[0]

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def mark(self, name: str) -> str:
        self.marks.add(name)
        return name

    def normal(self, name: str, *shape: int, scale: float = 1.0) -> Tensor:
        return self.name(name, scale * torch.randn(shape, generator=self.generator))

    def between(self, name: str, low: float, high: float, *shape: int) -> Tensor:
        return self.name(name, low + (high - low) * torch.rand(shape, generator=self.generator))

    def probs(self, name: str, *shape: int) -> Tensor:
        return self.name(name, (0.7 * torch.randn(shape, generator=self.generator)).softmax(-1))

    def name(self, name: str, value: Tensor) -> Tensor:
        self.names[name] = value
        return value


@dataclass
class Latents:
    """The latents of a datum.

    Attributes:
        model, guide: source lines inside the data plate; they may use ``c``, the guide's also ``e`` (N, 2).
        features: source of what the decoder sees, ``(…, num_features)``.
        nodes: of context c ``(N, H)`` float64: values ``(R, N, *event)`` by site, log prior weights ``(R, N)``.
        draw: of context c and a number R: values ``(R, N, *event)`` from the prior by torch alone.
        stars: source of the guide's point mass, by site, of guides that have one.
        refusal: "never", "allowed" (the number may also be right) of the pair.
        exact_guide: whether the guide is the posterior.
    """

    model: list[str]
    guide: list[str]
    features: str
    num_features: int
    nodes: Callable[[Tensor], tuple[Values, Tensor]]
    draw: Callable[[Tensor, int], Values]
    stars: dict[str, str] = field(default_factory=dict)
    refusal: str = "never"
    exact_guide: bool = False


def spread(values: Tensor, weights: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Values ``(R, *event)`` and weights ``(R,)`` that are the same for all data."""
    return values[:, None].expand(len(values), size, *values.shape[1:]), weights[:, None].expand(-1, size)


def none(b: Draws) -> Latents:
    return Latents(
        [], ["pass"], "C.new_zeros(n, 1)", 1, lambda c: ({}, torch.zeros(1, len(c)).double()), lambda c, r: {}
    )


# ----------------------------------------------------------------- continuous
def _family(b: Draws, family: str, width: int) -> tuple[list[Tensor], dict[str, str], Callable]:
    """Parameters, sources and axis of a family: prior, guide, wide guide, and u of the unconstrained form."""
    if family in ("normal", "lognormal"):
        a = b.normal("A", width, scale=0.4)
        s = b.between("B", 0.5, 1.1 if family == "normal" else 0.7, width)
        b.name("U_LOC", a), b.name("U_SCALE", 1.3 * s)
        name = "Normal" if family == "normal" else "LogNormal"
        texts = {"prior": f"dist.{name}(A, B)", "guide": f"dist.{name}(A + 0.3 * SHIFT, 1.3 * B)"}
        texts["wide"] = "dist.Normal(1.2 + 0.3 * SHIFT, 2.5)"
        axis = normal_axis if family == "normal" else lognormal_axis
        return [a, s], texts, axis
    if family == "exponential":
        rate = b.between("B", 0.7, 1.5, width)
        b.name("U_LOC", -rate.log() - 0.5), b.name("U_SCALE", torch.full((width,), 1.8))
        texts = {"prior": "dist.Exponential(B)", "guide": "dist.Exponential(0.6 * B)"}
        texts["wide"] = "dist.Normal(1.0 + 0.3 * SHIFT, 3.5)"
        return [rate], texts, exponential_axis
    a, s = b.between("A", 1.2, 4.0, width), b.between("B", 1.0, 2.5, width)
    if family == "gamma":
        b.name("U_LOC", a.digamma() - s.log()), b.name("U_SCALE", 1.5 * a.polygamma(1).sqrt())
        texts = {"prior": "dist.Gamma(A, B)", "guide": "dist.Gamma(0.7 * A, 0.7 * B)"}
        texts["wide"] = "dist.Normal(A / B + 0.3 * SHIFT, 3.0)"
        return [a, s], texts, gamma_axis
    b.name("U_LOC", a.digamma() - s.digamma())
    b.name("U_SCALE", 1.5 * (a.polygamma(1) + s.polygamma(1)).sqrt())
    texts = {"prior": "dist.Beta(A, B)", "guide": "dist.Beta(0.7 * A, 0.7 * B)"}
    texts["wide"] = "dist.Normal(0.5 + 0.1 * SHIFT, 0.6)"
    return [a, s], texts, beta_axis


TORCH = {
    "normal": td.Normal,
    "lognormal": td.LogNormal,
    "exponential": td.Exponential,
    "gamma": td.Gamma,
    "beta": td.Beta,
}
TRANSFORM = {  # z of u, and log |dz / du|
    "normal": ("u", "0.0 * u"),
    "lognormal": ("u.exp()", "u"),
    "gamma": ("u.exp()", "u"),
    "exponential": ("u.exp()", "u"),
    "beta": ("u.sigmoid()", "F.logsigmoid(u) + F.logsigmoid(-u)"),
}


def of_family(family: str) -> Callable[[Draws], Latents]:
    def part(b: Draws) -> Latents:
        scalar, width = b.chance(0.25), b.choice(1, 2)
        width = 1 if scalar else width
        parameters, texts, axis = _family(b, family, width)
        if scalar:  # the constants without their only dimension
            b.names |= {k: b.names[k][0] for k in ("A", "B", "U_LOC", "U_SCALE") if k in b.names}
        conditional = family == "normal" and b.chance(0.4)
        if conditional:
            b.mark("context in the prior")
            texts["prior"] = f"dist.Normal(A + 0.5 * c[..., {'0' if scalar else f':{width}'}], B)"
        shift = "e[:, 0]" if scalar else f"e[:, :{width}]"
        event = "" if scalar else ".to_event(1)"
        how = b.choice("guide", "wide", "unconstrained", weights=(5, 2 if family != "normal" else 0, 2))
        model = [f'z = pyro.sample("z", {texts["prior"]}{event})']
        if how == "unconstrained":
            b.mark("AutoNormal form")
            value, jacobian = TRANSFORM[family]
            total = "" if scalar else ".sum(-1)"
            u = f"dist.Normal(U_LOC + 0.3 * {shift}, U_SCALE){event}"
            guide = [
                f'u = pyro.sample("z_unconstrained", {u}, infer={{"is_auxiliary": True}})',
                f"jacobian = ({jacobian}){total}",
                f'z = pyro.sample("z", dist.Delta({value}, log_density=-jacobian, event_dim={int(not scalar)}))',
            ]
        else:
            if how == "wide":
                b.mark("guide wider than the support")
            guide = [f'z = pyro.sample("z", {texts[how].replace("SHIFT", shift)}.expand({_batch(scalar)}){event})']
        seen = "z.sqrt()" if family != "normal" and b.chance(0.3) else "z"
        if b.chance(0.2):
            b.mark("Delta site in the model")
            line = f't = pyro.sample("t", dist.Delta(1.5 * z, event_dim={int(not scalar)}))'
            model.append(line)
            guide.append(line)
            seen = seen.replace("z", "t", 1)
        with_t = seen[0] == "t"
        num = ONE if width == 1 else TWO
        double = [p.double() for p in parameters]

        def finish(z: Tensor, c: Tensor) -> Values:  # z (R, N, width)
            if conditional:
                z = z + 0.5 * c[:, :width].double()
            z = z[..., 0] if scalar else z
            return {"z": z, "t": 1.5 * z} if with_t else {"z": z}

        def nodes(c: Tensor) -> tuple[Values, Tensor]:
            values, weight = product([axis(*[p[i] for p in double], num) for i in range(width)])
            z, weight = spread(torch.stack(values, -1), weight, len(c))
            return finish(z, c), weight

        def draw(c: Tensor, r: int) -> Values:
            return finish(TORCH[family](*double).sample((r, len(c))), c)

        refusal = "allowed" if how == "wide" else "never"
        features = f"{seen}.unsqueeze(-1)" if scalar else seen
        return Latents(model, guide, features, width, nodes, draw, refusal=refusal)

    return part


def _batch(scalar: bool) -> str:
    return "(len(x),)" if scalar else "(len(x), WIDTH)"


def multivariate(b: Draws) -> Latents:
    loc = b.normal("A", 2, scale=0.4)
    tril = torch.tensor([[0.8, 0.0], [0.5 * b.choice(-1, 1), 0.6]])
    b.name("L", tril)
    guide = b.choice(
        'z = pyro.sample("z", dist.MultivariateNormal(A + 0.3 * e, scale_tril=1.3 * L))',
        'z = pyro.sample("z", dist.Normal(A + 0.3 * e, 1.2).to_event(1))',
    )

    def nodes(c: Tensor) -> tuple[Values, Tensor]:
        noise, weight = product([normal_axis(torch.tensor(0.0), torch.tensor(1.0), TWO)] * 2)
        z, weight = spread(loc.double() + torch.stack(noise, -1) @ tril.double().T, weight, len(c))
        return {"z": z}, weight

    def draw(c: Tensor, r: int) -> Values:
        return {"z": td.MultivariateNormal(loc.double(), scale_tril=tril.double()).sample((r, len(c)))}

    model = ['z = pyro.sample("z", dist.MultivariateNormal(A, scale_tril=L))']
    return Latents(model, [guide], "z", 2, nodes, draw)


def hierarchy(b: Draws) -> Latents:
    a, s = b.normal("A", 1), b.between("B", 0.5, 0.9, 1)
    model = [
        'z2 = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))',
        'z1 = pyro.sample("z1", dist.Normal(A * torch.tanh(z2), B).to_event(1))',
    ]
    down = [
        'z2 = pyro.sample("z2", dist.Normal(0.3 * e[:, :1], 1.25).to_event(1))',
        'z1 = pyro.sample("z1", dist.Normal(0.9 * A * torch.tanh(z2) + 0.2 * e[:, 1:], 1.3 * B).to_event(1))',
    ]
    up = [
        'z1 = pyro.sample("z1", dist.Normal(0.3 * e[:, :1], 1.5 * (A.square() + B.square()).sqrt()).to_event(1))',
        'z2 = pyro.sample("z2", dist.Normal(0.3 * A * torch.tanh(z1), 1.25).to_event(1))',
    ]
    guide = b.choice(down, up)
    if guide is up:
        b.mark("bottom-up guide")
    features, width = b.choice(("z1", 1), ("torch.cat([z1, z2], -1)", 2))

    def nodes(c: Tensor) -> tuple[Values, Tensor]:
        (z2, e1), weight = product([normal_axis(torch.tensor(0.0), torch.tensor(1.0), TWO)] * 2)
        z1 = a.double() * z2.tanh() + s.double() * e1
        both, weight = spread(torch.stack([z1, z2], -1), weight, len(c))
        return {"z1": both[..., :1], "z2": both[..., 1:]}, weight

    def draw(c: Tensor, r: int) -> Values:
        z2 = torch.randn(r, len(c), 1).double()
        return {"z2": z2, "z1": a.double() * z2.tanh() + s.double() * torch.randn(r, len(c), 1).double()}

    return Latents(model, guide, features, width, nodes, draw)
