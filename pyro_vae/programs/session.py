"""Running a pair to measure it: evaluation mode, checked data, a private seed, nothing left behind."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pyro
import torch
from pyro.poutine import Trace
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.data import DataLike, Split, held_out
from pyro_vae.data.dataset import is_parts
from pyro_vae.data.tensors import as_real
from pyro_vae.errors import InputError
from pyro_vae.programs.ancestral import step_by_step
from pyro_vae.programs.checks import check_context, check_data, check_present, check_whole, data_type, two_unlike
from pyro_vae.programs.context import X, data_argument, needed_to_generate, required_names, takes
from pyro_vae.programs.data_sites import data_site, join_steps, observed_data, same_numbers, site_of_run
from pyro_vae.programs.enumeration import summed_sites
from pyro_vae.programs.pair import Pair, examine
from pyro_vae.programs.program import Program, as_programs, evaluation_mode, prime, real_type
from pyro_vae.programs.sites import is_factor, mean_of
from pyro_vae.programs.traces import check_sites, is_deterministic, is_observed, traced
from pyro_vae.runtime import as_device, check_seed, private_seed

logger = logging.getLogger(__name__)
Known = TypeVar("Known")


@contextmanager
def evaluating(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    seed: int,
    device: str | torch.device | None = None,
    *,
    vectorize: bool = True,
    bounds: bool = True,
) -> Iterator[tuple[Pair, Split]]:
    """A pair in evaluation mode without gradients, examined, and the data beside it on the device.

    Modes and random states are put back at the end. Of :class:`~pyro_vae.data.Data` the test part is taken, or the
    validation part. Dynamic binarization is drawn once.

    Args:
        model, guide: Pyro programs.
        data: what to evaluate on.
        seed: of all draws inside the block.
        device: where to; the programs' own if None.
        vectorize: particles in a plate, if the programs give the same numbers so; False: each datum is repeated.
        bounds: whether the guide's density is used, and so is to be the density of what it draws.

    Raises:
        InputError: for an unknown device or one that is not here, and what is no seed; if the data are not in the
            support of the model's likelihood, a program subsamples a plate, or the weights of the pair are no bound
            (:func:`pyro_vae.programs.bounds.check_bound`).
    """
    check_seed(seed)
    target = None if device is None else as_device(device)
    programs = as_programs(model, guide)
    split = held_out(named(data, model)).fixed()
    _check_numbers(split, *programs)
    known = {name for program in programs for name in program.store.names}
    parameter = next((p for program in programs for p in program.parameters()), None)
    target = parameter.device if target is None and parameter is not None else target
    split = split.to(target or split.device)
    for program in programs:
        program.to(split.device)
    split = split.to(split.device, data_type(*programs, split))
    with evaluation_mode(*programs), torch.no_grad(), private_seed(seed, split.device):
        traces = check_data(*programs, split)
        for trace in traces:
            check_whole(trace, min(2, len(split)))
        _warn_of_initial_values({name for p in programs for name in p.store.names} - known)
        how: dict[str, Any] = {"vectorize": vectorize, "num_data": len(split), "bounds": bounds, "traces": traces}
        with evaluation_mode(*programs):  # with the modules that they have been found to use
            pair = examine(*programs, split.batch(slice(0, 2)), unlike=two_unlike(split), **how)
            with pyro.validation_enabled(False):
                yield pair, split


def anything_to_draw(pair: Pair, split: Split) -> bool:
    """Whether a guide has random latents; if not, one particle is as good as many. Uses no random numbers."""
    with private_seed(0, split.device):
        return not is_deterministic(pair.traces(split.batch(slice(0, 1))))


def _warn_of_initial_values(names: set[str]) -> None:
    """Plain functions' ``pyro.param`` values live in what training returned, not in the functions."""
    if names:
        logger.warning(
            "pyro.param %s: evaluated at initial values; after training, evaluate result.model and result.guide",
            ", ".join(sorted(names)),
        )


@contextmanager
def in_evaluation(programs: Sequence[Program], batch: Mapping[str, Tensor], seed: int) -> Iterator[dict[str, Tensor]]:
    """Evaluation mode, no gradients, and a random state of its own; all is put back afterwards.

    Args:
        programs: their modules' training flags are restored one by one.
        batch: moved to the device of the programs' parameters, and to their type.
        seed: of the CPU's generator and of the devices' that are used.

    Yields:
        the batch on the programs' device.

    Raises:
        InputError: for what is no seed; if the batch holds context that a program says it does not take.
    """
    check_seed(seed)
    tensors = [t for program in programs for t in (*program.parameters(), *program.buffers())]
    if tensors:
        batch = {name: value.to(tensors[0].device) for name, value in batch.items()}
        real = real_type(*programs)
        batch = batch if real is None else {name: as_real(value, real) for name, value in batch.items()}
    used = [*tensors, *batch.values()]
    with private_seed(seed, *(t.device for t in used)), torch.no_grad(), evaluation_mode(*programs):
        for program in programs:
            check_context(program, batch)
        yield dict(batch)


