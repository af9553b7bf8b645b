"""The ladder VAE and BIVA at their published sizes, for ``step.py``: ours beside the same loss by hand.

The hand-written losses use modules of the same classes as the pair's (what is compared is how a step is run, not how a
layer is written), run the top-down path once, and call nothing of Pyro.
"""

from __future__ import annotations

from typing import Any

import pyro.infer
import torch
from step_cases import SHAPE, Case, gaussian_kl
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_vae.guides import BIVAGuide, LadderGuide
from pyro_vae.models import BIVA, HierarchicalVAE
from pyro_vae.objectives import ELBO


def drawn(q: Any) -> Tensor:
    """A reparameterized draw from an elementwise Gaussian."""
    return q.loc + q.scale * torch.randn_like(q.loc)


class HandLadder(nn.Module):
    """Five layers, precision-weighted merging, batch norm: one pass up, one pass down."""

    def __init__(self, model: HierarchicalVAE, guide: LadderGuide) -> None:
        super().__init__()
        self.decoder, self.conditionals = model.decoder, model.conditionals
        self.upward, self.heads = guide.upward, guide.heads

    def forward(self, x: Tensor) -> Tensor:
        d, evidence = x.flatten(1), []
        for layers, head in zip(self.upward, self.heads, strict=True):
            d = layers(d)
            evidence.append(head(d))
        z = drawn(evidence[-1])
        kl = gaussian_kl(evidence[-1].loc, evidence[-1].scale)
        for e, conditional in zip(evidence[-2::-1], list(self.conditionals)[::-1], strict=True):
            p = conditional(z)
            ours, theirs = e.scale.square(), p.scale.square()
            loc = (e.loc * theirs + p.loc * ours) / (ours + theirs)
            scale = (ours * theirs / (ours + theirs)).sqrt()
            kl = kl + gaussian_kl(loc, scale, p.loc, p.scale)
            z = loc + scale * torch.randn_like(loc)
        logits = self.decoder(z)
        return (binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl) / len(x)


class HandBIVA(nn.Module):
    """Six stages, eleven latents: the stochastic path up, then the path down, run once."""

    def __init__(self, model: BIVA, guide: BIVAGuide) -> None:
        super().__init__()
        self.model = nn.ModuleDict(model.named_children())
        self.guide = nn.ModuleDict({k: m for k, m in guide.named_children() if k != "model"})

    def forward(self, x: Tensor) -> Tensor:
        model, guide, top = self.model, self.guide, len(self.guide["upward"]) - 1
        features, lower, h = [], [], x
        for i in range(top):
            u = guide["upward"][i](h)
            q = guide["heads_bu"][i](u)
            z = drawn(q)
            features.append(u)
            lower.append((q, z))
            h = u + guide["inject"][i](z)
        q = guide["heads_bu"][top](guide["upward"][top](h))
        kl = gaussian_kl(q.loc, q.scale)
        d, above = model["top"](drawn(q)), None
        for i in range(top - 1, -1, -1):
            h = model["states"][i](d, above)
            p, (q, bu) = model["priors_bu"][i](h), lower[i]
            kl = kl + (q.log_prob(bu) - p.log_prob(bu)).sum()
            p, q = model["priors_td"][i](h), guide["heads_td"][i](guide["merge"][i](h, features[i]))
            td = drawn(q)
            kl = kl + gaussian_kl(q.loc, q.scale, p.loc, p.scale)
            d, above = h + model["inject"][i](torch.cat([bu, td], -1)), d
        logits = model["decoder"](d)
        return (binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl) / len(x)


def ladder_case() -> Case:
    """z = 64-32-16-8-4, two layers of 512-256-128-64-32 each, batch norm."""

    def pair() -> tuple[HierarchicalVAE, LadderGuide]:
        model = HierarchicalVAE(SHAPE, batch_norm=True)
        return model, LadderGuide(model, batch_norm=True)

    return Case(*pair(), ELBO(), pyro.infer.Trace_ELBO(), HandLadder(*pair()), rounds=7, steps=10)


def biva_case() -> Case:
    """z = 48-40-32-24-16-8, 64 channels at 14x14 and 7x7, three gated residual blocks a stage."""

    def pair() -> tuple[BIVA, BIVAGuide]:
        model = BIVA(SHAPE)
        return model, BIVAGuide(model)

    return Case(*pair(), ELBO(), pyro.infer.Trace_ELBO(), HandBIVA(*pair()), rounds=2, steps=1)


PUBLISHED = {"ladder VAE, published size": ladder_case, "BIVA, published size": biva_case}
