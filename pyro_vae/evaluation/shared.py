"""Latents that all data share, in evaluation: held at a draw of the guide, and what a bound given them is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_vae.data import DataLike
from pyro_vae.errors import InputError
from pyro_vae.evaluation.results import mean_and_error
from pyro_vae.programs.program import Program
from pyro_vae.programs.session import evaluating
from pyro_vae.programs.shared import GivenShared, shared_of


@dataclass(frozen=True)
class SharedLatents:
    """Latents w that all data share, over which a bound given them is averaged, by draws of the guide.

    Attributes:
        kl: KL(q(w) || p(w)) of each, nats, of all data together; no part of the bound.
        means: the bound's mean over data for each draw, nats, ``(num_draws,)``.
    """

    kl: Mapping[str, float]
    means: Tensor

    @property
    def names(self) -> str:
        """Which they are."""
        return ", ".join(self.kl)

    @property
    def rows(self) -> dict[str, str]:
        """How they were drawn, and their KL."""
        error = f", error from them {mean_and_error(self.means)[1]:.2g} nats" if len(self.means) > 1 else ""
        found = {f"draws of {self.names} from the guide": f"{len(self.means)}{error}"}
        return found | {
            f"KL of {name}": f"{value:.2f} nats in all, not in the bound" for name, value in self.kl.items()
        }

    @property
    def sentence(self) -> str:
        """What the bound is."""
        w, count = self.names, len(self.means)
        drawn = (
            f"averaged over {count} draws of {w} from the guide" if count > 1 else f"at one draw of {w} of the guide's"
        )
        return (
            f"all data share {w}: these are bounds on log p(x | {w}) of each datum, {drawn}; their expectation is a "
            f"lower bound on the predictive log E_q[p(x | {w})], and none on log p(x) under the prior of {w}"
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, nats."""
        return {"draws": len(self.means), "error_of_draws": mean_and_error(self.means)[1], "kl": dict(self.kl)}


def given_shared(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    seed: int = 0,
    device: str | None = None,
) -> tuple[Program, Program]:
    """Model and guide given one draw, from the guide, of the latents that all data share.

    In these programs the data are independent: ``sample`` and ``decode`` of the model then show what has been learned
    of, say, weights, where the model itself draws them from their prior.

    Args:
        model, guide: Pyro programs.
        data: to run them with.
        seed: of the draw.
        device: the programs' own if None.

    Returns:
        both programs, which share the parameters of those given.

    Raises:
        InputError: if no latent is shared by all data, or the guide draws it from those of a batch; and as
            :func:`~pyro_vae.evaluation.elbo`.

    Example:
        >>> import pyro, pyro.distributions as dist, pyro_vae, torch
        >>> def model(x=None, num_samples=1):
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", num_samples if x is None else len(x)):
        ...         return pyro.sample("x", dist.Normal(w, 0.1), obs=x)
        >>> def guide(x):
        ...     pyro.sample("w", dist.Normal(5.0, 0.01))
        >>> given, _ = pyro_vae.evaluation.given_shared(model, guide, torch.zeros(3))
        >>> pyro_vae.sample(given, 100)["x"].mean().round()
        tensor(5.)
    """
    with evaluating(model, guide, data, seed, device, bounds=False) as (pair, split):
        if not shared_of(pair, split):
            raise InputError("no latent is shared by all data: every latent site is in the data plate")
        given = GivenShared(pair, split)
        return given.pair.model, given.pair.guide  # type: ignore[return-value]