def as_split(data: DataLike, model: Callable[..., Any], *others: Callable[..., Any]) -> Split:
    """Data as a split: of a whole dataset the test part, if it has one; of a batch its entries.

    Args:
        data: the dataset, a split, the tensor x, or a batch, whose x may have the name of the model's data argument;
            int64 are integers by nature.
        model: the program that they are for.
        others: programs that they are handed to as well.

    Raises:
        InputError: as :class:`~pyro_vae.data.Split`; for texts that a program takes, and nothing says which integers.
    """
    if isinstance(data, Tensor | np.ndarray):
        data = {X: data}
    data = named(data, model)
    if isinstance(data, Mapping) and not is_parts(data) and all(isinstance(v, Tensor) for v in data.values()):
        x = data.get(X)
        integers = isinstance(x, Tensor) and x.dtype == torch.int64
        missing = isinstance(x, Tensor) and not bool(
            x.isinf().any()
        )  # whether the model leaves NaN out is checked later
        return Split(data, integers=integers, missing=missing)
    split = held_out(data).fixed()
    _check_numbers(split, model, *others)
    return split


def _check_numbers(split: Split, *programs: Callable[..., Any]) -> None:
    """Refuse texts that were numbered by themselves, where a program would take them for the numbers of training."""
    for name in split.numbered:
        if any(takes(program, name) for program in programs):
            raise InputError(
                f"{split.name}: '{name}' are texts, which would be numbered by those that are here, and maybe not as "
                "in training: give integers (training's log says which), or all parts in one dict, {'train': ..., "
                "'test': ...}"
            )


def named(data: Known, model: Callable[..., Any]) -> Known | dict[str, Tensor]:
    """Data as they are, but of a batch the entry that goes to the model's data argument is called x."""
    if not isinstance(data, Mapping):
        return data
    name = data_argument(model)
    return {X: data[name]} if len(data) == 1 and name in data else as_batch(model, data)


