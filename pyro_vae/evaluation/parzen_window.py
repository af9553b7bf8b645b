"""A Gaussian kernel estimate on samples of a model (Parzen window): a figure of papers, and not log p(x)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Data, DataLike, Split
from pyro_vae.errors import InputError, positive
from pyro_vae.evaluation.chunks import MEMORY_BUDGET
from pyro_vae.evaluation.results import PerDatum, nats, not_finite
from pyro_vae.programs.context import X, needed_to_generate
from pyro_vae.programs.data_sites import observed_data
from pyro_vae.programs.program import Program, as_program
from pyro_vae.programs.session import as_split, generated, in_evaluation
from pyro_vae.programs.sites import Site, data_first, innermost, kept, mean_of, mean_or_none
from pyro_vae.programs.traces import traced

FACTORS = tuple(10 ** (-1.5 + 0.125 * i) for i in range(17))  # of the data's standard deviation: 0.03 to 3.2
NARROWEST = 1e-100  # of bandwidths: their squares are numbers yet
BATCH = 500  # samples drawn at once
BYTES = 8 * 4  # of a pair of datum and sample: its distance, and what is made of it


@dataclass
class ParzenEstimate(PerDatum):
    """Log-densities of data under a Gaussian kernel estimate on a model's samples: not log p(x) of the model.

    Attributes:
        per_datum: nats, ``(num_data,)``, float64 on the CPU.
        bandwidth: the kernel's standard deviation, in the units of x.
        num_samples: that the kernels stand on.
        samples: what these are.
        dimensions: numbers of one x.
        candidates: the mean log-density of the validation data by bandwidth, nats; empty if one was given.
        split: the name of the data.
        doubts: what is to be known of these data, sentences.
    """

    per_datum: Tensor
    bandwidth: float
    num_samples: int
    samples: str
    dimensions: int
    candidates: dict[float, float] = field(default_factory=dict)
    split: str = "data"
    doubts: tuple[str, ...] = ()

    @property
    def rows(self) -> dict[str, str]:
        """The mean, and what it is: an estimate on samples."""
        chosen = f", the best of {len(self.candidates)} on validation data" if self.candidates else ", as given"
        return {
            f"Parzen window ({self.num_samples} samples)": nats((self.mean, self.standard_error), 1),
            "which is": f"the log-density of a Gaussian kernel estimate on {self.samples}, not log p(x) of the model",
            "bandwidth": f"{self.bandwidth:.4g}{chosen}",
            "dimensions": str(self.dimensions),
        }

    def arrays(self) -> dict[str, Tensor]:
        """The log-density of each datum."""
        return {"parzen": self.per_datum}

    @property
    def warnings(self) -> list[str]:
        """That it is no likelihood, doubts, and whether the bandwidth is at an end of those tried."""
        found = [
            "a Parzen window estimate ranks models otherwise than log p(x) does, and can prefer copies of cluster "
            "centres to the data themselves (Theis et al. 2016): compare it with the same figure of papers, no more",
            *self.doubts,
            *not_finite(self.per_datum, "kernel estimate's log-density"),
        ]
        if self.candidates and self.bandwidth in (min(self.candidates), max(self.candidates)):
            found.append(
                f"the bandwidth chosen, {self.bandwidth:.4g}, is at the end of those that were tried: give others"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values, nats unless the name says otherwise."""
        return {
            "parzen": self.mean,
            "standard_error": self.standard_error,
            "bandwidth": self.bandwidth,
            "num_samples": self.num_samples,
            "samples": self.samples,
            "dimensions": self.dimensions,
            "candidates": [{"bandwidth": width, "validation": mean} for width, mean in self.candidates.items()],
            "num_data": len(self.per_datum),
            "warnings": self.warnings,
            "split": self.split,
        }


