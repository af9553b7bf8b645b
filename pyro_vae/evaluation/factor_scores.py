"""Scores of a code whose factors are known: mutual information by unit, importances and accuracies of forests, SAP."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import InputError

NUM_BINS = 20  # of equal width, from a unit's least value to its greatest (Locatello et al. 2019)
FOREST = {"n_estimators": 100, "max_features": None, "min_samples_leaf": 10}
DRAWS = 1_000  # of the data, to which each tree of the forest is fitted, at most
TRAINED_ON = 2 / 3  # of the data; classifiers are measured on the others


def mutual_information(units: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    r"""I(z; v) of every latent unit and factor, and the factors' entropies, in nats, of the data's shares.

    .. math:: I(z; v) = \sum_{b, k} p(b, k) \ln \frac{p(b, k)}{p(b) p(k)}

    Args:
        units: real numbers, ``(N, U)``, which are put into 20 bins of equal width from the least to the greatest.
        classes: integers from 0, ``(N, F)``.

    Returns:
        ``(U, F)`` and ``(F,)``, float64.

    Raises:
        InputError: for units that are not finite, no data, and another number of factors' data.
    """
    if len(units) != len(classes) or not len(units):
        raise InputError(f"there are {len(units)} data of latent units and {len(classes)} of factors")
    if not bool(units.isfinite().all()):
        raise InputError("a latent unit is not a finite number for some of the data")
    bins = (from_0_to_1(units) * NUM_BINS).long().clamp(max=NUM_BINS - 1)  # (N, U)
    information = torch.empty(units.shape[1], classes.shape[1], dtype=torch.float64)
    entropy = torch.empty(classes.shape[1], dtype=torch.float64)
    for f, values in enumerate(classes.T):
        _, k = values.unique(return_inverse=True)
        size = int(k.max()) + 1
        entropy[f] = _entropy(k.bincount())
        for u, b in enumerate(bins.T):
            joint = (b * size + k).bincount(minlength=NUM_BINS * size).reshape(NUM_BINS, size)
            information[u, f] = _entropy(joint.sum(1)) + entropy[f] - _entropy(joint.flatten())
    return information.clamp(min=0), entropy


def from_0_to_1(units: Tensor) -> Tensor:
    """Each unit from its least value, 0, to its greatest, 1, ``(N, U)`` float64."""
    low, high = units.double().aminmax(dim=0)
    return (units.double() - low) / torch.where(high > low, high - low, 1.0)


def _entropy(counts: Tensor) -> Tensor:
    """In nats, of shares."""
    p = counts.double() / counts.sum()
    return -torch.special.xlogy(p, p).sum() + 0.0  # no -0.0


def disentangled_and_complete(importance: Tensor) -> tuple[float, float]:
    """Disentanglement and completeness of importances ``(U, F)``, U and F two or more (:func:`disentanglement_of`)."""
    num_units, num_factors = importance.shape
    of_unit, of_factor = importance.sum(1), importance.sum(0)
    rows = torch.where(of_unit[:, None] > 0, importance / of_unit[:, None], 1 / num_factors)
    columns = torch.where(of_factor > 0, importance / of_factor, 1 / num_units)
    each = 1 + torch.special.xlogy(rows, rows).sum(1) / math.log(num_factors)
    complete = 1 + torch.special.xlogy(columns, columns).sum(0) / math.log(num_units)
    weights = of_unit / of_unit.sum() if of_unit.sum() > 0 else torch.full_like(of_unit, 1 / num_units)
    return (weights * each).sum().clamp(min=0).item(), complete.mean().clamp(min=0).item()


def gap(scores: Tensor) -> Tensor:
    """Of each column the difference between its greatest number and the second."""
    best = scores.topk(2, 0).values
    return best[0] - best[1]


def predict(code: np.ndarray, classes: np.ndarray, names: list[str], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Importances ``(U, F)``, accuracies ``(F,)`` of all units, and balanced ones ``(U, F)`` of each."""
    one_tree, forest = scikit_learn()
    order = np.random.default_rng(seed).permutation(len(code))
    first, last = np.split(order, [round(TRAINED_ON * len(code))])
    num_units, num_factors = code.shape[1], classes.shape[1]
    importance, one_unit = np.zeros((num_units, num_factors)), np.zeros((num_units, num_factors))
    accuracy = np.zeros(num_factors)
    random_state = seed % 2**32
    for f, name in enumerate(names):
        known, held_out = classes[first, f], classes[last, f]
        count = len(np.unique(known))
        if count < 2 or not len(last):
            raise InputError(f"factor '{name}': {len(code)} data are too few to predict it; measure more")
        trees = forest(**FOREST, max_samples=min(DRAWS, len(first)), random_state=random_state)
        fitted = trees.fit(code[first], known)
        importance[:, f] = fitted.feature_importances_
        accuracy[f] = (fitted.predict(code[last]) == held_out).mean()
        for u in range(num_units):
            tree = one_tree(max_leaf_nodes=count, class_weight="balanced", random_state=random_state)
            right = tree.fit(code[first, u : u + 1], known).predict(code[last, u : u + 1]) == held_out
            one_unit[u, f] = np.mean([right[held_out == k].mean() for k in np.unique(held_out)])
    return torch.from_numpy(importance), torch.from_numpy(accuracy), torch.from_numpy(one_unit)


def scikit_learn() -> tuple[Any, Any]:
    """Decision trees and forests of them.

    Raises:
        InputError: if scikit-learn is not installed.
    """
    try:
        tree = importlib.import_module("sklearn.tree").DecisionTreeClassifier
        return tree, importlib.import_module("sklearn.ensemble").RandomForestClassifier
    except ImportError as error:
        raise InputError(
            "DCI and SAP are measured with scikit-learn, which is not installed: pip install 'pyro-vae[metrics]'"
        ) from error
