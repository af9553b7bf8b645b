"""What the tests of laws share: seeds in blocks, failures that print their program, and comparisons with errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from random_programs import Program, random_program
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.evaluation.results import LogLikelihood

ERRORS = 5.5  # standard errors that an estimate may be off; what is off more is drawn again, with more particles
UNRELIABLE = 0.7  # k-hat above which a standard error says nothing
ROUNDING = 1e-4  # nats, of programs in float32, relative where log p(x) is large


def seeds(first: int, last: int, size: int = 10):
    """Blocks of seeds as parameters of a test; the later ones are for the slow run."""
    return pytest.mark.parametrize("block", [range(i, min(i + size, last)) for i in range(first, last, size)], ids=str)


def each(
    block: Iterable[int],
    law: Callable[[Program], None],
    where: Callable[[Program], bool] = lambda p: True,
    refusals: type[Exception] = InputError,
):
    """Hold every program of a block against a law; all that fail are told, with their source.

    Args:
        block: seeds.
        law: raises where it does not hold.
        where: which programs it is for.
        refusals: what a refusal is; of objectives, which run under Pyro's own checks, these may be the first to refuse.
    """
    failures = []
    for program in map(random_program, block):
        if not where(program):
            continue
        try:
            law(program)
        except refusals as error:
            if program.refusal == "never":
                failures.append(f"refused: {error}\n{program}")
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}\n{program}")
    if failures:
        pytest.fail(f"{len(failures)} of {len(block)} programs:\n\n" + "\n\n".join(failures), pytrace=False)


def check_estimate(
    program: Program, estimate: Callable[[int, int], LogLikelihood], right: Tensor | None = None
) -> None:
    """An estimate of K particles and a seed is of log p(x), as far as its standard error says.

    Args:
        program: whose value it is.
        estimate: of K and a seed.
        right: what it is of; the program's expected value if None.
    """
    right = program.expected if right is None else right
    for num_particles, seed in ((1000, 0), (20_000, 1)):
        result = estimate(num_particles, seed)
        off = result.per_datum - right
        if program.deterministic:
            assert (off.abs() < ROUNDING * (1 + right.abs())).all(), f"off by {off} nats, though nothing is random"
            return
        error = (1 / result.effective_sample_size - 1 / num_particles).clamp(min=0).sqrt()
        limit = ERRORS * error + error**2 + ROUNDING * (1 + right.abs())
        low = (off > -limit) | (result.pareto_k > UNRELIABLE)  # then it may be far below, and says so
        if (low & (off < limit)).all():
            return
    raise AssertionError(f"off by {off} nats, standard errors {error}, k-hat {result.pareto_k}")


def check_mean(found: Tensor, right: Tensor, error: Tensor, what: str) -> None:
    """A mean and its right value, which differ by their joint standard error."""
    limit = ERRORS * error + ROUNDING * (1 + right.abs())
    assert ((found - right).abs() < limit).all(), f"{what}: {found}, right {right}, standard errors {error}"


def repeated(batch: dict[str, Tensor], times: int) -> dict[str, Tensor]:
    """Every datum as often, one after another."""
    return {name: value.repeat_interleave(times, 0) for name, value in batch.items()}


def rows(batch: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """Some data of a batch."""
    return {name: value[index] for name, value in batch.items()}


def joined(results: list[LogLikelihood]) -> LogLikelihood:
    """Results of single data as one."""
    names = ("per_datum", "effective_sample_size", "pareto_k")
    return replace(results[0], **{name: torch.cat([getattr(result, name) for result in results]) for name in names})