def as_batch(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch whose data are called x, where a caller has given them by the name of the model's data argument."""
    name = data_argument(model)
    if X not in batch and name in batch and data_argument(model, batch) is None:
        return {X if key == name else key: value for key, value in batch.items()}
    return dict(batch)


def check_pair(model: Program, guide: Program, split: Split, *, same_sites: bool = True) -> None:
    """Check data against a pair, as every estimator does: shapes, supports, context.

    What needs the guide alone, or the model without data, goes on with a model that is not to be had with these data.

    Args:
        model, guide: the programs.
        split: the data.
        same_sites: False: a guide that does not have the latent sites of the model is let alone.

    Raises:
        InputError: see :func:`pyro_vae.programs.checks.check_data`.
    """
    check_present(guide, first := split.batch(slice(0, 1)), "guide")
    if any(name not in first for name in needed_to_generate(model, first)):
        return
    tensors = [t for program in (model, guide) for t in (*program.parameters(), *program.buffers())]
    device = tensors[0].device if tensors else split.device
    split = split.to(device)
    split = split.to(device, data_type(model, guide, split))
    if not same_sites and not _same_sites(model, guide, split.batch(slice(0, 1))):
        return
    try:
        check_data(model, guide, split)
    except InputError:
        raise
    except Exception as error:  # the model's own
        logger.debug("data are not checked: the model fails when it is given them (%s)", error)


def _same_sites(model: Program, guide: Program, batch: Mapping[str, Tensor]) -> bool:
    """Whether a guide has the latent sites of a model; True, where that cannot be seen."""
    try:
        with pyro.validation_enabled(False):
            traces = [prune_subsample_sites(trace) for trace in prime(model, guide, batch)]
    except Exception:  # what that is, the check says
        return True
    try:
        check_sites(*traces, summed_sites(*traces).model)
    except InputError:
        return False
    return True


class Generated(NamedTuple):
    """A run of a model without its data.

    Attributes:
        trace: the run; what is observed in it are data that the context holds.
        site: the data site.
    """

    trace: Trace
    site: str


def generated(
    program: Program,
    count: int,
    batch: Mapping[str, Tensor],
    site: str | None = None,
    run: Callable[..., Any] | None = None,
    *,
    looks: Literal["refused", "logged"] = "refused",
) -> Generated:
    """Run a model without its data, for a plate of ``count`` data.

    Its data argument is None. A model that cannot be run so is given rows of data in their stead, if there are any,
    and samples its data site all the same: the rows say how many there are to be, and nothing else. One that looks at
    earlier steps of sequences (teacher forcing) is run step by step, given those that it has drawn.

    Args:
        program: the model.
        count: number of data to generate.
        batch: its other arguments, ``(count, ...)`` each; and ``x``, rows of data, as many as there are.
        site: the data site; found, if None.
        run: what to call in its stead: the program under handlers.
        looks: what becomes of a model that looks at the rows: it is refused, or logged.

    Raises:
        InputError: if the model lacks context that it needs; if it can only be run with data, and there are none or it
            draws other values for other data; if it takes a part of a plate; if the data site is not found.
    """
    data = batch.get(X)
    context = {name: value for name, value in batch.items() if name != X}
    missing = [name for name in needed_to_generate(program, batch) if name not in context]
    if missing:
        raise InputError(f"the model needs {', '.join(missing)} to generate: give it in batch")
    run = run or program
    reason: Exception | None = None
    if takes(program, "num_samples") or any(takes(program, name) for name in context):
        try:
            trace = traced(run, **{**context, X: None, "num_samples": count})
        except InputError:
            raise
        except Exception as error:  # a program that was not written to be run without data may fail in any way
            if data_argument(program, batch) not in required_names(program):
                raise
            reason = error
        else:
            check_whole(trace)
            return Generated(trace, site_of_run(program, trace, context, data, site))
    if data is None:
        raise InputError(
            f"the model cannot be run without data{_told(reason)}: give it an argument num_samples, the size of its "
            "data plate when its data argument is None; or give rows of data to stand in for them, batch={'x': ...}, "
            "which is right if what it draws does not depend on them"
        ) from reason
    rows = data[torch.arange(count, device=data.device) % len(data)]
    run = _WithoutData(context.values())(run)
    trace = traced(run, **context, **{X: rows}, num_samples=count)
    check_whole(trace)
    drawn = {name: node for name, node in observed_data(trace.nodes).items() if not node["is_observed"]}
    if site is None and not drawn:
        others = [name for name, node in trace.nodes.items() if is_observed(node) and not is_factor(node)]
        raise InputError(
            f"the model is given x and does not observe it{', but ' + ', '.join(others) if others else ''}: in a "
            "batch, call what is observed x, and what is only given (context) by another name"
        )
    joined = None if site is not None else join_steps(trace, drawn, rows)
    name = joined or data_site(drawn, rows, site)
    if dependent := _depends_on(run, data, context, count):
        said = f"the model looks at its data (site '{dependent}' is another for other data)"
        if looks == "refused":
            by_steps = None if joined else step_by_step(run, name, rows, context)
            if by_steps is not None:
                return Generated(by_steps, name)
            raise InputError(
                f"{said}, so that it cannot be run without them: let it draw what it looks at where its data argument "
                "is None, with an argument num_samples, the size of its data plate"
            )
        logger.warning("%s: what is made of the latents is made with a view of the data", said)
    return Generated(trace, name)


class _WithoutData(UnconditionMessenger):
    """Draws what is observed, but for what of it is context."""

    def __init__(self, context: Iterable[Tensor]) -> None:
        super().__init__()
        self.context = list(context)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not any(same_numbers(msg["value"], value) for value in self.context):
            super()._pyro_sample(msg)


def _told(reason: Exception | None) -> str:
    return f" ({type(reason).__name__}: {reason})" if reason else ""


def _depends_on(run: Callable[..., Any], data: Tensor, context: Mapping[str, Tensor], count: int) -> str | None:
    """The first site whose value or mean is another for other data, with the same random numbers; None if none is."""

    def drawn(x: Tensor) -> dict[str, Any]:
        with private_seed(0, data.device):
            trace = traced(run, **context, **{X: x}, num_samples=count)
        return {name: node for name, node in trace.nodes.items() if node["type"] == "sample"}

    def same(a: Any, b: Any) -> bool:
        """Draws, means, and the density at one value: draws of classes may agree though their probabilities do not."""
        return (
            _close(a["value"], b["value"])
            and _close(mean_of(a), mean_of(b))
            and _close(_density(a, a["value"]), _density(b, a["value"]))
        )

    rows = data[torch.arange(count, device=data.device) % len(data)]
    first, compared = drawn(rows), False
    unlike = data[(data != rows[:1]).flatten(1).any(1)][:1]  # a datum that is none of the first row
    others = [row.expand_as(rows).clone() for row in (data[:1], data[-1:], unlike) if len(row)]
    for other in (*others, torch.zeros_like(rows)):
        if torch.equal(other, rows):
            continue
        try:
            second = drawn(other)
        except Exception:  # zeros may be no data that the program can take
            continue
        compared = True
        for name in {**first, **second}:
            if name not in first or name not in second or not same(first[name], second[name]):
                return name
    if not compared:
        raise InputError(
            "whether the model looks at its data cannot be told from one datum: give more rows, batch={'x': ...}"
        )
    return None


def _density(node: Any, value: Tensor) -> Tensor:
    """log p of a value, ``(*batch,)``; nan where it cannot be had."""
    try:
        with pyro.validation_enabled(False):
            log_p = node["fn"].log_prob(value)
    except (ValueError, RuntimeError, NotImplementedError):
        return value.new_full((), math.nan, dtype=torch.float64)
    return log_p


def _close(a: Any, b: Any) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape:
        return False
    return torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6, equal_nan=True)
