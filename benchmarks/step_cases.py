"""The pairs whose training steps ``step.py`` times, each beside the same loss written by hand.

A case is a Pyro model and guide, an objective, and ``hand``: a module with networks of the same sizes whose call with a
batch of images gives the same loss, as one would write it without a library. To add one, write its loss by hand and a
function that makes a fresh case, and enter it in ``CASES``, or, if it is timed only when it is named, in
``hierarchy_cases.PUBLISHED`` or ``recipe_cases.RECIPES``; ``step.py`` needs no change.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE, GaussianMixtureVAE
from pyro_vae.objectives import ELBO, IWAE, Objective

SHAPE, PIXELS = (1, 28, 28), 784


@dataclass
class Case:
    """A pair, its objective, Pyro's own objective for it, and the hand-written loss.

    Attributes:
        rounds, steps: how often it is timed, and steps that are timed together; of one step of seconds, where Python
            costs nothing, only some variants are.
    """

    model: nn.Module
    guide: nn.Module
    objective: Objective
    plain: pyro.infer.ELBO
    hand: nn.Module
    rounds: int = 21
    steps: int = 40


def gaussian_kl(loc: Tensor, scale: Tensor, prior_loc: Any = 0.0, prior_scale: Any = 1.0) -> Tensor:
    """KL(N(loc, scale^2) || N(prior_loc, prior_scale^2)), summed over all but the last axis too."""
    ratio = scale / prior_scale
    return (0.5 * (ratio.square() + ((loc - prior_loc) / prior_scale).square() - 1.0) - ratio.log()).sum()


class HandVAE(nn.Module):
    """784-400-20 and back, or any two networks: the loss of a Gaussian VAE with a Bernoulli likelihood."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        loc, raw = self.encoder(x).chunk(2, -1)  # (N, latent)
        scale = softplus(raw) + 1e-4
        z = loc + scale * torch.randn_like(loc)
        logits = self.decoder(z).view_as(x)
        reconstruction = binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (reconstruction + gaussian_kl(loc, scale)) / len(x)


class HandIWAE(HandVAE):
    """The importance-weighted bound with K particles, plain gradient."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, num_particles: int) -> None:
        super().__init__(encoder, decoder)
        self.num_particles = num_particles

    def forward(self, x: Tensor) -> Tensor:
        loc, raw = self.encoder(x).chunk(2, -1)
        scale = softplus(raw) + 1e-4
        noise = torch.randn(self.num_particles, *loc.shape, device=x.device)  # (K, N, latent)
        z = loc + scale * noise
        logits = self.decoder(z)  # (K, N, 784)
        target = x.flatten(1).expand_as(logits)
        log_x = -binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
        log_w = log_x - 0.5 * (z.square() - noise.square()).sum(-1) + scale.log().sum(-1)
        return -(log_w.logsumexp(0) - math.log(self.num_particles)).mean()


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with tanh between them."""
    layers: list[nn.Module] = []
    for i, o in itertools.pairwise(sizes):
        layers += [nn.Linear(i, o), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def mlp_case() -> Case:
    """The MLP VAE, 784-400-20-400-784."""
    model = VAE(SHAPE, latent_dim=20, hidden_dims=(400,))
    hand = HandVAE(nn.Sequential(nn.Flatten(), *mlp(PIXELS, 400, 40)), mlp(20, 400, PIXELS))
    return Case(model, GaussianGuide(model, hidden_dims=(400,)), ELBO(), pyro.infer.Trace_ELBO(), hand)


def iwae_case() -> Case:
    """The same networks, K = 50 particles."""
    model = VAE(SHAPE, latent_dim=20, hidden_dims=(400,))
    hand = HandIWAE(nn.Sequential(nn.Flatten(), *mlp(PIXELS, 400, 40)), mlp(20, 400, PIXELS), 50)
    plain = pyro.infer.RenyiELBO(alpha=0, num_particles=50, vectorize_particles=True, max_plate_nesting=1)
    return Case(model, GaussianGuide(model, hidden_dims=(400,)), IWAE(50), plain, hand, steps=4)


class HandMixture(HandVAE):
    """The loss of a VAE whose prior is a mixture of 10 Gaussians, summed over."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, components: int, latent_dim: int) -> None:
        super().__init__(encoder, decoder)
        self.weights = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, latent_dim))
        self.raw_scales = nn.Parameter(torch.full((components, latent_dim), 0.5413))

    def forward(self, x: Tensor) -> Tensor:
        loc, raw = self.encoder(x).chunk(2, -1)  # (N, latent)
        scale = softplus(raw) + 1e-4
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        logits = self.decoder(z).view_as(x)
        reconstruction = binary_cross_entropy_with_logits(logits, x, reduction="sum")
        log_q = (-0.5 * noise.square() - scale.log()).sum()
        prior_scale = softplus(self.raw_scales)  # (K, latent)
        each = -0.5 * ((z[:, None] - self.means) / prior_scale).square() - prior_scale.log()  # (N, K, latent)
        log_p = (each.sum(-1) + self.weights.log_softmax(0)).logsumexp(-1).sum()
        return (reconstruction + log_q - log_p) / len(x)


class Enumerated(nn.Module):
    """A model whose discrete sites are marked as Pyro's own objective wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return pyro.infer.config_enumerate(self.model)(x)


def mixture_case() -> Case:
    """The MLP VAE with a prior of 10 Gaussians, whose component is enumerated."""
    model = GaussianMixtureVAE(SHAPE, num_components=10, latent_dim=20, hidden_dims=(400,))
    hand = HandMixture(nn.Sequential(nn.Flatten(), *mlp(PIXELS, 400, 40)), mlp(20, 400, PIXELS), 10, 20)
    plain = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
    return Case(Enumerated(model), GaussianGuide(model, hidden_dims=(400,)), ELBO(), plain, hand)


def conv_case() -> Case:
    """A convolutional VAE: strides 2 twice, 32 and 64 channels; the hand-written one has the same layers."""
    model = VAE(SHAPE, latent_dim=20, decoder="conv", hidden_dims=(64, 32), activation="relu")
    guide = GaussianGuide(model, "conv", hidden_dims=(32, 64), activation="relu")
    encoder = nn.Sequential(
        nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 40),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(20, 64 * 7 * 7), nn.Unflatten(-1, (64, 7, 7)), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
    )  # fmt: skip
    return Case(model, guide, ELBO(), pyro.infer.Trace_ELBO(), HandVAE(encoder, decoder), steps=4)


