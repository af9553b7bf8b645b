"""The importance-weighted objective and its gradient estimators."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Self

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import detach
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_vae.errors import InputError, unknown
from pyro_vae.objectives.base import Objective, Terms
from pyro_vae.objectives.score_function import drawn_sites
from pyro_vae.programs.densities import log_weights_by_site
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.traces import TracePair, in_particle_plate, is_latent, repeated_arguments
from pyro_vae.recording.tensors import with_tensors

logger = logging.getLogger(__name__)

Gradient = Literal["standard", "dreg", "stl"]


class IWAE(Objective):
    r"""Importance-weighted bound with K particles, averaged over data.

    .. math:: -\log \frac1K \sum_{k=1}^K w_k, \qquad w_k = p(x, z_k) / q(z_k | x)

    Gradients, with :math:`\tilde w_k = w_k / \sum_j w_j` held fixed:

    - ``standard``: automatic differentiation (Burda et al. 2016, arXiv:1509.00519).
    - ``dreg``: the decoder's as before; the guide's is
      :math:`\sum_k \tilde w_k^2\, \partial \log w_k / \partial z_k\, \partial z_k / \partial \phi`, unbiased and with a
      signal-to-noise ratio that grows with K (Tucker et al. 2018, arXiv:1810.04152).
    - ``stl``: the score of q is dropped, the weight is :math:`\tilde w_k` (Roeder et al. 2017, arXiv:1703.09194).
      Unbiased at K = 1 only; at K > 1 it is biased (Tucker et al. 2018, section 4).

    The value of the loss is the same for all three. Where a guide has several latent sites, ``dreg`` and ``stl``
    run it a second time, at the drawn values and with its parameters held; so they refuse guides with active
    dropout, and need the guide to be an ``nn.Module``. They are gradients of densities: guides with point masses
    (codes) or factors are refused. Guide sites without reparameterized samples get score functions, with the geometric
    mean of the other particles' weights as control variate (VIMCO, Mnih & Rezende 2016, arXiv:1602.06725), and the
    gradient ``standard``.

    Args:
        num_particles: K.
        gradient: which estimator.

    Raises:
        InputError: for non-positive particles, an unknown gradient, a latent site outside the data plate, or a guide
            that ``dreg`` and ``stl`` refuse.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> objective = pyro_vae.IWAE(num_particles=5, gradient="dreg")
        >>> objective.differentiable_loss(model, guide, torch.ones(5, 1, 8, 8)).requires_grad
        True
    """

    _apart = False

    def __init__(self, num_particles: int = 5, gradient: Gradient = "standard") -> None:
        super().__init__(num_particles)
        if gradient not in ("standard", "dreg", "stl"):
            raise unknown("gradient", gradient, ("standard", "dreg", "stl"))
        self.gradient = gradient

    def on(self, pair: Pair) -> Self:
        """The same objective for a pair that has been examined."""
        for name in sorted(pair.sums.guide):
            logger.warning(
                "IWAE sums over '%s' exactly, whatever the guide's probabilities of it are: they learn nothing from it "
                "(the ELBO trains them)",
                name,
            )
        return super().on(pair)

    def pair_terms(self, pair: TracePair) -> Terms:
        """The loss with its plain gradient."""
        log_w, observed, kl = log_weights_by_site(pair)  # (K, N)
        terms = _site_means(observed, kl)
        bound = log_w.logsumexp(0) - math.log(self.num_particles)  # (N,)
        terms.loss = -bound.mean()
        if drawn := drawn_sites(pair):
            terms.signals = dict.fromkeys(drawn, _against_the_others(log_w.detach(), bound.detach()))
        return terms

    def terms(self, model: Callable[..., Any], guide: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Terms:
        """Run both programs on a batch and return the loss and its parts."""
        if self.gradient == "standard" or not torch.is_grad_enabled():
            return super().terms(model, guide, *args, **kwargs)
        return self._held_guide_terms(model, guide, args, kwargs)

    def _held_guide_terms(self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any) -> Terms:
        """A loss whose gradient reaches the guide through the latents' values only.

        log w is evaluated at copies z' of the latents; for dreg their gradient is multiplied by the normalized
        weights on its way back, once, however many latents lie between z' and the guide's parameters.
        """
        weights: list[Tensor] = []  # (K, N), known once log w is
        pairs: list[TracePair] = []

        def copies(trace: Trace) -> Trace:
            trace = trace.copy()
            for name, site in trace.nodes.items():
                if is_latent(site):
                    value = site["value"].view_as(site["value"])
                    if self.gradient == "dreg" and value.requires_grad:
                        value.register_hook(partial(_weighted, weights, site["fn"].event_dim, pairs))
                    trace.nodes[name] = {**site, "value": value}
            return trace

        pair = self._traces(model, guide, args, kwargs, copies)
        sites = {n: q for n, (q, _) in pair.latent().items()}
        pairs.append(pair)
        self._check_densities(pair, sites)
        if not all(q["fn"].has_rsample for q in sites.values()):
            return super().terms(model, guide, *args, **kwargs)  # with score functions, and says so
        if len(sites) == 1:
            held = {n: {**q, "fn": detach(q["fn"])} for n, q in sites.items()}
        else:
            in_plate = self.num_particles // pair.copies
            run = in_particle_plate(_with_held_parameters(guide, model), in_plate, pair.particle_dim)
            args, kwargs = repeated_arguments(args, kwargs, pair.copies)
            trace = poutine.trace(poutine.replay(run, trace=pair.guide)).get_trace(*args, **kwargs)
            held = {n: trace.nodes[n] for n in sites}
        log_w, observed, kl = log_weights_by_site(pair, guide_sites=held)  # (K, N)
        terms = _site_means(observed, kl)
        weights.append(log_w.detach().softmax(0))
        surrogate = -(weights[0] * log_w).sum(0).mean()
        value = -(log_w.detach().logsumexp(0) - math.log(self.num_particles)).mean()
        terms.loss = value + (surrogate - surrogate.detach())
        return self.with_penalties(terms, pair)

    def _check_densities(self, pair: TracePair, sites: dict[str, Any]) -> None:
        points = [f"site {n} is a point mass" for n, q in sites.items() if isinstance(q["fn"], dist.Delta)]
        wrong = points + [f"{n} is a factor" for n in pair.guide_factors()]
        wrong += [f"site {n} has all its values" for n in sorted(pair.sums.guide)]
        if wrong:
            raise InputError(
                f"gradient '{self.gradient}' needs a guide of densities ({', '.join(wrong)}): use gradient='standard'"
            )


def _against_the_others(log_w: Tensor, bound: Tensor) -> Tensor:
    """How much each particle adds to the bound, with the others' geometric mean in its place, ``(K, N)`` (VIMCO)."""
    k = len(log_w)
    if k == 1:
        return bound.expand_as(log_w)
    others = (log_w.sum(0) - log_w) / (k - 1)  # (K, N): log of the geometric mean
    place = torch.eye(k, dtype=torch.bool, device=log_w.device)[..., None]
    without = torch.where(place, others[:, None], log_w)  # (K, K, N): row k has particle k replaced
    return bound - (without.logsumexp(1) - math.log(k))