def parzen(
    model: Callable[..., Any],
    data: DataLike,
    *,
    num_samples: int = 10_000,
    bandwidths: Sequence[float] | float | None = None,
    validation: DataLike | None = None,
    draws: bool = False,
    memory_budget: int = MEMORY_BUDGET,
    seed: int = 0,
) -> ParzenEstimate:
    r"""Log-density of data under a Gaussian kernel estimate on samples of a model.

    .. math:: \log \hat p(x) = \log \frac1S \sum_s N(x; \hat x_s, h^2 I), \qquad
        \hat x_s = E[x \mid z_s], \quad z_s \sim p(z)

    h is the one of the bandwidths with the highest mean over the validation data. It is what papers on adversarial
    autoencoders and networks report, of models whose log p(x) they could not have. **It is not log p(x)** of the model:
    in many dimensions it needs more samples than anybody has, and it ranks models by something else. Where
    :func:`~pyro_vae.ais` or a refitted guide (:func:`~pyro_vae.refit_guide`) can be had, they are right.

    Args:
        model: the generative program, one that needs no context.
        data: what is measured; of :class:`~pyro_vae.data.Data` the test part, and the validation part for h.
        num_samples: S. They are kept in memory, and need to fit into half of ``memory_budget``.
        bandwidths: h, in the units of x: several to choose from, or one. None: 17 from 0.03 to 3.2 standard deviations
            of the validation data.
        validation: to choose h with; not needed for one bandwidth.
        draws: samples are draws x ~ p(x | z), in the place of their means.
        memory_budget: bytes that samples and distances may take together.
        seed: of the samples; the global random state is left as it was.

    Returns:
        the log-density of each datum (nats) with mean and standard error over data, and the bandwidth.

    Raises:
        InputError: for several bandwidths without validation data, ones that are not positive; for a model that needs
            context, has no mean of x given z, or leaves out parts of x; for integer data, missing entries, and a budget
            that the samples exceed.

    Source: Breuleux et al. 2011, doi:10.1162/NECO_a_00142; Makhzani et al. 2015, arXiv:1511.05644, table 1; Theis et
        al. 2016, arXiv:1511.01844, section 3.2 (why such figures mislead).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> result = pyro_vae.parzen(model, x, num_samples=100, bandwidths=[0.2, 0.4, 0.8], validation=x)
        >>> result.per_datum.shape, result.bandwidth
        (torch.Size([20]), 0.4)
    """
    positive("num_samples", num_samples), positive("memory_budget", memory_budget)
    if validation is None and isinstance(data, Data):
        validation = data.validation
    widths = _checked(bandwidths)
    tested = _flat(as_split(data, model), "data")
    held_out = None if validation is None else _flat(as_split(validation, model), "validation")
    if held_out is None and (widths is None or len(widths) > 1):
        raise InputError(
            "validation: the bandwidth is chosen on validation data, and there are none: give them, or one bandwidth"
        )
    size = tested.shape[1]
    if held_out is not None and held_out.shape[1] != size:
        raise InputError(f"validation: one x has {held_out.shape[1]} numbers, and of the data {size}")
    if 2 * 8 * num_samples * size > memory_budget:
        raise InputError(
            f"memory_budget {memory_budget} bytes is too small: {num_samples} samples of {size} numbers take "
            f"{8 * num_samples * size}, and may take half of it"
        )
    split = as_split(data, model)
    samples, what = _samples(model, split, num_samples, draws, seed)  # (S, D)
    rows = max(1, int(memory_budget / 2 / (BYTES * num_samples)))
    if widths is None:
        assert held_out is not None
        scale = held_out.std().item()
        if not scale > 0:
            raise InputError(
                "validation: all numbers of x are equal, so that no bandwidth can be told: give bandwidths"
            )
        widths = [factor * scale for factor in FACTORS]
    candidates, doubts = {}, []
    if bool(((tested == 0) | (tested == 1)).all()):
        doubts.append("these x are 0 and 1 alone, and figures of papers are of grey levels: they do not compare")
    if len(widths) > 1:
        assert held_out is not None
        if torch.equal(tested, held_out[: len(tested)]):
            doubts.append("the bandwidth was chosen on the data that are measured, which makes their figure too high")
        means = _log_densities(held_out, samples, widths, rows).mean(1)
        candidates = dict(zip(widths, means.tolist(), strict=True))
        if not any(map(math.isfinite, candidates.values())):
            raise InputError("bandwidths: the validation data have no finite log-density under any: give wider ones")
        widths = [max(candidates, key=lambda width: candidates[width])]
    found = _log_densities(tested, samples, widths, rows)[0]
    return ParzenEstimate(found, widths[0], num_samples, what, size, candidates, split.name, tuple(doubts))


def _checked(bandwidths: Sequence[float] | float | None) -> list[float] | None:
    if bandwidths is None:
        return None
    given = [bandwidths] if isinstance(bandwidths, int | float) else list(bandwidths)
    if not given or not all(isinstance(h, int | float) and NARROWEST <= h < math.inf for h in given):
        raise InputError(f"bandwidths must be one or more positive numbers, {NARROWEST} or more, got {bandwidths}")
    return sorted({float(h) for h in given})


