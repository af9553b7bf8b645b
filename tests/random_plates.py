"""Random programs with a plate inside the data plate, at dim -2: parts of a datum, some of which may be left out.

    c ~ p(c);  z_p | c;  x_p | z_p, c  for each part p;  or x | z_1, z_2

Where parts are left out, their latents and data both are, in model and guide alike.
"""

from __future__ import annotations

import torch
import torch.distributions as td
from exact_values import ONE, TWO, normal_axis, product
from random_latents import Draws
from random_programs import Program, _built
from torch import Tensor

TORCH = {
    "Normal": td.Normal,
    "Bernoulli": lambda o, s: td.Bernoulli(logits=o),
    "Poisson": lambda o, s: td.Poisson(o.exp()),
}
SOURCE = {
    "Normal": "dist.Normal({o}, NOISE)",
    "Bernoulli": "dist.Bernoulli(logits={o})",
    "Poisson": "dist.Poisson(({o}).exp())",
}


def program_with_inner_plate(b: Draws, seed: int) -> Program:
    """A random program of this family."""
    b.mark("inner plate")
    n, parts = b.choice(2, 3, 4), b.choice(2, 3)
    top, inner = b.choice(None, "c"), b.choice("Normal", "Categorical", "none", weights=(3, 2, 1))
    b.mark(f"inner latents {inner}")
    pooled = inner != "none" and b.chance(0.35)
    if pooled:
        parts = 2
        b.mark("pooled inner latents")
    masks = b.choice("none", "both", "data", weights=(3, 3, 1))
    masks = "none" if pooled or (inner == "none" and masks == "both") else masks
    width = b.choice(None, 2) if not pooled else None  # numbers of a part's data
    kind, noise = b.choice(*TORCH), round(b.rng.uniform(0.5, 1.0), 2)
    states, tops = b.choice(2, 3), 3 if top else 1
    b.normal("SHIFT", tops, scale=0.7)  # of the top state, on the inner latents and the data
    b.probs("P_TOP", tops)
    b.between("S", 0.5, 0.9), b.normal("LOC", parts, 1, scale=0.5)
    b.normal("LOGITS", parts, 1, states), b.normal("TABLE", states)
    b.normal("A", parts, 1) if width is None else b.normal("A", parts, 1, width)
    b.normal("E", 2, scale=0.5), b.normal("G", tops), b.normal("GI", states, scale=0.5)
    truth = _Truth(b.names, parts, top, inner, pooled, width, kind, noise)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x = truth.sample(n)
    batch = {"x": x}  # (N, P), (N, P, width) or, pooled, (N,)
    keep = torch.ones(n, parts, dtype=torch.bool)
    if masks == "both" and seed % 3 == 0:  # one tensor for model and guide, so that a closed-form KL is right under it
        masks = "constant"
        keep[:, 0] = False
        b.name("KEEP", keep[:1].T)
        b.mark("mask on inner plate: latents and data")
        b.mark("constant mask on inner plate")
    elif masks != "none":
        keep = torch.rand(n, parts, generator=b.generator) < 0.65
        batch["keep"] = keep
        b.mark("mask on inner plate: latents and data" if masks == "both" else "mask on inner plate: data")
    source, model, guide = _built(
        b, seed, *_lines(b, top, inner, pooled, masks, width, kind, noise), ["x"], ["keep"][: len(batch) - 1], [*batch]
    )
    counted = keep.double().sum(1) * (width or 1) if not pooled else torch.ones(n).double()
    return Program(
        seed,
        source,
        b.marks,
        model,
        guide,
        batch,
        lambda _: truth.exact(x, keep),
        {"x": counted},
        {"x": kind == "Normal"},
        deterministic=not top and inner == "none",
        sampled=lambda r: truth.sampled(x, keep, r),
    )


def _lines(b, top, inner, pooled, masks, width, kind, noise) -> tuple[list[str], list[str]]:
    shift = "SHIFT[c]" if top else "SHIFT[0]"
    prior = {"Normal": f"dist.Normal(LOC + {shift}, S)", "Categorical": "dist.Categorical(logits=LOGITS)", "none": ""}
    value = {"Normal": "torch.tanh(z)", "Categorical": "TABLE[z]", "none": "1.0"}[inner]
    seen = f"({value} + {shift})" if inner == "none" or inner == "Categorical" else value
    out = f"{seen}.unsqueeze(-1) * A" if width else f"A * {seen}"
    if inner == "none" and not top and width:
        out = f"A * {seen}"
    event, obs = (".to_event(1)", "x.transpose(0, 1)") if width else ("", "x.T")
    fn = SOURCE[kind].replace("NOISE", str(noise))
    parts = len(b.names["A"])
    where = "KEEP" if masks == "constant" else "keep.T"
    model = ["n = num_samples if x is None else len(x)", 'with pyro.plate("data", n, dim=-1):']
    model += ['    c = pyro.sample("c", dist.Categorical(P_TOP))'] if top else []
    lines = [f'z = pyro.sample("z", {prior[inner]})'] if inner != "none" else []
    if not pooled:
        data = f'pyro.sample("x", {fn.format(o=out)}{event}, obs={obs})'
        lines += ["with poutine.mask(mask=keep.T):", "    " + data] if masks == "data" else [data]
    if masks in ("both", "constant"):
        lines = [f"with poutine.mask(mask={where}):", *["    " + line for line in lines]]
    model += [f'    with pyro.plate("parts", {parts}, dim=-2):', *["        " + line for line in lines]]
    if pooled:
        total = b.choice("sum(-2, keepdim=True)", "sum(-2)", "sum(0)")
        if total != "sum(-2, keepdim=True)":  # which leaves the particles in the parts' place, or sums over them
            b.mark("rows only")
        model += [f'    pyro.sample("x", {fn.format(o=f"({out}).{total}")}, obs=x)']
    guide = ["e = torch.tanh(x.reshape(len(x), -1).float() @ torch.ones(x[0].numel(), 1) * E)"]  # (N, 2)
    guide += ['with pyro.plate("data", len(x), dim=-1):']
    guide += ['    c = pyro.sample("c", dist.Categorical(logits=e[:, :1] * G))'] if top else []
    given = "0.8 * SHIFT[c]" if top else "SHIFT[0]"
    proposal = {
        "Normal": f"dist.Normal(LOC + {given} + 0.2 * e[:, 1], 1.35 * S)",
        "Categorical": "dist.Categorical(logits=0.5 * LOGITS + e[:, :1] * GI)",
    }
    lines = [f'z = pyro.sample("z", {proposal[inner]})'] if inner != "none" else ["pass"]
    if masks in ("both", "constant"):
        lines = [f"with poutine.mask(mask={where}):", *["    " + line for line in lines]]
    return model, [*guide, f'    with pyro.plate("parts", {parts}, dim=-2):', *["        " + line for line in lines]]


