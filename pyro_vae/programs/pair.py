"""A model and its guide as they are run together: examined once, then traced as often as need be."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.programs.baselines import averaged, check_baselines
from pyro_vae.programs.bounds import check_bound
from pyro_vae.programs.enumeration import NOTHING, Sums, check_terms, summed_sites, with_all_values
from pyro_vae.programs.once import OneRun
from pyro_vae.programs.parameters import ParameterStore, ParamStatements, module_parameters
from pyro_vae.programs.program import Batch, Program, as_programs, evaluation_mode, prime
from pyro_vae.programs.sites import density_of, of_functions
from pyro_vae.programs.traces import (
    TracePair,
    check_sites,
    data_frame,
    data_plates,
    in_particle_plate,
    is_observed,
    plate_dims,
    repeated_arguments,
    shared_sites,
    traced_pair,
)
from pyro_vae.programs.trial import Trial, try_together
from pyro_vae.runtime import private_seed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A model and its guide, and how their particles and data are laid out.

    Attributes:
        model, guide: the programs.
        nesting: batch dimensions of their own plates, :func:`~pyro_vae.programs.traces.plate_dims`.
        repeated: particles are no plate; each datum is repeated instead.
        alone: each datum is run in a batch of its own.
        num_data: how many data share what is outside the data plate; None: those of a batch.
        data_plates: names of the plates over the data; None: those of the data sites.
        left_out: factors of the guide that are no part of its density.
        sums: latent sites that are summed over.
        averaged: sites of the guide that have a decaying average as baseline.
        point_masses: continuous latents at which the guide has a point mass.
        doubts: sentences for results.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    nesting: int = 1
    repeated: bool = False
    alone: bool = False
    num_data: int | None = None
    data_plates: frozenset[str] | None = None
    left_out: frozenset[str] = frozenset()
    sums: Sums = NOTHING
    averaged: frozenset[str] = frozenset()
    point_masses: tuple[str, ...] = ()
    doubts: tuple[str, ...] = field(default=())

    def traces(
        self,
        batch: Mapping[str, Any],
        num_particles: int = 1,
        rewrite: Callable[[Trace], Trace] | None = None,
        args: tuple[Any, ...] = (),
    ) -> TracePair:
        """Trace the guide, and the model replayed against it, with so many particles of each datum.

        A model that the guide has run itself on the way is not run again (:mod:`pyro_vae.programs.once`), unless the
        trace is rewritten or latents are summed over.

        Args:
            batch: what both are called with, by name.
            num_particles: K, in one plate left of the programs' own.
            rewrite: makes from the guide's trace the one that the model is replayed against; None: it is that.
            args: what both are called with by position.

        Raises:
            InputError: if the model has no data plate, or a latent site is in one program only.
        """
        copies, given = num_particles if self.repeated else 1, batch
        args, batch = repeated_arguments(args, batch, copies)
        in_plate, nesting = num_particles // copies, self.nesting
        programs = [in_particle_plate(p, in_plate, -(nesting + 1)) for p in (self.model, self.guide)]
        programs = list(with_all_values(*programs, self.sums, nesting))
        alike = rewrite is None and not self.sums and isinstance(self.model, nn.Module)
        once = OneRun(self.model) if alike else None
        model, guide = map(prune_subsample_sites, traced_pair(*programs, args, batch, rewrite, once))
        check_sites(model, guide, self.sums.model)
        frame = data_frame(model)
        size = frame.size // copies
        full_size = size * (frame.full_size or frame.size) / frame.size
        if in_plate == 1 and not self.sums:
            nesting = max(nesting, plate_dims(model, guide))
        how = self.num_data, self.data_plates, self.left_out, self.sums, given
        return TracePair(model, guide, num_particles, -(nesting + 1), size, full_size, copies, *how)

    def drawn(self) -> Pair:
        """The same pair, with what the guide enumerates drawn by it: for what looks at draws."""
        return replace(self, sums=Sums(self.sums.model))

    def batch_size(self, wanted: int) -> int:
        """How many data may be run together, of so many that might."""
        return 1 if self.alone else max(1, wanted)

    def refuse_point_masses(self) -> None:
        """Refuse a guide that is a point mass at a continuous latent: its weights are no bound on p(x).

        Raises:
            InputError: names the site.
        """
        if self.point_masses:
            raise InputError(
                f"latent site '{self.point_masses[0]}': the guide has a point mass at a continuous latent, so that "
                "log p(x, z) at that point would be taken for a bound on log p(x), which it is not. Give the guide a "
                "density (dist.Normal(loc, scale)), or measure with ais(..., start='prior')"
            )


def examine(
    model: Program,
    guide: Program,
    batch: Batch,
    *,
    vectorize: bool = True,
    num_data: int | None = None,
    bounds: bool = True,
    training: bool = False,
    traces: tuple[Trace, Trace] | None = None,
    unlike: Batch | None = None,
) -> Pair:
    """Look at a pair once on a few data: whether its weights make a bound, and what may be run together.

    Args:
        model, guide: programs, run in evaluation mode.
        batch: two data (or the only one).
        vectorize: particles in a plate, if that gives the same numbers; False: each datum is repeated.
        num_data: how many data there are in all.
        bounds: whether the guide's density matters (not if it is not looked at).
        traces: of the model and the guide on those data, from checks that were made before.
        training: a batch may matter as a whole then (its statistics).
        unlike: two data that differ much, with which data together are tried against one by one; else those of batch.

    Raises:
        InputError: names the site where the weights are no bound; or says why the programs cannot be run.
    """
    with private_seed(0, next(iter(batch.values())).device):
        model_trace, guide_trace = traces or prime(model, guide, batch)
        pruned = [prune_subsample_sites(trace.copy()) for trace in (model_trace, guide_trace)]
        sums = summed_sites(*pruned)
        check_sites(*pruned, sums.model)
        data_frame(model_trace)
        with evaluation_mode(model, guide), torch.no_grad():
            found = check_bound(model_trace, guide, guide_trace, batch) if bounds else None
            nesting = plate_dims(model_trace, guide_trace)
            if sums:
                first = {name: value[:1] for name, value in batch.items()}
                check_terms(lambda: Pair(model, guide, nesting, sums=sums).traces(first), sums, *pruned)
            trial = try_together(model, guide, unlike or batch, nesting, sums)
    observed = [site for site in pruned[0].nodes.values() if is_observed(site)]
    how = {
        "num_data": num_data,
        "data_plates": trial.data_plates or None,
        "left_out": found.left_out if found else frozenset(),
        "sums": sums,
        "averaged": frozenset(n for n, s in pruned[1].nodes.items() if s["type"] == "sample" and averaged(s)),
        "point_masses": tuple(found.point_masses) if found else (),
        "doubts": (*of_functions(map(density_of, observed)), *(found.doubts if found else ())),
    }
    repeated, alone = (False, False) if training and not trial.together else _chosen(trial, vectorize)
    return Pair(model, guide, nesting, repeated, alone, **how)


def tried(
    model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: Batch, several: bool
) -> Pair:
    """A pair that is called directly, as by plain SVI: how it is to be run.

    Args:
        model, guide: modules or functions.
        args, kwargs: what they are called with, tensors with the data first among them.
        several: whether there are several particles.
    """
    programs = as_programs(model, guide)
    target = model.forward if isinstance(model, nn.Module) else model
    given = {**inspect.signature(target).bind_partial(*args).arguments, **kwargs}
    batch = {name: value for name, value in given.items() if isinstance(value, Tensor) and value.dim()}
    device = next((value.device for value in batch.values()), None)
    with private_seed(0, device), torch.no_grad(), evaluation_mode(*programs):
        with module_parameters(model, guide), ParamStatements(ParameterStore()):
            traces = [prune_subsample_sites(trace) for trace in traced_pair(model, guide, args, kwargs)]
            sums, shared = summed_sites(*traces), shared_sites(*traces, data_plates(traces[0]))
            check_baselines(traces[1], sums.names, shared)
        nesting = plate_dims(*traces)
        if not several or not batch or len(batch) < len([v for v in given.values() if v is not None]):
            return Pair(model, guide, nesting, sums=sums)
        trial = try_together(*programs, {name: value[:2] for name, value in batch.items()}, nesting, sums)
    repeated = _chosen(trial, True)[0] if trial.together else False  # in training a batch may matter as a whole
    return Pair(model, guide, nesting, repeated, data_plates=trial.data_plates or None, sums=sums)


def _chosen(trial: Trial, vectorize: bool) -> tuple[bool, bool]:
    """Whether particles are repeated data, and whether data are run alone."""
    if not trial.together:
        if not trial.one_in_plate:
            raise InputError(
                f"the programs look at the whole batch ({trial.reason}), and not at one datum after another: neither "
                "many data nor many particles of one give the numbers of one. Compute each datum from its own row, "
                "with operations on the last dimensions (dim=-1) and networks.apply_batched around networks that take "
                "one batch dimension"
            )
        logger.warning("data are run one by one, for the programs look at the whole batch: %s", trial.reason)
        return False, True
    if not trial.plate and vectorize:
        logger.warning(
            "particles are run as further data, not in a plate: %s. A plate is faster: operations on the last "
            "dimensions (dim=-1), and networks.apply_batched around networks that take one batch dimension",
            trial.reason,
        )
    return not (trial.plate and vectorize), False