def _site_means(observed: dict[str, Tensor], kl: dict[str, Tensor]) -> Terms:
    """The detached per-site means, without a loss yet."""
    terms = Terms(torch.zeros(()))
    terms.log_likelihood = {name: value.detach().mean() for name, value in observed.items()}
    terms.kl = {name: value.detach().mean() for name, value in kl.items()}
    return terms


def _weighted(weights: list[Tensor], event_dim: int, pairs: list[TracePair], gradient: Tensor) -> Tensor:
    """The gradient of a latent, ``(K, ..., N, *event)`` or at K = 1 ``(N, *event)``, times each particle's weight."""
    w = weights[0]  # (K, N)
    if pairs[0].copies > 1:
        w = w.T.reshape(1, -1)  # (1, N K): the particles of a datum one after another
    inner = gradient.dim() - event_dim - w.dim()
    w = w.reshape(w.shape[0], *(1,) * inner, w.shape[1]) if inner >= 0 else w[0]
    return gradient * w.reshape(w.shape + (1,) * event_dim)


def _with_held_parameters(guide: Callable[..., Any], model: Callable[..., Any]) -> Callable[..., Any]:
    """The guide with constant parameters; its buffers (batch statistics) are not updated a second time."""
    if not isinstance(guide, nn.Module):
        raise InputError("gradient 'dreg' or 'stl' with several latent sites needs the guide as an nn.Module")
    for name, module in guide.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise InputError(
                f"gradient 'dreg' or 'stl' with several latent sites runs the guide twice, which its dropout "
                f"'{name}' does not allow: use gradient='standard' or take the dropout out"
            )
    both = nn.ModuleList([p for p in (guide, model) if isinstance(p, nn.Module)])  # a guide may run the model
    held = {id(p): p.detach() for p in both.parameters()} | {id(b): b.clone() for b in both.buffers()}

    def run(*args: Any, **kwargs: Any) -> Any:
        with with_tensors(both, held):
            return guide(*args, **kwargs)

    return run
