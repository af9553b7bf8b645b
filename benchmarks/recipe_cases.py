"""Richer priors and decoders at the sizes of their recipes, for ``step.py``: ours beside the same loss by hand.

Recipes ``hvae-conv-fashion-mnist``, ``pixelvae-fashion-mnist`` and ``vae-vamp-fashion-mnist``, in float32. As in
``hierarchy_cases`` the weights are modules of the pair's classes; how they are run is written out: convolutions with
the channels side by side in memory, weights included, the top-down path and the layers that see the image once, the
encoder once for data and pseudo-inputs together. Nothing of Pyro is called.
"""

from __future__ import annotations

import math

import pyro.infer
import torch
from step_cases import SHAPE, Case, gaussian_kl
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad, pixel_shuffle, pixel_unshuffle, softplus

from pyro_vae.guides import ConvLadderGuide, GaussianGuide
from pyro_vae.likelihoods import PixelCNN
from pyro_vae.models import VAE, ConvHierarchicalVAE
from pyro_vae.objectives import ELBO
from pyro_vae.priors import VampPrior


def by_channels(x: Tensor) -> Tensor:
    """Channels side by side in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def shifted(floor: float) -> float:
    """What is added under the softplus, so that a scale is 1 at 0."""
    return math.log(math.expm1(1.0 - floor))


def location_and_scale(features: Tensor, floor: float = 1e-4, dim: int = -1) -> tuple[Tensor, Tensor]:
    """mu and sigma = softplus(s + shift) + floor."""
    loc, raw = features.chunk(2, dim)
    return loc, softplus(raw + shifted(floor)) + floor


class HandConvLadder(nn.Module):
    """A latent vector and grids of latents, residual merging, batch norm: one pass up, one pass down."""

    def __init__(self, model: ConvHierarchicalVAE, guide: ConvLadderGuide) -> None:
        super().__init__()
        self.scale_of, self.shapes = model.scale_of, model.scales
        self.upward, self.heads, self.sides = guide.upward, guide.heads, guide.sides
        self.read, self.top, self.top_blocks = guide.top, model.top, model.top_blocks
        self.stages, self.enlarge, self.decoder = model.stages, model.enlarge, model.decoder
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        h, scales = self.upward.first(by_channels(pixel_unshuffle(x, 2))), []
        for i, blocks in enumerate(self.upward.blocks):
            h = blocks(self.upward.halve[i - 1](h) if i else h)
            scales.append(h)
        loc, scale = location_and_scale(self.read(h))  # (N, latent)
        kl, z = gaussian_kl(loc, scale), loc + scale * torch.randn_like(loc)
        present = len(scales) - 1
        h = self.top_blocks(by_channels(self.top(z).view(-1, *self.shapes[present])))
        for i in range(len(self.stages) - 1, -1, -1):
            h, present = self._enlarged(h, present, self.scale_of[i])
            stage = self.stages[i]
            p_loc, p_scale = location_and_scale(stage.head(h), 0.1, 1)  # (N, channels, height, width)
            step, ratio = location_and_scale(self.heads[i](h + self.sides[i](scales[present])), 0.01, 1)
            # KL(N(p_loc + step, (p_scale ratio)^2) || N(p_loc, p_scale^2))
            kl = kl + (0.5 * (ratio.square() + (step / p_scale).square() - 1.0) - ratio.log()).sum()
            z = p_loc + step + p_scale * ratio * torch.randn_like(ratio)
            h = stage.blocks(h + stage.inject(z))
        h, _ = self._enlarged(h, present, 0)
        logits = pixel_shuffle(self.decoder.conv(h.relu()), 2) + self.decoder.bias
        return (binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl) / len(x)

    def _enlarged(self, h: Tensor, present: int, scale: int) -> tuple[Tensor, int]:
        for s in range(present, scale, -1):
            h = self.enlarge[s - 1].conv(h.relu())
        return h, scale


def gated(x: Tensor) -> Tensor:
    """tanh(a) sigmoid(b), with the sigmoid's kernel for both."""
    a, b = x.chunk(2, 1)
    return (2 * torch.sigmoid(2 * a) - 1) * torch.sigmoid(b)


