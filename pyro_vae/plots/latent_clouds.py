"""Figures: scatter plots of the data in latent space, one panel a site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from pyro_vae.data import Split
from pyro_vae.evaluation.encoding import NO_FREE_SITE, encode, free_sites, posterior_samples
from pyro_vae.plots.axes import class_labels, clouds
from pyro_vae.plots.images import pick
from pyro_vae.plots.registry import NotApplicable, figure
from pyro_vae.programs.context import X


@figure()
def latent_scatter(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, max_points: int = 2000, seed: int = 0
) -> Figure:
    """A panel per latent site: posterior means of the data, coloured by the label ``y`` if there is one.

    Two-dimensional latents are drawn as they are, one-dimensional ones as a histogram, others by their first two
    principal components. Codes, whose numbers are names, and functions of other latents have no panel.

    Args:
        model, guide: the programs.
        split: the data, of which ``max_points`` at even distances are drawn.
        max_points: at most so many.
        seed: of draws, where a posterior mean needs any.

    Returns:
        the figure.

    Raises:
        NotApplicable: if there are too few data, or no such latents.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 1, 8, 8) > 0.5})
        >>> len(pyro_vae.plots.latent_scatter(model, guide, split).axes)
        1
    """
    batch = pick(split, max_points, seed)
    names = free_sites(model, guide, split, counted=True)
    if len(batch[X]) < 3 or not names:
        reason = NO_FREE_SITE if not names else f"{len(batch['x'])} data are too few"
        raise NotApplicable(reason)
    sites = encode(model, guide, batch, seed=seed, sites=names)
    return clouds(
        {name: sites[name] for name in names},
        class_labels(batch),
        f"{split.name}: posterior means of {len(batch[X])} data",
    )


@figure(
    section="Latents",
    caption="Draws of each site's posterior in its principal plane, coloured by label where the data have labels.",
    order=1,
)
def layer_pca(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, max_points: int = 2000, seed: int = 0
) -> Figure:
    """A panel per latent site, in the model's order: a draw z ~ q(z | x) of each datum in the sites' principal planes.

    A site that the model does not use shows a round cloud of mixed colours. Units are flattened; two-dimensional
    latents are drawn as they are, one-dimensional ones as a histogram. Codes, whose numbers are names, and functions of
    other latents have no panel.

    Args:
        model, guide: the programs.
        split: the data, of which ``max_points`` at even distances are drawn, coloured by an integer label ``y``.
        max_points: at most so many.
        seed: of the draws.

    Returns:
        the figure.

    Raises:
        NotApplicable: if there are too few data, or no such latents.

    Source: Sønderby et al. 2016, arXiv:1602.02282 (principal components of the samples of each layer).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> split = pyro_vae.data.Split({"x": torch.rand(20, 1, 8, 8) > 0.5})
        >>> len(pyro_vae.plots.layer_pca(model, guide, split).axes)
        1
    """
    batch = pick(split, max_points, seed)
    names = free_sites(model, guide, split, counted=True)
    if len(batch[X]) < 3 or not names:
        reason = NO_FREE_SITE if not names else f"{len(batch['x'])} data are too few"
        raise NotApplicable(reason)
    sites = posterior_samples(model, guide, batch, seed=seed, sites=names)
    return clouds(
        {name: sites[name] for name in names},
        class_labels(batch),
        f"{split.name}: posterior samples of {len(batch[X])} data",
    )