LATENTS, HIDDEN = (32, 16, 8, 8, 4), 128  # z1 (nearest the data) to z5


class HierarchicalModel(PyroModule):
    """z5 ~ N(0, I);  z_i | z_{i+1} ~ N(mu_i, sigma_i^2);  x | z1 ~ Bernoulli."""

    def __init__(self) -> None:
        super().__init__()
        below = itertools.pairwise(LATENTS)
        self.conditionals = nn.ModuleList(mlp(above, HIDDEN, 2 * size) for size, above in below)
        self.decoder = mlp(LATENTS[0], HIDDEN, PIXELS)

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        size = num_samples if x is None else len(x)
        top = self.decoder[0].weight.new_zeros(LATENTS[-1])
        with pyro.plate("data", size, dim=-1):
            z = pyro.sample("z5", dist.Normal(top, 1.0).to_event(1))
            for i in (4, 3, 2, 1):
                loc, raw = self.conditionals[i - 1](z).chunk(2, -1)
                z = pyro.sample(f"z{i}", dist.Normal(loc, softplus(raw) + 1e-3).to_event(1))
            logits = self.decoder(z).unflatten(-1, SHAPE)
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)


class HierarchicalGuide(PyroModule):
    """q(z_i | x) = N(mu_i(h_i), sigma_i(h_i)^2) with a deterministic bottom-up chain h_1 -> ... -> h_5."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = nn.ModuleList(nn.Linear(PIXELS if i == 0 else HIDDEN, HIDDEN) for i in range(5))
        self.heads = nn.ModuleList(nn.Linear(HIDDEN, 2 * size) for size in LATENTS)

    def forward(self, x: Tensor) -> None:
        h, parameters = x.flatten(1), []
        for layer, head in zip(self.chain, self.heads, strict=True):
            h = layer(h).tanh()
            parameters.append(head(h))
        with pyro.plate("data", len(x), dim=-1):
            for i in (5, 4, 3, 2, 1):
                loc, raw = parameters[i - 1].chunk(2, -1)
                pyro.sample(f"z{i}", dist.Normal(loc, softplus(raw) + 1e-3).to_event(1))


class HandHierarchy(nn.Module):
    """The same five layers by hand."""

    def __init__(self) -> None:
        super().__init__()
        model, guide = HierarchicalModel(), HierarchicalGuide()
        self.conditionals, self.decoder = model.conditionals, model.decoder
        self.chain, self.heads = guide.chain, guide.heads

    def forward(self, x: Tensor) -> Tensor:
        h, parameters = x.flatten(1), []
        for layer, head in zip(self.chain, self.heads, strict=True):
            h = layer(h).tanh()
            parameters.append(head(h))
        kl, prior = torch.zeros((), device=x.device), (0.0, 1.0)
        for i in (4, 3, 2, 1, 0):
            loc, raw = parameters[i].chunk(2, -1)
            scale = softplus(raw) + 1e-3
            z = loc + scale * torch.randn_like(loc)
            kl = kl + gaussian_kl(loc, scale, *prior)
            if i:
                prior_loc, prior_raw = self.conditionals[i - 1](z).chunk(2, -1)
                prior = prior_loc, softplus(prior_raw) + 1e-3
        logits = self.decoder(z).view_as(x)
        return (binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl) / len(x)


def hierarchical_case() -> Case:
    """Five layers of latents, small networks: where handlers cost most."""
    return Case(HierarchicalModel(), HierarchicalGuide(), ELBO(), pyro.infer.Trace_ELBO(), HandHierarchy())


CASES = {
    "MLP VAE": mlp_case,
    "convolutional VAE": conv_case,
    "mixture prior, 10 enumerated": mixture_case,
    "IWAE, K = 50": iwae_case,
    "5-layer hierarchy": hierarchical_case,
}
