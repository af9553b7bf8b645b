"""The test ELBO, its reconstruction term and its KL terms, per datum and per site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import DataLike
from pyro_vae.errors import positive
from pyro_vae.evaluation.chunks import MEMORY_BUDGET, Chunks, Piece
from pyro_vae.evaluation.dimensions import counted_tokens
from pyro_vae.evaluation.results import PerDatum, mean_and_error, nats, not_finite, perplexity
from pyro_vae.programs.densities import bound_terms, outside_prior, told_together
from pyro_vae.programs.session import anything_to_draw, evaluating
from pyro_vae.runtime import keep_freed_memory


@dataclass
class EvidenceBound(PerDatum):
    """The ELBO and its parts.

    Attributes:
        per_datum: ELBO, nats, ``(num_data,)``, float64 on the CPU.
        log_likelihood: E_q log p(x | z) of each data site, nats, ``(num_data,)`` each.
        kl: KL of each latent site, raw (not weighted, not clamped), nats, ``(num_data,)`` each; of sites that are
            functions of one and the same draw of the guide's, theirs together, by all their names.
        num_particles: draws per datum.
        split: the name of the data.
        doubts: what was found when the pair was examined, in sentences.
        shared: names of the latents that all data share, of whose KL each datum carries one part in num_data.
        tokens: of data that are sequences, tokens and ends of one, a mean over the data; None: they are none.
    """

    per_datum: Tensor
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)
    kl: dict[str, Tensor] = field(default_factory=dict)
    num_particles: int = 1
    split: str = "data"
    doubts: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    tokens: float | None = None

    @property
    def nats_per_token(self) -> float | None:
        """-(sum of ELBOs) / (number of tokens and ends) of all data; None if none are counted."""
        return -self.mean / self.tokens if self.tokens else None

    @property
    def perplexity(self) -> float | None:
        """exp of :attr:`nats_per_token`, an upper bound on the perplexity; None if the data are no sequences."""
        return None if self.nats_per_token is None else perplexity(self.nats_per_token)

    @property
    def given_shared(self) -> Tensor:
        """A bound on E_q(w) [log p(x | w)], ``(num_data,)``: without the KL of latents w that all data share."""
        return self.per_datum + sum(self.kl[name] for name in self.shared)

    @property
    def warnings(self) -> list[str]:
        """What makes the bound doubtful, in sentences."""
        names = ", ".join(self.shared)
        whole = (
            f"all data share {names}: this is a bound on log p of all {len(self.per_datum)} data together, per datum; "
            f"without the KL of {names} one on log p(x | {names}) of each datum, averaged over the guide's draws"
        )
        return [*self.doubts, *([whole] if names else []), *not_finite(self.per_datum, "ELBO")]

    @property
    def rows(self) -> dict[str, str]:
        """The bound and its parts."""
        terms = [(f"reconstruction of {name}", value) for name, value in self.log_likelihood.items()]
        terms += [(f"KL of {name}", value) for name, value in self.kl.items()]
        parts = {label: f"{mean_and_error(value)[0]:.2f} nats" for label, value in terms}
        for name in self.shared:
            parts[f"KL of {name}"] += f", a datum's part of {self.kl[name].sum().item():.2f}"
        given = {f"ELBO given {', '.join(self.shared)}": nats(mean_and_error(self.given_shared))} if self.shared else {}
        if self.nats_per_token is not None:
            given["nats per token, by the ELBO"] = f"{self.nats_per_token:.4f}"
            given["perplexity, by the ELBO"] = f"at most {self.perplexity:.2f}"
        return {"ELBO": nats((self.mean, self.standard_error)), **given, **parts}

    def arrays(self) -> dict[str, Tensor]:
        """The ELBO of each datum, nats, ``(num_data,)``."""
        return {"elbo": self.per_datum}

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values, nats."""
        return {
            "elbo": self.mean,
            "standard_error": self.standard_error,
            "reconstruction": {k: mean_and_error(v)[0] for k, v in self.log_likelihood.items()},
            "kl": {k: mean_and_error(v)[0] for k, v in self.kl.items()},
            **({"given_shared": mean_and_error(self.given_shared)[0]} if self.shared else {}),
            **(
                {}
                if self.nats_per_token is None
                else {"elbo_nats_per_token": self.nats_per_token, "elbo_perplexity": self.perplexity}
            ),
            "num_particles": self.num_particles,
            "num_data": len(self.per_datum),
            "warnings": self.warnings,
            "split": self.split,
        }


