"""What a model generates: samples, reconstructions, decoded latents; for any pair of Pyro programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.data import DataLike
from pyro_vae.errors import InputError, unknown
from pyro_vae.evaluation.codes import number_of_codes, support_or_none
from pyro_vae.programs.context import X
from pyro_vae.programs.enumeration import drawn_given_data, summed_sites
from pyro_vae.programs.handlers import AtMean, Scaled, Searched, Tempered
from pyro_vae.programs.program import Batch, Program, as_program, as_programs
from pyro_vae.programs.session import as_batch, as_split, check_pair, generated, in_evaluation
from pyro_vae.programs.sites import data_first, in_data_plate, mean_of
from pyro_vae.programs.traces import is_latent, plate_dims, traced
from pyro_vae.runtime import same_random_state


def sample(
    model: Callable[..., Any],
    num_samples: int,
    *,
    seed: int = 0,
    site: str | None = None,
    batch: Batch | None = None,
    batch_size: int = 500,
    scales: Mapping[str, float] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float = 0.0,
    beams: int | None = None,
) -> dict[str, Tensor]:
    """Run the model without data: ``z ~ p(z)``, ``x ~ p(x | z)``.

    Args:
        model: a Pyro program that samples its data site when its data argument is None.
        num_samples: how many data to generate.
        seed: of the draws (which also depend on ``batch_size``); the global random state is left as it was.
        site: the data site; found, if None (:mod:`pyro_vae.programs.data_sites`).
        batch: context that the model is given, ``(num_samples, ...)`` each. ``x``, rows of data, stands in for the data
            of a model that cannot be run without; other models are not given it.
        batch_size: data generated at once.
        scales: factors for the standard deviations of latent sites' priors, by name; the noise stays the same
            (:class:`~pyro_vae.programs.handlers.Scaled`).
        temperature, top_k, top_p, guidance: of sites that can be tempered or guided, such as codes with a learned prior
            and tokens (:class:`~pyro_vae.programs.handlers.Tempered`); 1, None, None, 0: as the model has it.
        beams: of data that are sequences, as for :func:`decode`.

    Returns:
        on the CPU, the value ``(num_samples, *event)`` of every sampled site in the data plate, and as
        ``"<site>.mean"`` the mean of the data site's distribution, ``E[x | z]``; of classes, which have none, the draw;
        of pixels that are drawn one after another, each one's mean given those drawn before it.

    Raises:
        InputError: for non-positive numbers, an unknown site, a site to be scaled that has no scale, a temperature,
            top_k, top_p, guidance or beams that no site has a use for, a context of another length, and a model that
            cannot be run without data, or that looks at what stands in for them.

    Example:
        >>> import torch, pyro_vae
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> drawn = pyro_vae.sample(model, 5)
        >>> {name: tuple(value.shape) for name, value in drawn.items()}
        {'z': (5, 2), 'x': (5, 1, 8, 8), 'x.mean': (5, 1, 8, 8)}
    """
    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance, "beams": beams}
    return draw(
        model, num_samples, seed=seed, site=site, batch=batch, batch_size=batch_size, scales=scales, **how
    ).values


class Drawn(NamedTuple):
    """What :func:`sample` returns, and which site is the data.

    Attributes:
        values: by site name.
        site: the data site.
    """

    values: dict[str, Tensor]
    site: str

    @property
    def mean(self) -> Tensor:
        """``E[x | z]``, ``(num_samples, *event)``."""
        return self.values[f"{self.site}.mean"]


def draw(
    model: Callable[..., Any],
    num_samples: int,
    *,
    seed: int = 0,
    site: str | None = None,
    batch: Batch | None = None,
    batch_size: int = 500,
    scales: Mapping[str, float] | None = None,
    **how: Any,
) -> Drawn:
    """As :func:`sample`, with the name of the data site; how: temperature, top_k, top_p, guidance, beams."""
    for name, number in (("num_samples", num_samples), ("batch_size", batch_size)):
        if number < 1:
            raise InputError(f"{name} must be a positive integer, got {number}")
    given = as_batch(model, batch or {})
    for name, value in given.items():
        if len(value) != num_samples and name != X:
            raise InputError(f"batch: '{name}' has {len(value)} rows, but num_samples is {num_samples}")
    program = as_program(model)
    run = Scaled(scales or {})(program)
    parts: dict[str, list[Tensor]] = {}
    with in_evaluation([program], given, seed) as given:
        for start in range(0, num_samples, batch_size):
            count = min(batch_size, num_samples - start)
            rows = {name: value if name == X else value[start : start + count] for name, value in given.items()}
            with _drawn_so(run, **how) as chosen:
                trace, found = generated(program, count, rows, site, run=chosen)
            _check_latents(scales or {}, trace, found)
            for name, node in trace.nodes.items():
                if is_latent(node) and in_data_plate(node):
                    parts.setdefault(name, []).append(data_first(node["value"], node).cpu())
            parts.setdefault(f"{found}.mean", []).append(mean_of(trace.nodes[found]).cpu())
    return Drawn({name: torch.cat(values) for name, values in parts.items()}, found)  # pyright: ignore[reportPossiblyUnboundVariable]


def reconstruct(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: DataLike,
    *,
    seed: int = 0,
    site: str | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int | None = None,
    at_mean: bool = False,
) -> Tensor:
    """Mean of p(x | z) with z ~ q(z | x): what the model makes of data seen through its latents.

    What is summed over, because the guide does not have it, is drawn from p(. | x, z), exactly.

    The model is run without its data, so a program that looks at earlier parts of x cannot copy them; one that cannot
    be run so is given them, and if it looks at them the log says so. Of classes (integers that are names), which
    have no mean, a draw: integers as well. Of pixels that are drawn one after another
    (:class:`~pyro_vae.likelihoods.PixelCNN`), each one's mean given those *drawn* before it. Of sequences of tokens a
    draw, or the most probable one that a search finds.

    Args:
        model: generative program.
        guide: its guide.
        batch: data, ``(batch, ...)`` each; or the tensor x, or a split.
        seed: of the draws of z, and of x where it has no mean.
        site: the data site; found, if None.
        temperature, top_k, top_p, beams: as for :func:`decode`.
        at_mean: z is no draw, but the mean of q(z | x), site by site (as
            :func:`~pyro_vae.evaluation.encoding.mean_path`).

    Returns:
        ``(batch, *event)``, on the CPU.

    Raises:
        InputError: for an unknown site, a temperature, top_k, top_p or beams that no site has a use for, and data that
            the model cannot have made (of another shape, outside the support of its likelihood).

    Example:
        >>> import torch, pyro_vae
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> pyro_vae.reconstruct(model, guide, x).shape
        torch.Size([20, 1, 8, 8])
    """
    model, guide = as_programs(model, guide)
    split = as_split(batch, model)
    check_pair(model, guide, split)
    with in_evaluation([model, guide], split.batch(slice(None)), seed) as batch:
        with AtMean() if at_mean else nullcontext():
            drawn = _posterior_draws(model, guide, batch)
        with _drawn_so(poutine.replay(model, trace=drawn), temperature, top_k, top_p, beams) as run:
            trace, site = generated(model, len(split), batch, site, run=run, looks="logged")
        return mean_of(trace.nodes[site]).cpu()


@contextmanager
def _drawn_so(
    run: Callable[..., Any],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int | None = None,
    guidance: float = 0.0,
) -> Iterator[Callable[..., Any]]:
    """A program with a temperature at what it draws, or searching what is most probable; afterwards: was there any?"""
    tempered = Tempered(temperature, top_k, top_p, guidance)
    run = tempered(run) if tempered.changes_anything else run
    search = None if beams is None else Searched(beams)
    yield run if search is None else search(run)
    tempered.check()
    if search is not None:
        search.check()


def _posterior_draws(model: Program, guide: Program, batch: Batch) -> Trace:
    """A trace of the guide on data, with draws of what is summed over in the model beside its own."""
    drawn = poutine.trace(guide).get_trace(**batch)
    try:
        with same_random_state(*(value.device for value in batch.values())):
            seen = traced(poutine.replay(model, trace=drawn), **batch)
    except Exception:  # a model that is not to be had with these data, and which is then run without them
        return drawn
    return drawn_given_data(model, drawn, batch, summed_sites(seen, prune_subsample_sites(drawn)), plate_dims(seen))


def decode(
    model: Callable[..., Any],
    values: Mapping[str, Tensor],
    *,
    seed: int = 0,
    site: str | None = None,
    batch: Batch | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int | None = None,
) -> Tensor:
    """Mean of p(x | .) with the given latents held and the others drawn from the model; of classes, a draw.

    Args:
        model: generative program.
        values: latent sites' values, ``(batch, *event)``, as from :func:`pyro_vae.evaluation.encoding.encode`.
        seed: of the draws of the other latents.
        site: the data site; found, if None.
        batch: context that the model is given, ``(batch, ...)`` each; and ``x``, as for :func:`sample`.
        temperature, top_k, top_p: of what is drawn, as for :func:`sample`.
        beams: of data that are sequences, the most probable ones that a search with so many beginnings finds
            (:meth:`~pyro_vae.distributions.Sequences.beam_search`); None: a draw.

    Returns:
        ``(batch, *event)``, on the CPU.

    Raises:
        InputError: for an unknown site, a temperature, top_k, top_p or beams that no site has a use for, a value of
            another event shape, values outside the support of the site's prior, values of different lengths, and a
            model that cannot be run without data, or that looks at what stands in for them.

    Example:
        >>> import torch, pyro_vae
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> pyro_vae.decode(model, {"z": torch.zeros(3, 2)}).shape
        torch.Size([3, 1, 8, 8])
    """
    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "beams": beams}
    trace, found = decoded(model, values, seed=seed, site=site, batch=batch, **how)
    return mean_of(trace.nodes[found]).cpu()


def decoded(
    model: Callable[..., Any],
    values: Mapping[str, Tensor],
    *,
    seed: int = 0,
    site: str | None = None,
    batch: Batch | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int | None = None,
) -> tuple[Trace, str]:
    """As :func:`decode`, with the whole trace of the model and the name of the data site."""
    program = as_program(model)
    count = _length(values)
    given = as_batch(model, batch or {})
    with in_evaluation([program], {**{f"held {n}": v for n, v in values.items()}, **given}, seed) as moved:
        held = {name: moved[f"held {name}"] for name in values}
        rows = {name: moved[name] for name in given}
        with _drawn_so(_Hold(held)(program), temperature, top_k, top_p, beams) as run:
            trace, found = generated(program, count, rows, site, run=run)
        _check_latents(values, trace, found)
        return trace, found


class _Hold(Messenger):
    """Gives sites the values ``(batch, ..., *event)``, with the data dimension moved to where plates want it."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.values:
            return
        value, event = self.values[msg["name"]], tuple(msg["fn"].event_shape)
        if value.dim() <= len(event) or tuple(value.shape[value.dim() - len(event) :]) != event:
            shape = ", ".join(["batch", *map(str, event)])
            raise InputError(
                f"values of latent site '{msg['name']}' must have shape ({shape}), got {tuple(value.shape)}"
            )
        value = value.movedim(0, value.dim() - 1 - len(event))
        support = support_or_none(msg["fn"])
        if support is not None and not bool(support.check(value).all()):
            num_codes = number_of_codes(msg["fn"])
            what = f"lie in the support {support}" if num_codes is None else f"be integers from 0 to {num_codes - 1}"
            raise InputError(
                f"values of latent site '{msg['name']}' must {what}; got {value.min().item():.4g} to "
                f"{value.max().item():.4g} (draws of the guide do: posterior_samples)"
            )
        msg["value"] = value
        msg["done"] = True


def _check_latents(names: Iterable[str], trace: Trace, site: str) -> None:
    """What is said of latent sites must be of sites that are there."""
    latents = [name for name, node in trace.nodes.items() if node["type"] == "sample" and name != site]
    for name in names:
        if name not in latents:
            raise unknown("latent site", name, latents)


def _length(values: Mapping[str, Tensor]) -> int:
    lengths = {name: len(value) for name, value in values.items()}
    if len(set(lengths.values())) != 1:
        text = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "nothing"
        raise InputError(f"the tensors must have one common length, got {text}")
    return next(iter(lengths.values()))
