"""The ELBO with a penalty on how images' means given the latents differ from the images."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.errors import InputError, unknown
from pyro_vae.objectives.base import Terms
from pyro_vae.objectives.evidence_bound import ELBO
from pyro_vae.programs.densities import total
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.session import in_evaluation
from pyro_vae.programs.sites import Site, density_of, innermost, is_factor, kept
from pyro_vae.programs.traces import TracePair

IMAGE_DIMS, ROWS = 3, 2


class MeanPenalty(ELBO):
    """The ELBO, and penalties that look at a data site with images and at its mean given the latents.

    A subclass says them in :meth:`penalties`.

    Attributes:
        site: name of the data site; None: the only one.
        kind: begins the penalties' names among the metrics.
        looks_at: what of images it looks at, for errors.
    """

    site: str | None
    kind: str
    looks_at: str

    @abstractmethod
    def penalties(self, site: Site, pair: TracePair) -> dict[str, Tensor]:
        """Penalties by name, nats, ``(K, N)`` each (:meth:`TracePair.per_datum`)."""

    def check_images(self, pair: Pair, split: Split) -> None:
        """Run the penalties once.

        Raises:
            InputError: for programs whose data are no images, lack some pixels, or have no mean given z.
        """
        rows = split.batch(slice(0, ROWS))
        with in_evaluation([pair.model, pair.guide], rows, seed=0) as batch:
            traces = pair.traces(batch, self.num_particles)
            site = self.image_site(traces)
            if bool(self.mean(site).isnan().any()):  # torch's way to say that there is none
                raise InputError(self._no_mean(site))
            self.networks.to(batch["x"].device)
            self.penalties(site, traces)

    def pair_terms(self, pair: TracePair) -> Terms:
        """The loss and its parts from one pair of traces."""
        terms = super().pair_terms(pair)
        penalties = self.penalties(self.image_site(pair), pair)
        together = total([*penalties.values()])  # (K, N)
        terms.loss = terms.loss + together.mean()
        terms.penalty |= {f"{self.kind}{name}": value.detach().mean() for name, value in penalties.items()}
        terms.signals = {name: signal - together.detach() for name, signal in terms.signals.items()}
        return terms

    def image_site(self, pair: TracePair) -> Site:
        """The data site with the images.

        Raises:
            InputError: if there is none, several, or one that cannot be used.
        """
        own = type(self).__name__
        sites = {name: site for name, site in pair.observed().items() if not is_factor(site)}
        if self.site is not None and self.site not in sites:
            raise unknown(f"data site of {own}", self.site, sites)
        images = [n for n, s in sites.items() if s["fn"].event_dim == IMAGE_DIMS and not density_of(s)]
        if self.site is None and len(images) != 1:
            found = ", ".join(f"'{name}' {tuple(site['fn'].event_shape)}" for name, site in sites.items()) or "none"
            raise InputError(
                f"{own} is for data that are images, one data site with event shape (channels, height, width); "
                f"the model has {len(images)} such sites (data sites: {found})"
                + (": say which, site=..." if images else "")
            )
        site = sites[images[0] if self.site is None else self.site]
        if site["name"] not in images:
            raise InputError(
                f"data site '{site['name']}' has event shape {tuple(site['fn'].event_shape)}, and {self.looks_at} are "
                "of images (channels, height, width)"
            )
        if kept(site) is not None:
            raise InputError(
                f"data site '{site['name']}' leaves out pixels (a mask), and {self.looks_at} are of whole images"
            )
        return site

    def mean(self, site: Site) -> Tensor:
        """E[x | z], ``(..., batch, *event)``, with its gradient.

        Raises:
            InputError: if there is none.
        """
        if hasattr(innermost(site["fn"]), "mean_along"):
            raise InputError(self._no_mean(site))
        try:
            mean = site["fn"].mean
        except (NotImplementedError, AttributeError) as error:
            raise InputError(self._no_mean(site)) from error
        return mean.expand(*site["fn"].batch_shape, *site["fn"].event_shape)

    def _no_mean(self, site: Site) -> str:
        return (
            f"data site '{site['name']}': {type(innermost(site['fn'])).__name__} has no mean given the latents, and "
            f"{type(self).__name__} looks at the {self.looks_at} of that: take another likelihood, such as "
            "likelihoods.Gaussian"
        )


def wide(value: Tensor) -> Tensor:
    """In float32 at least."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
