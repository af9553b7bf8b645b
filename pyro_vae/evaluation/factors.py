"""Disentanglement: whether each latent unit goes with one known factor of the data, and each factor with one unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import DataLike, Split
from pyro_vae.data.split import FACTOR
from pyro_vae.errors import InputError, NotApplicable, positive, unknown
from pyro_vae.evaluation.encoding import NO_FREE_SITE, free_sites, mean_path
from pyro_vae.evaluation.factor_scores import (
    NUM_BINS,
    disentangled_and_complete,
    from_0_to_1,
    gap,
    mutual_information,
    predict,
    scikit_learn,
)
from pyro_vae.evaluation.results import Result, metric
from pyro_vae.programs.context import X
from pyro_vae.programs.session import as_split
from pyro_vae.runtime import check_seed

NUM_DATA = 5_000
MOST_UNITS = 500
BIAS = 0.1  # of a factor's entropy: above it a warning


@dataclass
class Disentanglement(Result):
    r"""How latent units and known factors go together.

    Attributes:
        units: names of the U latent units, ``z[3]``.
        factors: names of the F factors.
        information: I(unit; factor) in nats, units in 20 bins, ``(U, F)`` float64.
        entropy: H(factor) in nats, ``(F,)``.
        importance: of each unit for the trees that predict a factor, ``(U, F)``; a factor's add up to one, or are all 0
            if no unit helps.
        accuracy: share of held-out data of which the trees predict a factor rightly from all units, ``(F,)``.
        one_unit: mean over a factor's classes of the share of held-out data that are predicted rightly from one unit
            alone, by thresholds, ``(U, F)``.
        num_data: data of which these numbers are.
        bias: what the information of so few data is too high by, about, as a share of H(factor), ``(F,)``.
    """

    units: tuple[str, ...]
    factors: tuple[str, ...]
    information: Tensor
    entropy: Tensor
    importance: Tensor
    accuracy: Tensor
    one_unit: Tensor
    num_data: int
    bias: Tensor

    @property
    def gap(self) -> Tensor:
        """Of each factor the difference between the greatest and the second information over its entropy, ``(F,)``."""
        return gap(self.information) / self.entropy

    @property
    def mig(self) -> float:
        """Mutual information gap, the mean over factors; 0 … 1."""
        return self.gap.mean().item()

    @property
    def disentanglement(self) -> float:
        """DCI: whether a unit is important for one factor alone; 0 … 1."""
        return disentangled_and_complete(self.importance)[0]

    @property
    def completeness(self) -> float:
        """DCI: whether one unit alone is important for a factor; 0 … 1."""
        return disentangled_and_complete(self.importance)[1]

    @property
    def informativeness(self) -> float:
        """DCI: how often factors are predicted rightly from all units, the mean over factors; 0 … 1."""
        return self.accuracy.mean().item()

    @property
    def sap(self) -> float:
        """Separated attribute predictability: how much worse the second-best unit predicts a factor, a mean; 0 … 1."""
        return gap(self.one_unit).mean().item()

    @property
    def rows(self) -> dict[str, str]:
        """The scores, and of each factor the unit that knows most of it."""
        most = self.information.argmax(0).tolist()
        each = zip(self.factors, most, self.gap.tolist(), self.accuracy.tolist(), strict=True)
        return {
            "MIG": f"{self.mig:.3f}",
            "DCI disentanglement": f"{self.disentanglement:.3f}",
            "DCI completeness": f"{self.completeness:.3f}",
            "DCI informativeness": f"{self.informativeness:.3f} (accuracy)",
            "SAP": f"{self.sap:.3f}",
            **{
                f"factor {name}": f"most in {self.units[u]}, gap {gap:.3f}, accuracy {accuracy:.3f}"
                for name, u, gap, accuracy in each
            },
        }

    @property
    def warnings(self) -> list[str]:
        """For which factors there are too few data."""
        few = [f"{n} ({b:.0%})" for n, b in zip(self.factors, self.bias.tolist(), strict=True) if b > BIAS]
        if not few:
            return []
        return [
            f"the mutual information of {self.num_data} data is too high by more than {BIAS:.0%} of the entropy of "
            f"{', '.join(few)}: MIG takes a difference of two such numbers; measure more data"
        ]

    def to_dict(self) -> dict[str, Any]:
        """The scores, and the matrices by unit and factor."""
        return {
            "mig": self.mig,
            "dci_disentanglement": self.disentanglement,
            "dci_completeness": self.completeness,
            "dci_informativeness": self.informativeness,
            "sap": self.sap,
            "num_data": self.num_data,
            "units": list(self.units),
            "factors": list(self.factors),
            "mutual_information": self.information.tolist(),
            "entropy": self.entropy.tolist(),
            "importance": self.importance.tolist(),
            "accuracy": self.accuracy.tolist(),
            "accuracy_of_one_unit": self.one_unit.tolist(),
            "warnings": self.warnings,
        }


def disentanglement(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    factors: Sequence[str] | None = None,
    sites: Sequence[str] | None = None,
    num_data: int = NUM_DATA,
    seed: int = 0,
) -> Disentanglement:
    """MIG, DCI and SAP of the posterior means of a pair, for data whose factors of variation are known.

    The code of a datum are the guide's means of its real-valued latents, each site's given those before it at their
    means (:func:`~pyro_vae.evaluation.encoding.mean_path`; a distribution without a mean gives a draw). What the scores
    are is said at :func:`disentanglement_of`.

    Args:
        model, guide: the programs.
        data: data with factors; of a whole dataset the test part, else validation.
        factors: names of entries that are the factors: integers ``(N,)``, classes, or a matrix ``(N, A)``, a factor in
            every column. None: the entries ``factor.NAME`` of the data.
        sites: latent sites whose units are looked at, side by side; None: all that are real-valued.
        num_data: at most so many data are used, drawn without replacement.
        seed: which data, and of the trees; the global random state is left as it was.

    Raises:
        NotApplicable: for data without factors or with one alone, and programs without real-valued latents or with
            fewer than two or more than 500 units.
        InputError: for entries that are no classes or not known of all data, a factor that is the same in all of them,
            an unknown entry or site, and without scikit-learn.

    Example:
        >>> import torch, pyro_vae
        >>> from pyro_vae.evaluation import disentanglement
        >>> model = pyro_vae.models.VAE((1, 32, 32), latent_dim=3, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> shapes = pyro_vae.load_data("shapes", limit=300, binarization="threshold").test
        >>> found = disentanglement(model, guide, shapes, factors=["factor.shape", "factor.size"])
        >>> found.information.shape, 0 <= found.mig <= 1
        (torch.Size([3, 2]), True)
    """
    positive("num_data", num_data)
    check_seed(seed)
    split = as_split(data, model, guide)
    names = factor_entries(split, factors)
    scikit_learn()
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:num_data]
    some = split.fixed(order.to(split.device))
    units = latent_units(model, guide, some, sites, seed)
    return disentanglement_of(units, classes_of(some, names), seed=seed)


def factor_entries(split: Split, factors: Sequence[str] | None) -> list[str]:
    """The names of the entries that are factors.

    Args:
        split: the data.
        factors: as for :func:`disentanglement`.

    Raises:
        NotApplicable: if the data have no factors.
        InputError: for an unknown entry, and x.
    """
    if factors is None:
        known = [f"{FACTOR}{name}" for name in split.factors]
        if not known:
            raise NotApplicable(
                f"{split.name}: the data have no known factors, entries 'factor.NAME' of integers (N,); others are "
                "named by factors="
            )
        return known
    if isinstance(factors, str):
        raise InputError(f"factors must be a sequence of names, got the text {factors!r}; did you mean [{factors!r}]?")
    for name in factors:
        if name not in split.columns or name == X:
            raise unknown("entry of the data in factors", name, [n for n in split.columns if n != X])
    return list(factors)


def classes_of(split: Split, names: Sequence[str]) -> dict[str, Tensor]:
    """The factors of data, int64 ``(N,)`` by name; the columns of a matrix ``name[i]``.

    Raises:
        InputError: for what are no integers, and integers below 0, which are not known.
    """
    found: dict[str, Tensor] = {}
    for name in names:
        values, said = split.column(name).cpu(), name.removeprefix(FACTOR)
        if values.is_floating_point() or values.dim() not in (1, 2):
            raise InputError(
                f"{split.name}: factors are classes, integers (N,) or (N, A), but '{name}' is {values.dtype} of shape "
                f"{tuple(values.shape)}; put a continuous one into bins"
            )
        if bool((values < 0).any()):
            raise InputError(f"{split.name}: '{name}' is below 0, not known, for some of the data; leave these out")
        columns = {said: values} if values.dim() == 1 else {f"{said}[{i}]": v for i, v in enumerate(values.T)}
        found |= {key: value.long() for key, value in columns.items()}
    return found


def latent_units(
    model: Callable[..., Any], guide: Callable[..., Any], split: Split, sites: Sequence[str] | None, seed: int
) -> dict[str, Tensor]:
    """The posterior means of real-valued latents, every unit ``(N,)`` by name: ``z[0]``, of a site of one number ``z``.

    Raises:
        NotApplicable: if there is none, or more than 500.
        InputError: for an unknown site.
    """
    free = free_sites(model, guide, split)
    for name in sites or ():
        if name not in free:
            raise unknown("real-valued latent site", name, free)
    if not free:
        raise NotApplicable(NO_FREE_SITE)
    means = mean_path(model, guide, split, seed=seed, sites=free if sites is None else list(sites))
    count = sum(value[0].numel() for value in means.values())
    if count > MOST_UNITS:
        every = ", ".join(f"{name} ({value[0].numel()})" for name, value in means.items())
        raise NotApplicable(f"{count} latent units are more than {MOST_UNITS}: {every}; name some by sites=")
    found = {}
    for name, value in means.items():
        flat = value.reshape(len(value), -1)
        found |= {name if value.dim() == 1 else f"{name}[{i}]": unit for i, unit in enumerate(flat.T)}
    return found


def disentanglement_of(units: Mapping[str, Tensor], factors: Mapping[str, Tensor], *, seed: int = 0) -> Disentanglement:
    r"""MIG, DCI and SAP of a code, whatever made it.

    - MIG: the mean over factors of :math:`(I(z_{(1)}; v) - I(z_{(2)}; v)) / H(v)`, z_(1) and z_(2) the two units with
      the most information on v; of means in 20 bins of equal width, with natural logarithms, as in Locatello et al. (in
      Chen et al. it is of draws of q(z | x)).
    - DCI: with the importance R of each unit for a random forest that predicts a factor from all units (100 trees of
      scikit-learn's, which choose among all units at each split, each of 1,000 draws of the data, leaves of 10 and
      more; in Locatello et al. boosted trees, which give other numbers): disentanglement
      :math:`\sum_u \rho_u (1 - H_F(R_u / \sum_f R_{uf}))` with weights :math:`\rho_u \propto \sum_f R_{uf}`,
      completeness the mean of :math:`1 - H_U(R_f / \sum_u R_{uf})`, H with logarithms to base F and U;
      informativeness: the accuracy.
    - SAP: the mean over factors of the difference between the two best units, by the accuracy (balanced over classes)
      of a factor that is predicted from one unit by as many intervals as the factor has classes (a
      decision tree). In Locatello et al. it is a linear classifier's, which finds no class between others.

    Trees are fitted to two thirds of the data, and accuracies are of the others.

    Args:
        units: real numbers ``(N,)`` by name, two or more.
        factors: classes ``(N,)``, integers, by name, two or more.
        seed: of the parts and the trees.

    Raises:
        NotApplicable: for fewer than two units or factors.
        InputError: for numbers that are not finite, other lengths, a factor that is the same in all data or all those
            that trees are fitted to, and without scikit-learn.

    Source: Chen et al. 2018, arXiv:1802.04942 (MIG); Eastwood & Williams 2018, openreview By-7dz-AZ (DCI); Kumar et al.
    2018, arXiv:1711.00848 (SAP); Locatello et al. 2019, arXiv:1811.12359.

    Example:
        >>> import torch
        >>> from pyro_vae.evaluation import disentanglement_of
        >>> v = torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(50))
        >>> code = {"z[0]": -v[:, 1].float(), "z[1]": v[:, 0].float().exp()}
        >>> found = disentanglement_of(code, {"size": v[:, 0], "x": v[:, 1]})
        >>> round(found.mig, 3), round(found.disentanglement, 3), found.rows["factor size"]
        (1.0, 1.0, 'most in z[1], gap 1.000, accuracy 1.000')
    """
    check_seed(seed)
    if len(units) < 2 or len(factors) < 2:
        few, what = (len(units), "latent unit") if len(units) < 2 else (len(factors), "factor")
        raise NotApplicable(f"disentanglement is of two units and two factors or more, and there is {few} {what}")
    count = len(next(iter(units.values())))
    for name, values in (*units.items(), *factors.items()):
        if tuple(values.shape) != (count,):
            raise InputError(f"'{name}' has shape {tuple(values.shape)}, and the first unit {count} data: (N,) each")
    for name, values in factors.items():
        if values.is_floating_point():
            raise InputError(f"factor '{name}' is {values.dtype}: factors are classes, integers; put it into bins")
    code, classes = torch.stack(list(units.values()), 1), torch.stack(list(factors.values()), 1)
    information, entropy = mutual_information(code, classes)
    for name, nats in zip(factors, entropy.tolist(), strict=True):
        if nats == 0:
            raise InputError(f"factor '{name}' has fewer than two classes in the {len(code)} data: leave it out")
    counts = torch.tensor([len(v.unique()) for v in classes.T], dtype=torch.float64)
    bias = (NUM_BINS - 1) * (counts - 1) / (2 * len(code)) / entropy  # Miller 1955
    predicted = predict(from_0_to_1(code).numpy(), classes.numpy(), list(factors), seed)  # trees are of float32
    return Disentanglement(tuple(units), tuple(factors), information, entropy, *predicted, len(code), bias)


@metric
def disentangled(model: Callable[..., Any], guide: Callable[..., Any], split: Split, seed: int) -> Disentanglement:
    """MIG, DCI and SAP of data whose factors are known."""
    return disentanglement(model, guide, split, seed=seed)