class HandPixelVAE(nn.Module):
    """A gated PixelCNN of two layers whose head is given the decoder's features."""

    def __init__(self, model: VAE, guide: GaussianGuide) -> None:
        super().__init__()
        self.encoder, self.decoder = guide.encoder.mlp, model.decoder.mlp
        self.first, self.second = model.likelihood.layers
        self.head = model.likelihood.head
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        loc, scale = location_and_scale(self.encoder(x.flatten(1)))
        z = loc + scale * torch.randn_like(loc)
        features = by_channels(self.decoder(z).view(len(x), -1, *x.shape[2:]))  # (N, F, height, width)
        seen = by_channels(torch.cat([2 * x - 1, torch.ones_like(x)], 1))
        first, second, head = self.first, self.second, self.head
        v = gated(first.vertical(pad(seen, (3, 3, 3, -1))))
        h = first.residual(gated(first.horizontal(pad(seen, (3, -1))) + first.across(v)))
        u = second.vertical(pad(v, (1, 1, 1, 0)))
        h = h + second.residual(gated(second.horizontal(pad(h, (1, 0))) + u))
        g = gated(head.before(h) + head.given(features))
        g = g + head.residual[0](gated(head.inner[0](g)))
        reconstruction = binary_cross_entropy_with_logits(head.out(g), x, reduction="sum")
        return (reconstruction + gaussian_kl(loc, scale)) / len(x)


class HandVamp(nn.Module):
    """A mixture of the encoder's Gaussians at learned pseudo-inputs, by matrix products in float32."""

    def __init__(self, model: VAE, guide: GaussianGuide) -> None:
        super().__init__()
        self.encoder, self.decoder = guide.encoder.mlp, model.decoder.mlp
        self.inputs = model.latent_prior.inputs

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([x.flatten(1), self.inputs.flatten(1).sigmoid()])  # (N + K, 784)
        locs, scales = location_and_scale(self.encoder(both))
        (loc, mean), (scale, spread) = locs.split([len(x), len(self.inputs)]), scales.split([len(x), len(self.inputs)])
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        precision = spread.square().reciprocal()  # (K, latent)
        constant = -0.5 * (mean.square() * precision).sum(-1) - spread.log().sum(-1) - math.log(len(mean))
        each = torch.addmm(constant, z, (mean * precision).T) - 0.5 * z.square() @ precision.T  # (N, K)
        log_q = (-0.5 * noise.square() - scale.log()).sum()
        reconstruction = binary_cross_entropy_with_logits(self.decoder(z), x.flatten(1), reduction="sum")
        return (reconstruction + log_q - each.logsumexp(-1).sum()) / len(x)


def conv_hierarchy_pair() -> tuple[ConvHierarchicalVAE, ConvLadderGuide]:
    """z = 20, then two grids of 4x7x7; 16 and 40 channels down, 24 and 64 up."""
    model = ConvHierarchicalVAE(SHAPE, 20, (16, 40), (0, 2), (1, 4), batch_norm=True)
    return model, ConvLadderGuide(model, (24, 64), batch_norm=True)


def pixel_pair() -> tuple[VAE, GaussianGuide]:
    """784-300-300-40 and back to 16 features a pixel, gated; a PixelCNN of 32 channels and two layers."""
    likelihood = PixelCNN(features=16, channels=32, num_layers=2, kernel=7)
    return gated_pair(VAE(SHAPE, 40, likelihood, hidden_dims=(300, 300), activation="gated"))


def vamp_pair() -> tuple[VAE, GaussianGuide]:
    """784-300-300-40 and back, gated; 500 pseudo-inputs."""
    prior = VampPrior((40,), SHAPE, num_components=500, start="random")
    model, guide = gated_pair(VAE(SHAPE, 40, hidden_dims=(300, 300), activation="gated", prior=prior))
    prior.through(guide)  # for Pyro's own objective, which connects nothing
    return model, guide


def gated_pair(model: VAE) -> tuple[VAE, GaussianGuide]:
    """The guide of both."""
    return model, GaussianGuide(model, hidden_dims=(300, 300), activation="gated")


def conv_hierarchy_case() -> Case:
    """``hvae-conv``."""
    plain, hand = pyro.infer.TraceMeanField_ELBO(), HandConvLadder(*conv_hierarchy_pair())
    return Case(*conv_hierarchy_pair(), ELBO(), plain, hand, rounds=11, steps=2)


def pixel_case() -> Case:
    """``pixelvae``."""
    return Case(*pixel_pair(), ELBO(), pyro.infer.Trace_ELBO(), HandPixelVAE(*pixel_pair()), rounds=11, steps=2)


def vamp_case() -> Case:
    """``vae-vamp``."""
    return Case(*vamp_pair(), ELBO(), pyro.infer.Trace_ELBO(), HandVamp(*vamp_pair()), rounds=15, steps=10)


RECIPES = {"hvae-conv": conv_hierarchy_case, "pixelvae": pixel_case, "vae-vamp": vamp_case}
