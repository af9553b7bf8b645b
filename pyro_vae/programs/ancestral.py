"""Sequences from models that look at their data step by step (teacher forcing): each step drawn given those before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.programs.traces import is_latent, traced
from pyro_vae.runtime import private_seed


class _At(Messenger):
    """Gives sites the values of another run."""

    def __init__(self, trace: Trace, but_for: str) -> None:
        super().__init__()
        nodes = trace.nodes.items()
        self.values = {n: s["value"] for n, s in nodes if s["type"] == "sample" and is_latent(s) and n != but_for}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def step_by_step(run: Callable[..., Any], site: str, rows: Tensor, context: dict[str, Tensor]) -> Trace | None:
    """Run a model that draws its data site, each step of it given what was drawn of those before.

    Args:
        run: the model, which is given data and draws its data site all the same.
        site: its name; a product over steps, ``.to_event``.
        rows: data, ``(count, steps, ...)``; what they are has no influence.
        context: its other arguments, ``(count, ...)`` each.

    Returns:
        the trace of a run at the sequences that were drawn; None if the model's step t looks at other steps of the data
        than those before t, which is tried with other data for every t, or its steps are no product.
    """
    if rows.dim() < 2 or not _looks_back_alone(run, site, rows, context):
        return None
    x, trace = rows.clone(), None
    for step in range(rows.shape[1]):
        at = run if trace is None else _At(trace, site)(run)
        found = traced(at, **context, x=x, num_samples=len(x))
        x[:, step] = found.nodes[site]["value"][:, step]
        trace = trace or found
    assert trace is not None
    found = traced(_At(trace, site)(run), **context, x=x, num_samples=len(x))
    found.nodes[site]["value"] = x
    return found


def _looks_back_alone(run: Callable[..., Any], site: str, rows: Tensor, context: dict[str, Tensor]) -> bool:
    """Whether all that a model draws up to step t is the same when the data are others from t on, for every t."""
    x, others = rows, (rows.flip(1), rows.roll(1, 0), torch.zeros_like(rows))

    def seen(data: Tensor, at: Tensor | None = None) -> tuple[list[Tensor], Tensor, Tensor] | None:
        with private_seed(0, data.device):
            nodes = traced(run, **context, x=data, num_samples=len(data)).nodes
        fn, latent = nodes[site]["fn"], [s["value"] for n, s in nodes.items() if is_latent(s) and n != site]
        while isinstance(fn, Independent) and isinstance(fn.base_dist, Independent):
            fn = fn.base_dist
        if not isinstance(fn, Independent) or nodes[site]["value"].shape != data.shape:
            return None
        at = nodes[site]["value"] if at is None else at
        return latent, fn.base_dist.log_prob(at), at  # (rows, steps, ...)

    first = seen(x)
    if first is None or first[1].shape[:2] != x.shape[:2]:
        return False
    for step in range(x.shape[1]):
        for other in others:
            changed = seen(torch.cat([x[:, :step], other[:, step:]], 1), first[2])
            if changed is None or not all(_close(a, b) for a, b in zip(first[0], changed[0], strict=True)):
                return False
            if not _close(first[1][:, : step + 1], changed[1][:, : step + 1]):
                return False
    return True


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6, equal_nan=True)
