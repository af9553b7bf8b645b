"""Directions of latent space that stand for attributes of the data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.errors import InputError


class AttributeVectors(NamedTuple):
    """A direction per attribute.

    Attributes:
        names: the classes, in order, or the columns of the attribute matrix.
        vectors: ``(attributes, *event)``.
    """

    names: list[int]
    vectors: Tensor


def attribute_vectors(z: Tensor, labels: Tensor) -> AttributeVectors:
    r"""The vector that leads from data without an attribute to those with it.

    .. math:: v_a = E[z \mid a] - E[z \mid \neg a]

    Args:
        z: latents of labelled data, ``(num_data, *event)``.
        labels: integer classes ``(num_data,)``: an attribute for every class that occurs; or 0s and 1s
            ``(num_data, attributes)``: one for every column.

    Raises:
        InputError: for labels of another kind or length, and an attribute that all data have, or none.

    Source: Larsen et al. 2016, arXiv:1512.09300; Hou et al. 2016, arXiv:1610.00291.
    """
    names, has = _indicators(labels)  # (num_data, attributes)
    if len(labels) != len(z):
        raise InputError(f"there are {len(labels)} labels for {len(z)} data")
    has = has.to(z.device, torch.float64)
    count = has.sum(0)
    for name, n in zip(names, count.tolist(), strict=True):
        if n in (0, len(z)):
            who = "all" if n else "none"
            raise InputError(f"attribute {name}: {who} of the {len(z)} data have it, its vector needs both kinds")
    points = z.flatten(1).double() if z.dim() > 1 else z.double()[:, None]
    centred = points - points.mean(0)
    inside = has.T @ centred  # (attributes, dim)
    outside = (1 - has).T @ centred
    vectors = inside / count[:, None] - outside / (len(z) - count)[:, None]
    dtype = z.dtype if z.is_floating_point() else torch.float32
    return AttributeVectors(names, vectors.to(dtype).reshape(len(names), *z.shape[1:]))


def attribute_correlation(vectors: Tensor) -> Tensor:
    r"""Pearson's correlation of attribute vectors over the units of latent space.

    .. math:: R_{ab} = \frac{\langle v_a - \bar v_a,\, v_b - \bar v_b \rangle}{|v_a - \bar v_a| |v_b - \bar v_b|}

    Args:
        vectors: ``(attributes, *event)``; of several sites, flattened and side by side.

    Returns:
        ``(attributes, attributes)``, in [-1, 1], with a diagonal of 1.

    Raises:
        InputError: for fewer than 3 units (the correlation of two numbers is always 1 or -1), and a vector whose units
            are all equal.

    Source: Hou et al. 2016, arXiv:1610.00291.
    """
    if vectors.dim() < 2 or vectors[0].numel() < 3:
        raise InputError(f"correlations need vectors of at least 3 units, got shape {tuple(vectors.shape)}")
    points = vectors.flatten(1).double()
    centred = points - points.mean(1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    if bool((norms <= 1e-12 * points.norm(dim=1, keepdim=True)).any()):
        which = (norms <= 1e-12 * points.norm(dim=1, keepdim=True)).flatten().nonzero()[0].item()
        raise InputError(f"attribute vector {which} is the same in all units: its correlation is not defined")
    unit = centred / norms
    return (unit @ unit.T).clamp(-1, 1).to(vectors.dtype)


def _indicators(labels: Tensor) -> tuple[list[int], Tensor]:
    """Which data have which attribute, ``(num_data, attributes)`` bool, and the attributes' names."""
    if labels.dim() == 1 and not labels.is_floating_point() and labels.dtype != torch.bool:
        classes = labels.unique()
        return classes.tolist(), labels[:, None] == classes
    if labels.dim() == 2 and bool(((labels == 0) | (labels == 1)).all()):
        return list(range(labels.shape[1])), labels == 1
    raise InputError(
        "labels must be integer classes (num_data,) or a matrix (num_data, attributes) of 0s and 1s, got "
        f"{labels.dtype} of shape {tuple(labels.shape)}"
    )
