"""How near the best of several draws given a context comes to the datum, and how much the draws differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import DataLike, Pictures, Split
from pyro_vae.errors import InputError, NotApplicable, positive
from pyro_vae.evaluation.generate import draw
from pyro_vae.evaluation.results import Result, mean_and_error, metric, not_finite
from pyro_vae.programs.context import X, needed_to_generate
from pyro_vae.programs.program import Batch, Program, as_program
from pyro_vae.programs.session import as_split, generated, in_evaluation
from pyro_vae.programs.sites import is_discrete, kept
from pyro_vae.runtime import derived_seed


@dataclass
class BestOfDraws(Result):
    """Errors of draws given a datum's context: root mean squares over its numbers, in the data's unit.

    Attributes:
        errors: of each draw, ascending, ``(num_data, num_draws)``, float64.
        variance: of the draws around their mean, a mean over a datum's numbers, ``(num_data,)``; of one draw NaN.
        unit: of what the errors are in.
        split: the name of the data.
    """

    errors: Tensor
    variance: Tensor
    unit: str = "units of x"
    split: str = "data"

    @property
    def num_draws(self) -> int:
        """N, draws of each datum."""
        return self.errors.shape[1]

    def best_of(self, n: int) -> Tensor:
        r"""The expected error of the best of n draws, of each datum ``(num_data,)``.

        .. math:: \sum_i e_{(i)} \binom{N - i}{n - 1} \Big/ \binom{N}{n}

        over the ordered errors: the mean over all choices of n of the N draws, without bias.

        Raises:
            InputError: if n is not from 1 to N.
        """
        total = self.num_draws
        if not 1 <= positive("n", n) <= total:
            raise InputError(f"the best of {n} draws is not to be had of {total}")
        weights = torch.tensor([math.comb(total - i, n - 1) / math.comb(total, n) for i in range(1, total + 1)])
        return (self.errors * weights.double()).sum(1)

    @property
    def counts(self) -> list[int]:
        """The n of which results tell: 1, 2, 4, … and N."""
        return [*(2**i for i in range(self.num_draws.bit_length()) if 2**i < self.num_draws), self.num_draws]

    @property
    def rows(self) -> dict[str, str]:
        """Means over data and their standard errors."""
        found = {
            f"error of the best of {n} draws" if n > 1 else "error of a draw": self.best_of(n) for n in self.counts
        }
        if self.num_draws > 1:
            found["deviation of draws"] = self.variance.sqrt()
        return {label: "{:.4f} +- {:.4f}".format(*mean_and_error(value)) for label, value in found.items()}

    def arrays(self) -> dict[str, Tensor]:
        """The numbers of each datum, ``(num_data,)`` each."""
        return {f"best_of_{n}": self.best_of(n) for n in self.counts} | {"variance": self.variance}

    @property
    def warnings(self) -> list[str]:
        """Which data have errors that are not finite."""
        return not_finite(self.errors.sum(1), "error of draws", "")

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values."""
        of_all = {n: mean_and_error(self.best_of(n)) for n in self.counts}
        return {
            "best_of": {str(n): mean for n, (mean, _) in of_all.items()},
            "best_of_standard_error": {str(n): error for n, (_, error) in of_all.items()},
            "variance": mean_and_error(self.variance)[0],
            "variance_standard_error": mean_and_error(self.variance)[1],
            "num_draws": self.num_draws,
            "num_data": len(self.errors),
            "unit": self.unit,
            "split": self.split,
        }


