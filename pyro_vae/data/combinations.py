"""Which combinations of objects are kept from training, and scenes drawn with and without them."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.data.parts import PARTS, SPLIT_SEED
from pyro_vae.data.scenes import ABOVE, GRID, LEFT_OF, PLACES

GRIDS_PER_PAIR = 3  # scenes of four objects to every one of two
FEWEST = 8  # objects: with fewer there are hardly any scenes of four for training


def combinations(num_objects: int) -> Tensor:
    """To which part of the data each combination belongs: an ordered pair of objects with a relation.

    Entry (r, a, b) is of "a left of b" (r = 0) or "a above b" (r = 1): 0 for training, 1 for validation, 2 for test. An
    eighth of the combinations is for test, a sixteenth for validation (at least one per object and role), such that
    every object is as often the first and the second of a held-out combination of each relation as any other.

    Returns:
        int64 ``(2, num_objects, num_objects)``; the diagonal, which no scene has, is 0.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    for_test, for_validation = max(1, round(num_objects / 8)), max(1, round(num_objects / 16))
    part = torch.zeros(2, num_objects, num_objects, dtype=torch.long)
    places = torch.arange(num_objects)
    for relation in (LEFT_OF, ABOVE):
        circle = torch.randperm(num_objects, generator=generator)
        steps = torch.randperm(num_objects - 1, generator=generator) + 1  # of those on a circle: a and the s-th after
        for place, step in enumerate(steps[: for_test + for_validation].tolist()):
            part[relation, circle, circle[(places + step) % num_objects]] = 2 if place < for_test else 1
    return part


def draw_scenes(num_objects: int, num_train: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Draw scenes, the same ones for the same arguments.

    Training: ``num_train`` scenes, a quarter of two objects and the others of four, all different within a scene;
    none has a held-out combination, neither as the two objects of a scene nor as neighbours among four.
    Validation and test: each of their combinations as a scene of two, and three times as many different scenes of four
    which have at least one of them, and none of the other part's.

    Returns:
        by part: layout int64 ``(N,)`` and objects int64 ``(N, 4)``, -1 where there are two.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    part, drawn = combinations(num_objects), {}
    for place, name in enumerate(PARTS):
        pairs = _pairs(part, place)
        if name == "train":
            few = num_train // (1 + GRIDS_PER_PAIR)
            pairs = pairs[torch.randint(len(pairs), (few,), generator=generator)]
            grids = _grids(part, place, num_train - few, generator)
        else:
            grids = _grids(part, place, GRIDS_PER_PAIR * len(pairs), generator)
        scenes = torch.cat([pairs, grids])[torch.randperm(len(pairs) + len(grids), generator=generator)]
        drawn[name] = scenes[:, 0], scenes[:, 1:]
    return drawn


def _pairs(part: Tensor, place: int) -> Tensor:
    """All combinations of one part, ``(n, 1 + 4)``: relation, objects."""
    different = ~torch.eye(part.shape[1], dtype=torch.bool)
    found = ((part == place) & different).nonzero()  # (n, 3)
    return torch.cat([found, found.new_full((len(found), PLACES - 2), -1)], 1)


def _grids(part: Tensor, place: int, count: int, generator: torch.Generator) -> Tensor:
    """Scenes of four of one part, ``(count, 1 + 4)``; those of validation and test all different."""
    found = torch.empty(0, PLACES, dtype=torch.long)
    while len(found) < count:
        some = torch.rand(4 * count, part.shape[1], generator=generator).argsort(1)[:, :PLACES]  # all different
        a, b, c, d = some.unbind(1)
        beside = part[LEFT_OF, a, b], part[LEFT_OF, c, d], part[ABOVE, a, c], part[ABOVE, b, d]
        neighbours = torch.stack(beside, 1)  # (4 * count, 4)
        fits = ((neighbours == 0) | (neighbours == place)).all(1) & (neighbours == place).any(1)
        found = torch.cat([found, some[fits]])
        if place:
            found = _different(found)
    return torch.cat([found.new_full((count, 1), GRID), found[:count]], 1)


def _different(rows: Tensor) -> Tensor:
    """The rows without repetitions, in their order."""
    _, which = rows.unique(dim=0, return_inverse=True)
    first = torch.full((int(which.max()) + 1,) if len(rows) else (0,), len(rows))
    first.scatter_reduce_(0, which, torch.arange(len(rows)), "amin")
    return rows[first.sort().values]
