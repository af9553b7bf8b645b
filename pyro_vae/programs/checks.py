"""Checks of programs and data, made once before work starts and never inside a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import validation_enabled
from pyro.infer.autoguide import AutoGuide, AutoGuideList
from pyro.infer.autoguide.effect import AutoMessenger
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.data import Split
from pyro_vae.data.tensors import check_finite
from pyro_vae.errors import InputError, first_line
from pyro_vae.programs.context import X, declared_context, required_arguments
from pyro_vae.programs.enumeration import summed_sites
from pyro_vae.programs.handlers import LastSite
from pyro_vae.programs.parameters import ParameterStore, ParamStatements, module_parameters
from pyro_vae.programs.program import Batch, Program, evaluation_mode, prime, real_type
from pyro_vae.programs.sites import Site, elementwise, elementwise_support, innermost, inside_support, is_factor, kept
from pyro_vae.programs.traces import data_plates, is_latent, is_observed, plate_dims
from pyro_vae.programs.trial import try_together
from pyro_vae.runtime import peak_bytes, private_seed, same_random_state


def refuse_unamortized(guide: Program, batch: Mapping[str, Tensor]) -> None:
    """Refuse an automatic guide with parameters for each datum, which fit no other batch than the one it saw first.

    Those of latents that all data share, as weights with priors, serve.

    Args:
        guide: not run yet.
        batch: a few data.

    Raises:
        InputError: names the guide's class and the site.
    """
    count, devices = len(next(iter(batch.values()))), [value.device for value in batch.values()]
    for module in guide.modules():
        if isinstance(module, AutoGuideList):
            continue  # has no parameters: its parts do, which are modules of their own
        if isinstance(module, AutoGuide | AutoMessenger) and not isinstance(module.model, AutoGuide):
            statements = ParamStatements(ParameterStore())
            with torch.no_grad(), same_random_state(*devices), module_parameters(guide), statements:
                nodes = poutine.trace(module.model).get_trace(**batch).nodes
            name = next((n for n, site in nodes.items() if is_latent(site) and _grows(site, count)), None)
            if name is not None:
                raise InputError(
                    f"{type(module).__name__} keeps parameters of its own for each datum's '{name}', which fit only "
                    "the data that it saw first: such a guide cannot be trained in batches, or measured on others. "
                    "Write a guide that computes q(z | x) from x (guides.GaussianGuide(model), or a network); an "
                    f"automatic one may serve what all data share: {type(module).__name__}(poutine.block(model, "
                    f"hide=['{name}', …])), called from within that guide"
                )
            if isinstance(module, AutoMessenger):
                raise InputError(
                    f"{type(module).__name__} is an effect handler and no module that can be called with a batch: use "
                    "pyro.infer.autoguide.AutoNormal in its place"
                )


def _grows(site: Site, count: int) -> bool:
    return any(frame.dim == -1 and frame.size == count for frame in site["cond_indep_stack"])


CHUNK = 1000  # data looked at together, at most
CHUNK_BYTES = 4 * 2**20  # that these, or a run of the programs on them, take at most; a datum that takes more is alone


def check_data(model: Program, guide: Program, split: Split) -> tuple[Trace, Trace]:
    """Check that a split's data lie in the support of the model's data sites, and that the programs take the context.

    Runs both programs on two data to find the sites, then looks at all the data in chunks: at the entry of the data
    that a site observes as it is, else (where the program computes what it observes) by running the programs.

    Returns:
        the model's and the guide's trace on the first two data (the only one, if there is one).

    Raises:
        InputError: names the site and its likelihood, or the argument, shows the offending range, and says what would
            be right; or says at which site, with which shapes, a program cannot be run.
    """
    first = split.batch(slice(0, 2))
    for program, who in ((model, "model"), (guide, "guide")):
        check_present(program, first, who)
        check_context(program, first)
    refuse_unamortized(guide, first)
    traces = _primed(model, guide, first)
    sites = {n: s for n, s in traces[0].nodes.items() if is_observed(s) and not is_factor(s)}
    entries = {name: observed_entry(site, first) for name, site in sites.items()}
    computed = {
        n
        for n, s in sites.items()
        if entries[n] is None or _depends_on_parameters(s["fn"].support) or kept(s) is not None
    }
    for name, site in sites.items():
        check_shape(name, site)
        check_support(name, site, site["value"])
    seen, missing = 0, split.missing and any(kept(s) is not None for s in sites.values())
    for batch in split.batches(_data_together(model, guide, first, run=bool(computed))):
        check_finite(batch[X], split.name, seen, missing=missing)  # in the programs' type: 1e300 is no float32
        seen += len(batch[X])
        for name, site in sites.items():
            if name not in computed:
                try:
                    check_support(name, site, batch[entries[name]], entries[name])
                except InputError:
                    if not _in_own_support(model, guide, first, batch, site):
                        raise
        for program in (model, guide):
            check_context(program, batch)
        for name, site in _primed(model, guide, batch)[0].nodes.items() if computed else ():
            if name in computed:
                check_support(name, site, site["value"])
    return traces


def _in_own_support(model: Program, guide: Program, first: Batch, batch: Batch, old: Site) -> bool:
    """Whether data lie in the support that a site has of themselves, and it makes no other number of any datum.

    A program may make a support of the data that it is given, as a multinomial's of ``int(docs.sum(-1).max())`` words,
    of which the density of each document knows nothing. That of a categorical of as many classes does.
    """
    size, name = len(batch[X]), old["name"]
    rows = _data_together(model, guide, first, run=True)
    for part in ({k: v[i : i + rows] for k, v in batch.items()} for i in range(0, size, rows)):
        try:
            traces = _primed(model, guide, part)
            site = traces[0].nodes[name]
            check_support(name, site, site["value"])
        except InputError:
            return False
        outside = ~old["fn"].support.check(site["value"]).movedim(-1, 0)  # (rows, *inner plates)
        if not bool(outside.any()):
            continue
        i = int(outside.nonzero()[0, 0])
        two = {k: torch.cat([first[k][:1], v[i : i + 1]]) for k, v in part.items()}
        pruned = [prune_subsample_sites(trace) for trace in traces]
        with private_seed(0, batch[X].device), evaluation_mode(model, guide):
            trial = try_together(model, guide, two, plate_dims(*pruned), summed_sites(*pruned))
        if not trial.together:
            return False
    return True


def two_unlike(split: Split) -> dict[str, Tensor]:
    """The data of the least and the greatest sum among the first ones, in their order: what alike data would hide.

    A program that looks at a statistic of the whole batch (its greatest number, say) gives two data that have it in
    common what it gives each alone. If there is only one datum, it.
    """
    each = max(1, sum(value.nbytes for value in split.batch(slice(0, 1)).values()))
    some = split.batch(slice(0, max(2, min(CHUNK, CHUNK_BYTES // (2 * each)))))
    sums = some[X].detach().flatten(1).nansum(1, dtype=torch.float64) if some[X].dim() > 1 else some[X].detach()
    places = sorted({int(sums.argmin()), int(sums.argmax())})
    return {name: value[places if len(places) == 2 else slice(0, 2)] for name, value in some.items()}


def data_type(
    model: Program, guide: Program, split: Split, device: torch.device | str | None = None
) -> torch.dtype | None:
    """The type in which a split's floating-point tensors go to programs, so that they fit: as ``load_data`` has files.

    That of the programs' parameters. Programs that have none, or make them when they are first run, are given the data
    as they are, if they can be run on these; else as float32.

    Args:
        model, guide: the programs, on the device.
        split: the data, in whatever type they have.
        device: of the programs; the split's if None.

    Returns:
        float32 or float64; None: as they are.
    """
    real = real_type(model, guide)
    own = {column.dtype for column in split.columns.values() if column.dtype.is_floating_point}
    if real is not None or own <= {torch.float32}:
        return real
    for dtype in (None, torch.float32):
        how = {"integers": split.integers, "missing": split.missing}
        first = Split(split.source.read(slice(0, 2)), **how)
        try:
            _primed(model, guide, first.to(device or split.device, dtype).batch(slice(0, 2)))
        except InputError:
            continue
        return real_type(model, guide) or dtype
    return None


def _data_together(model: Program, guide: Program, first: Batch, *, run: bool) -> int:
    """How many data to look at together, in bounded memory; ``run``: the programs are run on them."""
    size = len(first[X])
    each = 2 * sum(value.nbytes for value in first.values()) / size  # and what a constraint makes of them
    if run:
        each = max(each, peak_bytes(lambda: _primed(model, guide, first)) / size)
    return max(1, min(CHUNK, int(CHUNK_BYTES / max(each, 1))))


def observed_entry(site: Site, batch: Batch) -> str | None:
    """The entry of a batch whose numbers a data site observes, all of them as they are; None: it computes them."""
    value = site["value"]
    for name, entry in batch.items():
        same = isinstance(value, Tensor) and entry.numel() == value.numel() and entry.dtype == value.dtype
        if same and entry.untyped_storage().data_ptr() == value.untyped_storage().data_ptr():
            return name
    return None


def _primed(model: Program, guide: Program, batch: Batch) -> tuple[Trace, Trace]:
    """Traces on a batch; what goes wrong is told by site and shapes."""
    seen = LastSite()
    try:
        with seen, validation_enabled(False):
            return prime(model, guide, batch)
    except InputError:
        raise
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        data = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items())
        line = first_line(error)
        words = _why_by_shapes(_message_of(error)) if "Shape mismatch inside plate" in line else ""
        where = f", at or after site '{seen.name}'" if seen.name else ""
        raise InputError(
            words or f"the programs cannot be run on {data}{where}: {type(error).__name__}: {line}"
        ) from error


def _message_of(error: BaseException) -> Site | None:
    """The site at which a handler of Pyro's raised an error."""
    found, frames = None, error.__traceback__
    while frames is not None:
        message = frames.tb_frame.f_locals.get("msg")
        found = message if isinstance(message, dict) and "fn" in message else found
        frames = frames.tb_next
    return found


