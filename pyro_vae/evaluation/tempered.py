"""Bolder or tamer samples of codes: a program whose learned priors have a temperature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pyro.distributions import ExpandedDistribution, MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch.distributions import Independent

from pyro_vae.errors import InputError
from pyro_vae.evaluation.session import positive


class Tempered(Messenger):
    r"""A handler under which sites that can be tempered are drawn from a sharpened distribution.

    .. math:: p_T(c_i \mid c_{<i}) \propto p(c_i \mid c_{<i})^{1/T} \quad \text{for the } k \text{ most probable } c_i

    at every position i, else 0; with ``top_p``, for the fewest most probable ones that have at least p together. A site
    can be tempered if its distribution has a method ``tempered(temperature, top_k)`` (and ``top_p``) that gives another
    distribution, as autoregressive priors have, and guided if it has a condition and a method ``guided(scale)``; other
    sites are drawn as they are.

    Args:
        temperature: T; below 1 tamer, above 1 bolder.
        top_k: k, codes that each position may have; None: all.
        top_p: p, in (0, 1]; None: 1.
        guidance: s, logits (1 + s) conditional - s unconditional; 0: none.

    Raises:
        InputError: for a temperature that is not a positive number, a top_k that is not a positive integer, a top_p
            that is no probability above 0, or a negative guidance.

    Source: Ackley et al. 1985, doi:10.1207/s15516709cog0901_7 (temperature); Fan et al. 2018, arXiv:1805.04833 (top-k);
    Holtzman et al. 2020, arXiv:1904.09751 (top-p); Ho & Salimans 2022, arXiv:2207.12598 (guidance).
    """

    def __init__(
        self, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, guidance: float = 0.0
    ) -> None:
        super().__init__()
        if not (temperature > 0 and math.isfinite(temperature)):
            raise InputError(f"temperature must be a positive number, got {temperature}")
        if top_k is not None:
            positive("top_k", top_k)
        if top_p is not None and not 0 < top_p <= 1:
            raise InputError(f"top_p must be a probability above 0, got {top_p}")
        if not (guidance >= 0 and math.isfinite(guidance)):
            raise InputError(f"guidance must not be negative, got {guidance}")
        self.temperature, self.top_k, self.top_p, self.guidance = temperature, top_k, top_p, guidance
        self._seen: dict[str, bool] = {}  # sites that were drawn: whether they could be tempered
        self._guided = False

    @property
    def changes_anything(self) -> bool:
        """Whether it makes a difference at all."""
        return self._tempers or self.guidance > 0

    @property
    def _tempers(self) -> bool:
        return self.temperature != 1 or self.top_k is not None or self.top_p is not None

    def check(self) -> None:
        """Check, after a run, that there was anything to temper.

        Raises:
            InputError: if no site could be tempered, or guided; names those that there were.
        """
        if self.guidance and not self._guided:
            raise InputError(
                f"guidance: no site of the model can be guided (it draws {', '.join(self._seen) or 'nothing'}); codes "
                "can whose learned prior is given a text or a label and was trained with condition_dropout"
            )
        if self._tempers and not any(self._seen.values()):
            raise InputError(
                "temperature, top_k, top_p: no site of the model can be tempered (it draws "
                f"{', '.join(self._seen) or 'nothing'}); codes with a learned autoregressive prior can"
            )

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        if self.guidance:
            guided = _inside(msg["fn"], "guided", lambda base: base.guided(self.guidance) if base.condition else None)
            self._guided |= guided is not None
            msg["fn"] = guided if guided is not None else msg["fn"]
        fn = tempered(msg["fn"], self.temperature, self.top_k, self.top_p)
        self._seen[msg["name"]] = fn is not None
        if fn is not None:
            msg["fn"] = fn


def tempered(fn: Any, temperature: float, top_k: int | None = None, top_p: float | None = None) -> Any | None:
    """A distribution with a temperature, inside its wrappers (independent, expanded, masked); None if it has none."""
    options = {} if top_p is None else {"top_p": top_p}
    return _inside(fn, "tempered", lambda base: base.tempered(temperature, top_k, **options))


def _inside(fn: Any, method: str, change: Callable[[Any], Any | None]) -> Any | None:
    """A distribution changed inside its wrappers, where what has the method is; None if nothing has, or is changed."""
    if hasattr(fn, method):
        return change(fn)
    if not isinstance(fn, (Independent, ExpandedDistribution, MaskedDistribution)):
        return None
    base = _inside(fn.base_dist, method, change)
    if base is None:
        return None
    if isinstance(fn, Independent):
        return base.to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, ExpandedDistribution):
        return ExpandedDistribution(base, fn.batch_shape)
    return base.mask(fn._mask)
