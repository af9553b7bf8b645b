"""Figures from any pair of Pyro programs, drawn without pyplot's global state."""

from pyro_vae.plots import without_matplotlibrc  # noqa: F401

# isort: split
from pyro_vae.plots.aggregated_posterior import aggregated_posterior
from pyro_vae.plots.attributes import attribute_arithmetic, attribute_correlation
from pyro_vae.plots.codes import code_maps, codebook_usage
from pyro_vae.plots.completions import completions
from pyro_vae.plots.hierarchy import levels
from pyro_vae.plots.interpolations import interpolations
from pyro_vae.plots.kl import kl_heatmap, kl_per_unit
from pyro_vae.plots.latent_clouds import latent_scatter, layer_pca
from pyro_vae.plots.likelihood import likelihood_gap, worst_data
from pyro_vae.plots.manifold import manifold, manifold_grid
from pyro_vae.plots.prior_samples import prior_samples, scaled_samples, uniform_and_learned
from pyro_vae.plots.progression import progression
from pyro_vae.plots.reconstructions import reconstructions
from pyro_vae.plots.registry import draw_all, drawers, save_figure
from pyro_vae.plots.spectrograms import spectrograms
from pyro_vae.plots.training_curves import training_curves
from pyro_vae.plots.traversals import traversals

__all__ = [
    "aggregated_posterior",
    "attribute_arithmetic",
    "attribute_correlation",
    "code_maps",
    "codebook_usage",
    "completions",
    "draw_all",
    "drawers",
    "interpolations",
    "kl_heatmap",
    "kl_per_unit",
    "latent_scatter",
    "layer_pca",
    "levels",
    "likelihood_gap",
    "manifold",
    "manifold_grid",
    "prior_samples",
    "progression",
    "reconstructions",
    "save_figure",
    "scaled_samples",
    "spectrograms",
    "training_curves",
    "traversals",
    "uniform_and_learned",
    "worst_data",
]