def _why_by_shapes(site: Site | None) -> str:
    """What is wrong with a site's shapes, if it is that they do not fit its plates."""
    if site is None:
        return ""
    fn, plates = site["fn"], [f for f in site["cond_indep_stack"] if f.vectorized]
    shape, inner = tuple(fn.batch_shape), len([f for f in plates if f.dim != -1])
    wrong = next((f for f in plates if -f.dim <= len(shape) and shape[f.dim] not in (1, f.size)), None)
    if wrong is None:
        return ""
    events = len(shape) + fn.event_dim - 1 - inner
    return (
        f"site '{site['name']}': its {type(innermost(fn)).__name__} has batch shape {shape} and event shape "
        f"{tuple(fn.event_shape)}, and plate '{wrong.name}' has {wrong.size} at dim {wrong.dim}, where the batch shape "
        f"has {shape[wrong.dim]}. All dimensions of one datum are to be event dimensions: .to_event({events}) for all "
        "but the data dimension"
    )


def check_present(program: Program, batch: Batch, who: str) -> None:
    """Check that a batch has all that a program cannot do without.

    Raises:
        InputError: names what is missing.
    """
    missing = [name for name in required_arguments(program, batch) if name not in batch]
    if missing:
        raise InputError(
            f"the {who} needs {', '.join(missing)}, which the data do not have (they have: {', '.join(batch)})"
        )


