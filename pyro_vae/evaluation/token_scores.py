"""How much of sequences of tokens a pair gives back: told what came before, and left to itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.data import DataLike, Split
from pyro_vae.errors import NotApplicable
from pyro_vae.evaluation.generate import reconstruct
from pyro_vae.evaluation.results import Result, mean_and_error, metric
from pyro_vae.programs.context import X
from pyro_vae.programs.handlers import AtMean
from pyro_vae.programs.program import as_programs
from pyro_vae.programs.session import as_split, in_evaluation
from pyro_vae.programs.sites import innermost
from pyro_vae.programs.traces import is_latent, traced
from pyro_vae.runtime import derived_seed

AT_ONCE = 2**13  # tokens
MOST_DATA = 1000  # that `evaluate` looks at: each is made anew, one token after another


@dataclass
class TokenAccuracy(Result):
    """The share of the tokens of each datum (and its end) that are given back at their place.

    Attributes:
        teacher_forced: the most probable token at each place, given the datum's own tokens before it; ``(num_data,)``.
        greedy: sequences made of the most probable token each, given those made before it; ``(num_data,)``.
        sampled: sequences drawn from p(x | z); ``(num_data,)``.
        at_mean: whether z was the mean of q(z | x), or a draw.
    """

    teacher_forced: Tensor
    greedy: Tensor
    sampled: Tensor
    at_mean: bool = True

    @property
    def rows(self) -> dict[str, str]:
        """Means over data, with their standard errors."""
        found = {name: mean_and_error(values) for name, values in self.arrays().items()}
        said = {name: f"{mean:.3f} +- {error:.3f}" for name, (mean, error) in found.items()}
        through = "the mean of q(z | x)" if self.at_mean else "a draw of q(z | x)"
        return {
            "tokens right, given those before": f"{said['teacher_forced']} (through {through})",
            "tokens right, made greedily": said["greedy"],
            "tokens right, drawn": said["sampled"],
        }

    def arrays(self) -> dict[str, Tensor]:
        """The shares of each datum."""
        return {"teacher_forced": self.teacher_forced, "greedy": self.greedy, "sampled": self.sampled}

    def to_dict(self) -> dict[str, Any]:
        """The means."""
        means = {name: mean_and_error(values)[0] for name, values in self.arrays().items()}
        return {**means, "at_mean": self.at_mean, "num_data": len(self.greedy)}


def token_accuracy(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    at_mean: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
) -> TokenAccuracy:
    """The share of tokens that come back at their place: told the tokens before (teacher-forced), and left to itself.

    A decoder that looks at the tokens before it alone, and not at the latents, can be right about many of them, told
    what came before; left to itself it is lost. Both stand beside one another for that reason. One token inserted or
    left out makes all those behind it wrong.

    Args:
        model, guide: Pyro programs whose x is a :class:`~pyro_vae.distributions.Sequences`.
        data: sequences of tokens, as for :func:`~pyro_vae.log_likelihood`.
        at_mean: through the mean of q(z | x); False: through a draw.
        batch_size: data at once; as many as have 2^13 tokens, if None.
        seed: of the draws.

    Returns:
        shares of each datum, with their means.

    Raises:
        NotApplicable: for a model without latents, or whose x are no sequences.
        InputError: as :func:`~pyro_vae.reconstruct`.

    Source: Roberts et al. 2018, arXiv:1803.05428, table 1.

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.data import Split
        >>> from pyro_vae.evaluation import token_accuracy
        >>> likelihood = pyro_vae.likelihoods.RecurrentTokens((6,), num_tokens=10, features=4, hidden_dim=16)
        >>> model = pyro_vae.models.VAE((6,), latent_dim=2, likelihood=likelihood, hidden_dims=())
        >>> encoder = pyro_vae.networks.RecurrentEncoder((6,), num_tokens=10, outputs=4, hidden_dim=16)
        >>> guide = pyro_vae.guides.GaussianGuide(model, encoder=encoder)
        >>> x = torch.tensor([[3, 9, 0, 0, 0, 0], [1, 1, 4, 2, 5, 0]])
        >>> token_accuracy(model, guide, Split({"x": x}, integers=True)).greedy.shape
        torch.Size([2])
    """
    split = as_split(data, model, guide).fixed()
    found: dict[str, list[Tensor]] = {"teacher_forced": [], "greedy": [], "sampled": []}
    for place, batch in enumerate(split.batches(batch_size or max(1, AT_ONCE // math.prod(split.shape)))):
        x, own = batch[X].cpu(), derived_seed(seed, "batch", place)  # draws of data are independent
        best, counted = _told(model, guide, batch, at_mean, own)
        made = {"teacher_forced": best}
        part = Split(batch, integers=True, name=split.name)
        for name, how in {"greedy": {"top_k": 1}, "sampled": {}}.items():
            made[name] = reconstruct(model, guide, part, seed=own, at_mean=at_mean, **how)
        for name, tokens in made.items():
            right = ((tokens == x) & counted).flatten(1).sum(1).double() / counted.flatten(1).sum(1)
            found[name].append(right)
    return TokenAccuracy(**{name: torch.cat(values) for name, values in found.items()}, at_mean=at_mean)


def _told(
    model: Callable[..., Any], guide: Callable[..., Any], batch: dict[str, Tensor], at_mean: bool, seed: int
) -> tuple[Tensor, Tensor]:
    """The most probable token at each place given those before it, and the places that are not certain, ``(B, T)``."""
    programs = as_programs(model, guide)
    with in_evaluation(programs, batch, seed) as moved:
        with AtMean() if at_mean else nullcontext():
            drawn = poutine.trace(programs[1]).get_trace(**moved)
        trace = traced(poutine.replay(programs[0], trace=drawn), **moved)
        sites = [site for site in trace.nodes.values() if site["type"] == "sample" and site["value"] is moved[X]]
        p = innermost(sites[0]["fn"]) if len(sites) == 1 else None
        if not (hasattr(p, "uncertain") and hasattr(p, "logits")):  # as distributions.Sequences
            raise NotApplicable("x are no sequences of tokens, each given those before it")
        if not any(is_latent(site) for site in trace.nodes.values()):
            raise NotApplicable("the model has no latents through which data could come back")
        x = moved[X]
        return p.logits(x).argmax(-1).cpu(), p.uncertain(x).cpu()


@metric
def tokens_right(model: Callable[..., Any], guide: Callable[..., Any], split: Split, seed: int) -> TokenAccuracy:
    """:func:`token_accuracy` of the first 1000 data."""
    if not split.integers or len(split.shape) != 1:
        raise NotApplicable("the data are no sequences of tokens")
    return token_accuracy(model, guide, split.subset(MOST_DATA), seed=seed)