def elbo(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    num_particles: int = 10,
    analytic_kl: bool = True,
    memory_budget: int = MEMORY_BUDGET,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> EvidenceBound:
    r"""E_q[log p(x | z)] - KL(q(z | x) || p(z)) of every datum, with its parts by site.

    Args:
        model, guide: Pyro programs whose per-datum sites are in a plate at dim -1.
        data: as for :func:`~pyro_vae.evaluation.log_likelihood`.
        num_particles: draws per datum for the expectation; one, if the guide has nothing to draw.
        analytic_kl: closed-form KL where one is registered and is the same expectation.
        memory_budget: bytes that the tensors computed at once may take; no number depends on it
            (:mod:`pyro_vae.evaluation.chunks`).
        seed: of the draws; the global random state is left as it was.
        device: where to evaluate; the programs' device if None.

    Returns:
        per-datum values in nats; KL terms are raw: without weights, without free bits.

    Raises:
        InputError: for non-positive particles or budget, a budget that one particle of one datum exceeds, data out of
            the likelihood's support, sites that do not match.

    Example:
        >>> import torch, pyro_vae
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> result = pyro_vae.elbo(model, guide, x, num_particles=10)
        >>> result.per_datum.shape, sorted(result.kl)
        (torch.Size([20]), ['z'])
    """
    positive("num_particles", num_particles)
    positive("memory_budget", memory_budget)
    likelihood: dict[str, Tensor] = {}
    kl: dict[str, Tensor] = {}
    ordered: list[str] = []
    shared: list[str] = []
    tokens: list[float] = []  # of pieces; none if the data are no sequences alone
    with evaluating(model, guide, data, seed, device) as (programs, split):
        programs.refuse_point_masses()
        if not anything_to_draw(programs, split):
            num_particles = 1
        keep_freed_memory()
        missed = torch.zeros(len(split), dtype=torch.bool, device=split.device)  # a draw is outside the prior's support

        def look(piece: Piece) -> None:
            nonlocal ordered, shared
            pair = piece.traces
            counted = counted_tokens(pair)
            if counted is not None:
                tokens.append(piece.share * counted)
            told = told_together(pair)
            for kind, site, raw, *_ in bound_terms(pair, analytic=analytic_kl):
                terms, name = likelihood if kind == "data" else kl, site["name"]
                name = told.get(name, name)
                if name not in terms:
                    terms[name] = torch.zeros(len(split), dtype=torch.float64, device=split.device)
                terms[name][piece.rows] += piece.share * raw.double().mean(0)
            sites = pair.in_model_order(told)
            ordered = [name for name in dict.fromkeys(told[site] for site in sites) if name in kl]
            ordered += [name for name in kl if name not in ordered]
            shared = [name for name in ordered if any(told.get(site, site) == name for site in pair.shared)]
            outside = outside_prior(pair)
            if outside is not None:
                missed[piece.rows] |= outside.any(0)

        Chunks(programs, split, num_particles, memory_budget).run(look)
    parts = [{name: value.cpu() for name, value in terms.items()} for terms in (likelihood, kl)]
    per_datum = torch.as_tensor(sum(parts[0].values()) - sum(parts[1].values()))
    parts[1] = {name: parts[1][name] for name in ordered}
    per_datum = per_datum.masked_fill(missed.cpu(), -torch.inf)
    found = sum(tokens) / len(per_datum) if tokens else None
    return EvidenceBound(per_datum, *parts, num_particles, split.name, programs.doubts, tuple(shared), found)