def check_context(program: Program, batch: Batch) -> None:
    """Check what of a batch is a program's declared context; a program that declares nothing is not checked.

    Raises:
        InputError: see :meth:`pyro_vae.programs.context.Context.check`.
    """
    for name, context in declared_context(program).items():
        if name in batch:
            context.check(name, batch[name])


def check_shape(name: str, site: Site) -> None:
    """Check that what a site observes has the shape of its distribution, rather than one that broadcasts.

    Raises:
        InputError: names the site and both shapes.
    """
    fn, value = site["fn"], site["value"]
    event = tuple(fn.event_shape)
    given = tuple(value.shape[value.dim() - len(event) :]) if event else ()
    batch = tuple(value.shape[: value.dim() - len(event)])
    plates = [f for f in site["cond_indep_stack"] if f.vectorized]
    sizes = {-f.dim: f.size for f in plates}
    fits = len(batch) <= max(sizes, default=0) and all(
        size == 1 or size == sizes.get(len(batch) - i, 1) for i, size in enumerate(batch)
    )
    if value.dim() < len(event) or given != event or not fits:
        events = len(batch) + len(event) - len(plates)
        raise InputError(
            f"site '{name}' observes values of shape {tuple(value.shape)}, but its {type(innermost(fn)).__name__} has "
            f"batch shape {tuple(fn.batch_shape)} and event shape {event}: data '{name}' have shape "
            f"{tuple(value.shape[1:])} each. Give the distribution that shape (.to_event({events}) for all but the "
            "data dimension), or reshape what is observed"
        )


