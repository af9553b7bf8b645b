"""Latents that all data share: held at draws of the guide, so that the data are independent given them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.programs.checks import two_unlike
from pyro_vae.programs.densities import bound_terms, told_together
from pyro_vae.programs.pair import Pair, examine
from pyro_vae.programs.program import Batch, Program
from pyro_vae.programs.traces import TracePair
from pyro_vae.runtime import private_seed


class HeldLatents(nn.Module):
    """Values of latent sites that programs are run at, unseen: neither drawn nor counted.

    Args:
        values: by site name, as a run without particles has them; buffers, which are changed in place.
    """

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.names = tuple(values)
        for i, value in enumerate(values.values()):
            self.register_buffer(f"value_{i}", value.detach().clone(), persistent=False)

    def set(self, values: dict[str, Tensor]) -> None:
        """Hold other values of the same sites and shapes."""
        for i, name in enumerate(self.names):
            getattr(self, f"value_{i}").copy_(values[name])

    def around(self, program: Program) -> Program:
        """The program at these values, a copy that shares all that it owns."""
        other = copy.copy(program)
        other._modules = {**program._modules, "held_latents": self}
        values = {name: f"value_{i}" for i, name in enumerate(self.names)}
        other._call = _Held(self, values)(program._call)
        return other


class _Held(Messenger):
    """Gives sites their values, and lets nobody outside see them."""

    def __init__(self, held: HeldLatents, values: dict[str, str]) -> None:
        super().__init__()
        self.held, self.values = held, values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"], msg["stop"] = getattr(self.held, self.values[msg["name"]]), True, True


def shared_latents(traces: TracePair) -> list[str]:
    """The latent sites of a model that all data share, in the guide's order."""
    return [name for name, (_, p) in traces.latent().items() if p is not None and name in traces.shared]


def shared_of(pair: Pair, split: Split) -> list[str]:
    """The latent sites of a pair that all data share. Looked at with random numbers of its own: no estimate depends
    on whether anybody looked.

    Args:
        pair: in evaluation mode.
        split: data, one of which is looked at.
    """
    with private_seed(0, split.device):
        return shared_latents(pair.traces(split.batch(slice(0, 1))))


class GivenShared:
    """A pair at a draw of the latents that all data share.

    Args:
        whole: the pair as it is.
        split: the data.
        vectorize: as for :func:`~pyro_vae.programs.pair.examine`.

    Attributes:
        names: of the latents.
        pair: model and guide given them, in which the data are independent: of no run of it they are sites.
        kl: KL of each in nats, of all data together: of every draw so far.

    Raises:
        InputError: if the guide draws them from the data of a batch.
    """

    def __init__(self, whole: Pair, split: Split, *, vectorize: bool = True) -> None:
        self.whole, self.first = whole, split.batch(slice(0, 1))
        traces = self._traces(self.first)
        self.names = shared_latents(traces)
        self._told = told_together(traces)  # what they are functions of (``AutoNormal``) is held with them
        alone = [name for name, (_, p) in traces.latent().items() if p is None and name in traces.shared]
        self._all = [*self.names, *alone]
        self._check_apart_from_data(split.batch(slice(len(split) - 1, None)))
        held = self._held = HeldLatents(self._values(traces))
        programs = [held.around(program) for program in (whole.model, whole.guide)]  # type: ignore[arg-type]
        how: dict[str, Any] = {"vectorize": vectorize, "num_data": whole.num_data}
        self.pair = examine(*programs, split.batch(slice(0, 2)), unlike=two_unlike(split), **how)
        self.kl: dict[str, list[float]] = {self._told[name]: [] for name in self._all}

    def draw(self) -> None:
        """Draw the latents anew."""
        traces = self._traces(self.first)
        found = dict.fromkeys(self.kl, 0.0)
        for kind, site, raw, *_ in bound_terms(traces, analytic=True):
            if kind == "latent" and site["name"] in self._all:
                of_one = raw.double().mean().item()  # each datum carries 1 / num_data
                found[self._told[site["name"]]] += of_one * (traces.num_data or traces.full_size)
        for name, value in found.items():
            self.kl[name].append(value)
        self._held.set(self._values(traces))

    def mean_kl(self) -> dict[str, float]:
        """KL of each latent in nats, of all data together, over the draws so far."""
        return {name: sum(values) / len(values) for name, values in self.kl.items()}

    def _traces(self, batch: Batch) -> TracePair:
        return self.whole.traces(batch)

    def _values(self, traces: TracePair) -> dict[str, Tensor]:
        return {name: traces.guide.nodes[name]["value"] for name in self._all}

    def _check_apart_from_data(self, last: Batch) -> None:
        found = []
        for batch in (self.first, last):
            with private_seed(0, next(iter(batch.values())).device):
                found.append(self._values(self._traces(batch)))
        for name in self.names:
            if not torch.allclose(found[0][name], found[1][name], rtol=1e-5, atol=1e-6):
                raise InputError(
                    f"latent site '{name}' is shared by all data, but the guide draws it from those of a batch: no "
                    "draw of it is one for all data. Let its distribution depend on parameters alone, or put it into "
                    "the data plate"
                )
