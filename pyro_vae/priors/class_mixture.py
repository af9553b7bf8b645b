"""A fixed mixture of Gaussians whose components belong to classes, as prior over real latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.distributions import GaussianMixture
from pyro_vae.errors import InputError
from pyro_vae.priors.latent import LatentPrior
from pyro_vae.programs.context import optional_label_context


class ClassMixturePrior(LatentPrior):
    r"""p(z | y) = sum_k w_k [c_k = y] N(z; mu_k, L_k L_k^T) / sum_k w_k [c_k = y], with nothing to learn.

    Without y it is the whole mixture, p(z) = sum_k w_k N(z; mu_k, L_k L_k^T), which is p(z | y) averaged over classes
    by their weights; so it is for each datum whose label is not known, -1. A model that does not take y, such as
    :class:`~pyro_vae.models.VAE`, has the whole mixture; :class:`~pyro_vae.models.ClassPriorVAE` hands y on.

    Args:
        loc: mu, K vectors of D numbers.
        scale_tril: L, K lower triangular matrices D x D with a positive diagonal.
        classes: c, the class of each component, K numbers; each of 0 … C - 1 has at least one.
        weights: w, K positive numbers, made to add up to 1; None: equal ones.

    Attributes:
        num_classes: C.

    Raises:
        InputError: for sizes that do not fit, numbers that are not finite, matrices that are no such factors, weights
            that are not positive, a class without a component.

    Source: Makhzani et al. 2015, arXiv:1511.05644, section 2.3 (a prior that labels choose from).

    Example:
        >>> import pyro_vae, torch
        >>> lower = [[[0.5, 0.0], [0.2, 0.3]]] * 3
        >>> prior = pyro_vae.priors.ClassMixturePrior([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.0]], lower, [0, 0, 1])
        >>> prior(y=torch.tensor([0, 1, -1])).sample().shape, prior().sample().shape
        (torch.Size([3, 2]), torch.Size([2]))
    """

    loc: Tensor
    scale_tril: Tensor
    weights: Tensor

    def __init__(
        self,
        loc: Sequence[Sequence[float]],
        scale_tril: Sequence[Sequence[Sequence[float]]],
        classes: Sequence[int],
        weights: Sequence[float] | None = None,
    ) -> None:
        name = type(self).__name__
        means, lower = _numbers(f"{name}: loc", loc, 2), _numbers(f"{name}: scale_tril", scale_tril, 3)
        count, dim = means.shape
        super().__init__((dim,))
        if lower.shape != (count, dim, dim):
            raise InputError(
                f"{name}: scale_tril must have shape ({count}, {dim}, {dim}), a matrix for each mean, got "
                f"{tuple(lower.shape)}"
            )
        if not torch.equal(lower, lower.tril()) or not bool((lower.diagonal(dim1=-2, dim2=-1) > 0).all()):
            raise InputError(f"{name}: scale_tril must be lower triangular with a positive diagonal")
        of = _numbers(f"{name}: classes", classes, 1)
        if of.shape != (count,) or not torch.equal(of, of.floor()) or bool((of < 0).any()):
            raise InputError(f"{name}: classes must be {count} whole numbers from 0, one a component, got {classes!r}")
        self.num_classes = int(of.max()) + 1
        empty = sorted({*range(self.num_classes)} - {*of.long().tolist()}) if self.num_classes <= count else [count]
        if empty:
            raise InputError(f"{name}: classes must be 0, 1, … without gaps: class {empty[0]} has no component")
        w = torch.ones(count, dtype=torch.float64) if weights is None else _numbers(f"{name}: weights", weights, 1)
        if w.shape != (count,) or not bool((w > 0).all()):
            raise InputError(f"{name}: weights must be {count} positive numbers, one a component, got {weights!r}")
        self.context = {"y": optional_label_context(self.num_classes)}
        inside = of == torch.arange(self.num_classes)[:, None]  # (C, K)
        rows = torch.cat([w.expand(1, -1), w * inside])  # of -1, 0 … C - 1
        real = torch.get_default_dtype()
        self.register_buffer("loc", means.to(real))
        self.register_buffer("scale_tril", lower.to(real))
        self.register_buffer("weights", (rows / rows.sum(-1, keepdim=True)).to(real))  # (C + 1, K)

    def forward(self, y: Tensor | None = None, **context: Tensor) -> GaussianMixture:
        """p(z), or p(z | y) of batch shape ``y.shape``; other context does not matter.

        Nothing is asked of a value of y, so that a step can be recorded: what is no label has no density, NaN. Who
        hands data on (``fit``, every estimator, ``sample``) checks them before.

        Args:
            y: labels int64 ``(batch,)``, -1 where one is not known; None: of no datum.

        Raises:
            InputError: if y are no whole numbers.
        """
        if y is None:
            return GaussianMixture(self.weights[0].log(), self.loc, self.scale_tril)
        if not isinstance(y, Tensor) or y.dtype != torch.int64:
            got = y.dtype if isinstance(y, Tensor) else type(y).__name__
            raise InputError(f"{type(self).__name__}: y takes {self.context['y'].what}, of torch.int64; got {got}")
        known = (y >= -1) & (y < self.num_classes)
        weights = self.weights[torch.where(known, y + 1, 0)].where(known.unsqueeze(-1), torch.nan)  # (batch, K)
        return GaussianMixture(weights.log(), self.loc, self.scale_tril)


def _numbers(what: str, values: Sequence[object], dims: int) -> Tensor:
    """Finite numbers in so many dimensions, float64."""
    try:
        found = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} must be numbers in {dims} dimension{'s' * (dims > 1)}: {error}") from error
    if found.dim() != dims or not found.numel() or not bool(found.isfinite().all()):
        raise InputError(
            f"{what} must be finite numbers in {dims} dimension{'s' * (dims > 1)}, got shape {tuple(found.shape)}"
        )
    return found