def check_support(name: str, site: Site, value: Tensor, entry: str | None = None) -> None:
    """Check values against the support of a data site's distribution.

    Args:
        name, site: the site.
        value: its values, or an entry of the data whose numbers are its values.
        entry: the entry's name.

    Raises:
        InputError: see :func:`check_data`.
    """
    support = site["fn"].support
    if entry is not None:  # laid out otherwise, maybe
        support = elementwise_support(site["fn"]) if isinstance(support, constraints.independent) else support
    mask = kept(site) if entry is None else None
    inside = support.check(value) if mask is None else inside_support(site["fn"], value, mask)
    if not bool(inside.all()):
        counted = value if mask is None or mask.shape != value.shape else value[mask]
        raise InputError(_complaint(name, site["fn"], counted, entry or name))


def _depends_on_parameters(support: Any) -> bool:
    """Whether a constraint holds tensors (bounds that differ between data), so that it fits one batch only."""
    return any(isinstance(v, Tensor) and v.numel() > 1 for v in vars(elementwise(support)).values())


def _complaint(name: str, fn: Any, value: Tensor, entry: str) -> str:
    if bool(value.isnan().any()):
        return (
            f"data '{entry}' hold NaN, and site '{name}' does not leave them out: give the model a mask of what is "
            "known (fn.mask(~x.isnan()).to_event(1), as models.TabularVAE has), or fill the entries first"
        )
    fn, low, high = innermost(fn), value.min().item(), value.max().item()
    base = elementwise(fn.support)
    text = (
        f"data '{entry}' (values from {low:.4g} to {high:.4g}) lie outside the support {base} of its likelihood "
        f"{type(fn).__name__}{'' if name == entry else f' at site {name!r}'}"
    )
    if base is constraints.boolean:
        grey = torch.logical_and(value != 0, value != 1).float().mean().item()
        text += (
            f": {100 * grey:.0f}% of the values are neither 0 nor 1. Binarize them (binarization='dynamic', 'static' "
            "or 'threshold'), or choose a likelihood for grey data (Gaussian, Categorical)"
        )
    return text


def check_whole(trace: Trace, size: int | None = None) -> None:
    """Refuse plates of which a run of a program takes a random part.

    Scaled up, such a part makes an unbiased estimate of a log-density, which training may use. Its exponential is no
    unbiased estimate of the density; and without the scale it is the density of fewer data.

    Args:
        trace: of a program.
        size: number of data that it was given, all of which must be in the data plate; None: not looked at.

    Raises:
        InputError: names the site, the plate and the sizes.
    """
    over_data = data_plates(trace) if any(is_observed(site) for site in trace.nodes.values()) else frozenset()
    for site in trace.nodes.values():
        for frame in site["cond_indep_stack"] if site["type"] == "sample" else ():
            if frame.name not in over_data and frame.full_size in (None, frame.size):
                continue  # of a fixed size, that of no data
            whole = size or frame.size if frame.dim == -1 else frame.full_size or frame.size
            if frame.size != whole:
                raise InputError(
                    f"site '{site['name']}': plate '{frame.name}' takes {frame.size} of {whole} at random in every run "
                    "(subsample_size), and no likelihood can be had from a part: let the program take all of them in "
                    f"evaluation (a module: subsample_size={frame.size} if self.training else None)"
                )
