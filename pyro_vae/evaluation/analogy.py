"""Data with a discrete latent changed and the others kept: the style of one datum in every class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.data import DataLike
from pyro_vae.errors import NotApplicable, unknown
from pyro_vae.evaluation.discrete import posterior_probabilities
from pyro_vae.evaluation.encoding import UNOBSERVED, posterior_samples
from pyro_vae.evaluation.generate import decoded
from pyro_vae.programs.context import X, needed_to_generate
from pyro_vae.programs.session import as_split, evaluating
from pyro_vae.programs.sites import mean_of
from pyro_vae.programs.traces import Site


class Analogies(NamedTuple):
    """Data with a discrete latent changed.

    Attributes:
        site: the latent that is changed.
        values: what it is changed to, ``(values, *event)``, in the order of its distribution's ``enumerate_support()``.
        mean: of p(x | the value, what is kept), ``(batch, values, *event)``.
        kept: the latents that have each datum's own value.
    """

    site: str
    values: Tensor
    mean: Tensor
    kept: tuple[str, ...]


def analogies(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    site: str | None = None,
    seed: int = 0,
) -> Analogies:
    r"""Every datum with a discrete latent y at each of its values, and what does not follow from y kept.

    .. math:: E[x \mid y, z], \qquad z \sim q(z \mid x_i), \qquad y = 1, \dots, C

    Latents are kept if their prior is the same for all values of y. Those that follow from y are drawn from the model,
    with the same noise for all values.

    Args:
        model, guide: Pyro programs.
        data: as for :func:`~pyro_vae.evaluation.log_likelihood`.
        site: a discrete latent of one value a datum that is summed over; if None, the first one in the model.
        seed: of all draws; the global random state is left as it was.

    Returns:
        on the CPU.

    Raises:
        InputError: if no latent with one value a datum is summed over, or ``site`` is none of them; as
            :func:`~pyro_vae.evaluation.decode`.

    Source: Kingma et al. 2014, arXiv:1406.5298, section 4.2 (conditional generation, "visual analogies").

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.SemiSupervisedVAE((1, 8, 8), num_classes=3, latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.SemiSupervisedGuide(model, hidden_dims=(16,))
        >>> found = pyro_vae.evaluation.analogies(model, guide, (torch.rand(5, 1, 8, 8) > 0.5).float())
        >>> found.site, tuple(found.mean.shape), found.kept
        ('y', (5, 3, 1, 8, 8), ('z',))
    """
    split = as_split(data, model, guide).fixed()
    found = posterior_probabilities(model, guide, split.subset(2), num_particles=1, seed=seed)
    with evaluating(model, guide, split, seed) as (pair, moved):
        traces = pair.traces(moved.batch(slice(0, 2)), 1)
    summed = {name.removesuffix(UNOBSERVED): name for name, p in found.items() if p.dim() == 2}  # one value a datum
    if not summed:
        raise NotApplicable("no latent site that is summed over has one value a datum")
    site = next(iter(summed)) if site is None else site
    if site not in summed:
        raise unknown("latent site with one value a datum that is summed over", site, summed)
    fn = traces.model.nodes[summed[site]]["fn"]
    values = fn.enumerate_support(expand=False).cpu()
    values = values.reshape(len(values), *fn.event_shape)  # (values, *event)
    batch = split.batch(slice(None))
    given = {name: batch[name] for name in (X, *needed_to_generate(model, batch))}
    drawn = [name for name, (_, p) in traces.latent().items() if p is not None]
    kept = posterior_samples(model, guide, split, seed=seed, sites=drawn) if drawn else {}

    def at(value: Tensor) -> tuple[Trace, Tensor]:
        held = {**kept, site: value.expand(len(split), *value.shape)}
        trace, name = decoded(model, held, seed=seed, batch=given)
        return trace, mean_of(trace.nodes[name]).cpu()

    while True:
        runs = [at(value) for value in values]
        follow = [name for name in kept if _differs([trace.nodes[name] for trace, _ in runs])]
        if not follow:
            return Analogies(site, values, torch.stack([mean for _, mean in runs], 1), tuple(kept))
        for name in follow:
            del kept[name]


def _differs(sites: Sequence[Site]) -> bool:
    """Whether the density of one value of a latent is another in some of the runs."""
    log_p = [site["fn"].log_prob(site["value"]) for site in sites]
    return any(not torch.allclose(log_p[0], other) for other in log_p[1:])