def best_of_draws(
    model: Callable[..., Any],
    data: DataLike,
    num_draws: int = 8,
    *,
    pictures: Pictures | None = None,
    site: str | None = None,
    batch_size: int = 500,
    seed: int = 0,
) -> BestOfDraws:
    r"""How near to a datum the best of N draws given its context comes, and how much the draws differ.

    .. math:: e_i = \sqrt{\tfrac1D \lVert \hat x_i - x \rVert^2}, \quad \hat x_i = E[x | z_i, c],
        \quad z_i \sim p(z | c), \quad i = 1 \dots N

    A model that answers by a mean alone (without latents) has N equal draws. One whose draws are of the right kinds, M
    equally probable ones, hits the datum's with probability 1 - (1 - 1/M)^n by n draws. It is no likelihood: the
    datum is looked at to choose.

    Args:
        model: a generative program with context and real data.
        data: as for :func:`~pyro_vae.evaluation.log_likelihood`, with the context.
        num_draws: N.
        pictures: of the data: errors and variance are then of the pictures (RGB from 0 to 1), rather than of x.
        site: the data site; found, if None.
        batch_size: draws made at once, of all data together.
        seed: of the draws, which also depend on ``batch_size``.

    Raises:
        InputError: for numbers that are not positive, data of which parts are missing or masked, or that are no real
            numbers, and as :func:`~pyro_vae.evaluation.sample`.

    Source: Deshpande et al. 2017, arXiv:1612.01958 ("error-of-best", "variance").

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.evaluation import best_of_draws
        >>> model = pyro_vae.models.FieldVAE((2, 8, 8), (1, 8, 8), latent_dim=3, channels=(8, 12), context_dim=10)
        >>> data = {"x": torch.randn(5, 2, 8, 8), "image": torch.rand(5, 1, 8, 8)}
        >>> found = best_of_draws(model, data, num_draws=4)
        >>> bool((found.best_of(4) <= found.best_of(1)).all())
        True
    """
    positive("num_draws", num_draws), positive("batch_size", batch_size)
    program = as_program(model)
    split = as_split(data, program).fixed()
    _check_real(program, split, site)
    errors, variances = [], []
    for i, batch in enumerate(split.batches(max(1, batch_size // num_draws))):
        how = {"site": site, "batch_size": batch_size, "seed": derived_seed(seed, "draws", i)}
        drawn = draws_given(program, batch, num_draws, **how)  # (N, n, ...)
        x = batch[X].cpu()
        if bool(x.isnan().any()):
            raise InputError(f"{split.name}: errors of draws are of data without missing entries")
        if drawn.shape[1:] != x.shape:
            raise InputError(f"the model draws {tuple(drawn.shape[2:])}, and one x has shape {tuple(x.shape[1:])}")
        if pictures is not None:
            context = {name: value.cpu() for name, value in batch.items()}
            drawn, x = pictures.images(drawn, context), pictures.images(x, context)
        drawn, x = drawn.double().flatten(2), x.double().flatten(1)  # (N, n, D), (n, D)
        errors.append((drawn - x).square().mean(2).sqrt().T.sort(1).values)
        variances.append(drawn.var(0).mean(1) if num_draws > 1 else drawn.new_full((len(x),), math.nan))
    unit = "units of x" if pictures is None else "units of the pictures, which are from 0 to 1"
    return BestOfDraws(torch.cat(errors), torch.cat(variances), unit, split.name)


@metric
def draws_given_context(model: Callable[..., Any], split: Split, seed: int) -> BestOfDraws:
    """Of every model that is given real numbers, such as an image: 8 draws of each datum."""
    program = as_program(model)
    given = [name for name in needed_to_generate(program, split.keys) if name in split.keys]
    if not any(split.batch(slice(0, 1))[name].is_floating_point() for name in given):
        raise NotApplicable("the model is given no real numbers")
    try:
        _check_real(program, split, None)
    except InputError as error:
        raise NotApplicable(str(error)) from error
    return best_of_draws(program, split, seed=seed)


def _check_real(program: Program, split: Split, site: str | None) -> None:
    with in_evaluation([program], split.batch(slice(0, 1)), seed=0) as rows:
        trace, found = generated(program, 1, rows, site)
    node = trace.nodes[found]
    if is_discrete(node["fn"]) is not False or kept(node) is not None:
        raise InputError(
            f"errors of draws are of real numbers, all of which the model draws: site '{found}' is of others"
        )


def draws_given(
    model: Callable[..., Any],
    batch: Batch,
    num_draws: int,
    *,
    site: str | None = None,
    batch_size: int = 500,
    seed: int = 0,
) -> Tensor:
    """Several draws of each datum's context: means of p(x | z, c) with z ~ p(z | c).

    Args:
        model: a generative program.
        batch: the context, and what else the data have, ``(n, ...)`` each.
        num_draws, site, batch_size, seed: as for :func:`best_of_draws`.

    Returns:
        ``(num_draws, n, *event)``, on the CPU.
    """
    program, n = as_program(model), len(next(iter(batch.values())))
    wanted = {name: batch[name] for name in needed_to_generate(program, batch) if name in batch}
    repeated = {name: value.repeat(num_draws, *(1,) * (value.dim() - 1)) for name, value in wanted.items()}
    mean = draw(program, n * num_draws, seed=seed, site=site, batch=repeated, batch_size=batch_size).mean
    return mean.view(num_draws, n, *mean.shape[1:])