class _Truth:
    """log p(x) by sums over c, and for each c over the parts' latents; (R, N) are their states and the data."""

    def __init__(self, names, parts, top, inner, pooled, width, kind, noise) -> None:
        self.n = {k: v.double() for k, v in names.items()}
        self.parts, self.top, self.inner, self.pooled = parts, top, inner, pooled
        self.width, self.kind, self.noise = width, kind, noise

    def _seen(self, z: Tensor, c: Tensor) -> Tensor:
        shift = self.n["SHIFT"][c]
        return (
            z.tanh() if self.inner == "Normal" else (self.n["TABLE"][z] if self.inner == "Categorical" else 1.0) + shift
        )

    def _part(self, p: int, z: Tensor, c: Tensor) -> Tensor:
        """The data's parameter of part p, of states ``(R,)``: ``(R,)`` or ``(R, width)``."""
        seen = torch.as_tensor(self._seen(z, c)).expand(z.shape)
        a = self.n["A"][p, 0]
        return seen[..., None] * a if self.width else seen * a

    def _axis(self, p: int, c: int, num: int) -> tuple[Tensor, Tensor]:
        if self.inner == "Normal":
            return normal_axis(self.n["LOC"][p, 0] + self.n["SHIFT"][c], self.n["S"], num)
        if self.inner == "none":
            return torch.zeros(1).double(), torch.zeros(1).double()
        logits = self.n["LOGITS"][p, 0]
        return torch.arange(len(logits)), logits.log_softmax(-1)

    def _log_prob(self, parameter: Tensor, x: Tensor) -> Tensor:
        """``(R, N)`` of parameters ``(R,)`` or ``(R, width)`` and data ``(N,)`` or ``(N, width)``."""
        each = TORCH[self.kind](parameter[:, None], self.noise).log_prob(x.double())
        return each.sum(-1) if self.width else each

    def exact(self, x: Tensor, keep: Tensor) -> Tensor:
        return torch.stack([self._given(c, x, keep) + p.log() for c, p in enumerate(self.n["P_TOP"])]).logsumexp(0)

    def _given(self, c: int, x: Tensor, keep: Tensor) -> Tensor:
        """log p(x | c), ``(N,)``."""
        if self.pooled:
            (z1, z2), weight = product([self._axis(p, c, TWO) for p in (0, 1)])
            state = torch.full(z1.shape, c)
            out = self._part(0, z1, state) + self._part(1, z2, state)
            return (weight[:, None] + self._log_prob(out, x)).logsumexp(0)
        total = torch.zeros(len(x)).double()
        for p in range(self.parts):
            z, weight = self._axis(p, c, ONE)
            out = self._part(p, z, torch.full(z.shape, c))
            each = (weight[:, None] + self._log_prob(out, x[:, p])).logsumexp(0)
            total = total + torch.where(keep[:, p], each, 0.0)
        return total

    def _draw(self, r: int) -> tuple[Tensor, list[Tensor]]:
        c = td.Categorical(self.n["P_TOP"]).sample((r,))
        z = []
        for p in range(self.parts):
            if self.inner == "Normal":
                z.append(self.n["LOC"][p, 0] + self.n["SHIFT"][c] + self.n["S"] * torch.randn(r).double())
            else:
                logits = self.n["LOGITS"][p, 0] if self.inner == "Categorical" else torch.zeros(1)
                z.append(td.Categorical(logits=logits).sample((r,)))
        return c, z

    def sampled(self, x: Tensor, keep: Tensor, r: int) -> Tensor:
        c, z = self._draw(r)
        out = [self._part(p, z[p], c) for p in range(self.parts)]
        if self.pooled:
            return self._log_prob(sum(out), x)
        return sum(torch.where(keep[:, p], self._log_prob(out[p], x[:, p]), 0.0) for p in range(self.parts))

    def sample(self, n: int) -> Tensor:
        c, z = self._draw(n)
        out = [self._part(p, z[p], c) for p in range(self.parts)]
        out = sum(out) if self.pooled else torch.stack(out, 1)
        return TORCH[self.kind](out, self.noise).sample().float()