def _flat(split: Split, who: str) -> Tensor:
    """x of all data, ``(num_data, D)`` float64 on the CPU."""
    x = torch.cat([batch[X].cpu() for batch in split.batches(BATCH)])
    if split.integers or not x.is_floating_point():
        raise InputError(f"{who}: x are integers, which are names or counts, and a kernel around them means nothing")
    x = x.flatten(1).double() if x.dim() > 1 else x.double()[:, None]
    if not bool(x.isfinite().all()):
        raise InputError(f"{who}: x has missing or infinite entries, at which a kernel estimate has no value")
    return x


def _samples(model: Callable[..., Any], split: Split, count: int, draws: bool, seed: int) -> tuple[Tensor, str]:
    """Samples of a model, ``(count, D)`` float64 on the CPU, and what they are."""
    program = as_program(model)
    first = split.batch(slice(0, BATCH))
    needed = needed_to_generate(program, first)
    if needed:
        raise InputError(
            f"model: it is given {', '.join(needed)}, and samples for each value of that would be another estimate; a "
            "Parzen window is of a model without context"
        )
    shape, parts = tuple(first[X].shape[1:]), []
    with in_evaluation([program], {X: first[X]}, seed) as batch:
        for start in range(0, count, BATCH):
            trace, site = generated(program, min(BATCH, count - start), batch)
            value, what = _as_samples(trace.nodes[site], draws)
            if tuple(value.shape[1:]) != shape:
                raise InputError(
                    f"model: a sample of '{site}' has shape {tuple(value.shape[1:])}, and one x has {shape}: a kernel "
                    "estimate is of data as the model makes them"
                )
            parts.append(value.flatten(1) if value.dim() > 1 else value[:, None])
    _check_all_has_a_density(program, split, site)  # pyright: ignore[reportPossiblyUnboundVariable]
    return torch.cat(parts), what  # pyright: ignore[reportPossiblyUnboundVariable]


def _as_samples(site: Site, draws: bool) -> tuple[Tensor, str]:
    """Draws of x or means of p(x | z) at a site, ``(count, *event)`` float64 on the CPU, and what they are.

    Raises:
        InputError: if the site has no such.
    """
    name, shown = site["name"], site["infer"].get("_deterministic")
    if shown and draws:
        raise InputError(f"draws: the model draws no x, '{name}' is what it shows in their stead: leave draws out")
    if not draws and (hasattr(innermost(site["fn"]), "mean_along") or mean_or_none(site["fn"]) is None):
        raise InputError(
            f"model: site '{name}', {type(innermost(site['fn'])).__name__}, has no mean given the latents: take draws "
            "of x, draws=True (--draws)"
        )
    value = data_first(site["value"], site) if draws else mean_of(site)
    what = f"'{name}', which the model shows (it has no p(x | z))" if shown else "means of p(x | z)"
    return value.cpu().double(), "draws of x" if draws else what


def _check_all_has_a_density(program: Program, split: Split, name: str) -> None:
    """Refuse data of which the model leaves out numbers, as of steps beyond a sequence's end: a kernel has them all."""
    for rows in split.batches(BATCH):
        with in_evaluation([program], rows, seed=0) as batch:
            sites = observed_data(traced(program, **batch).nodes)
        masks = [kept(site) for key, site in sites.items() if key == name or name not in sites]
        if all(mask is None for mask in masks):
            return
        if not all(mask is None or bool(mask.all()) for mask in masks):
            raise InputError(
                f"model: it leaves out numbers of '{name}' (a mask), such as steps beyond a sequence's end, and a "
                "kernel estimate is of whole x"
            )


def _log_densities(x: Tensor, samples: Tensor, widths: Sequence[float], rows: int) -> Tensor:
    """log of the kernel estimate of each datum, ``(bandwidths, num_data)``, ``rows`` data at a time."""
    centre = samples.mean(0)
    samples, size = samples - centre, x.shape[1]
    squares, found = samples.square().sum(1), []
    for part in x.split(rows):
        part = part - centre
        distance = torch.addmm(squares, part, samples.T, alpha=-2.0)  # (rows, S), |x - s|^2 but for |x|^2
        distance.add_(part.square().sum(1, keepdim=True)).clamp_(min=0.0)
        found.append(torch.stack([(distance * (-0.5 / h**2)).logsumexp(1) for h in widths]))
    norm = [size * math.log(h * math.sqrt(2 * math.pi)) + math.log(len(samples)) for h in widths]
    return torch.cat(found, 1) - torch.tensor(norm, dtype=torch.float64)[:, None]
