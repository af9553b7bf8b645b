"""Scenes of one or two objects that can move in several ways, and the exact law of their motions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import unfold

from pyro_vae.errors import InputError

DIRECTIONS = ("right", "down", "left", "up")
SHAPES = ("right triangle", "left triangle", "square", "disc")
COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.2), "blue": (0.2, 0.3, 1.0)}
PROBABILITIES = torch.tensor(  # of the directions, by shape and colour; left and right triangles mirror each other
    [
        [[0.7, 0.0, 0.0, 0.3], [0.5, 0.5, 0.0, 0.0], [0.4, 0.3, 0.0, 0.3]],
        [[0.0, 0.0, 0.7, 0.3], [0.0, 0.5, 0.5, 0.0], [0.0, 0.3, 0.4, 0.3]],
        [[0.5, 0.0, 0.5, 0.0], [0.25, 0.0, 0.25, 0.5], [0.25, 0.25, 0.25, 0.25]],
        [[0.0, 0.2, 0.0, 0.8], [0.0, 0.5, 0.0, 0.5], [0.3, 0.4, 0.3, 0.0]],
    ],
    dtype=torch.float64,
)
DISTANCE = torch.tensor([[8.0, 1.2], [5.5, 0.8], [3.5, 0.6]], dtype=torch.float64)  # mean, deviation: pixels, by colour
NOISE = 0.3  # standard deviation of every displacement, pixels
IMAGE, CELL, OBJECT = 32, 4, 3  # an image's side and a cell's in pixels, an object's in cells
GRID = IMAGE // CELL
ROWS = GRID - OBJECT + 1  # places a side where an object can be
PLACES = ROWS**2
NUM_KINDS = len(SHAPES) * len(COLOURS)
TWO = 0.5  # probability of a second object


class Scenes(NamedTuple):
    """What n images show.

    Attributes:
        kind: of each object, 3 shape + colour, 0 … 11, int64 ``(n, 2)``; -1: there is no second one.
        place: of each object's corner, 6 row + column in cells, int64 ``(n, 2)``, increasing; -1 as for kind.
    """

    kind: Tensor
    place: Tensor


def draw_scenes(count: int, generator: torch.Generator) -> Scenes:
    """One object or two that do not touch, of any kind and at any place alike.

    Args:
        count: n.
        generator: of the draws.
    """
    kind = torch.randint(NUM_KINDS, (count, 2), generator=generator)
    pairs = apart().nonzero()  # (pairs, 2)
    place = pairs[torch.randint(len(pairs), (count,), generator=generator)]
    alone = torch.rand(count, generator=generator) >= TWO
    place[alone, 0] = torch.randint(PLACES, (count,), generator=generator)[alone]
    kind[alone, 1] = place[alone, 1] = -1
    return Scenes(kind, place)


def redrawn(scenes: Scenes, generator: torch.Generator) -> Scenes:
    """Other objects at the same places, of kinds drawn anew.

    Args:
        scenes: n of them.
        generator: of the draws.
    """
    kind = torch.randint(NUM_KINDS, scenes.kind.shape, generator=generator)
    return Scenes(torch.where(scenes.kind >= 0, kind, -1), scenes.place)


def apart() -> Tensor:
    """Which places two objects can be at, a cell or more apart, the first one before the second, bool ``(36, 36)``."""
    place = torch.arange(PLACES)
    row, column = place // ROWS, place % ROWS
    far = ((row[:, None] - row).abs() > OBJECT) | ((column[:, None] - column).abs() > OBJECT)
    return far & (place[:, None] < place)


def draw_images(scenes: Scenes, background: Tensor) -> Tensor:
    """Pictures of scenes, float32 ``(n, 3, 32, 32)`` in [0, 1].

    Args:
        scenes: n of them.
        background: grey level of each, ``(n,)``, at most 0.5.
    """
    side = OBJECT * CELL
    images = background.float().view(-1, 1, 1, 1).repeat(1, 3, IMAGE, IMAGE)
    colours, shapes = torch.tensor(list(COLOURS.values())), _shapes()
    at = torch.arange(side)
    for i in range(2):
        some = (scenes.kind[:, i] >= 0).nonzero()[:, 0]
        kind, place = scenes.kind[some, i], scenes.place[some, i]
        row = (CELL * (place // ROWS))[:, None, None] + at[:, None]  # (n', side, 1)
        column = (CELL * (place % ROWS))[:, None, None] + at  # (n', 1, side)
        inside = shapes[kind // len(COLOURS)].unsqueeze(-1)  # (n', side, side, 1)
        colour = colours[kind % len(COLOURS)][:, None, None]  # (n', 1, 1, 3)
        there = images[some[:, None, None], :, row, column]  # (n', side, side, 3)
        images[some[:, None, None], :, row, column] = torch.where(inside, colour, there)
    return images


def read_scenes(images: Tensor) -> Scenes:
    """What images show: the inverse of :func:`draw_images`.

    Args:
        images: float ``(n, 3, 32, 32)``.

    Raises:
        InputError: for images of another size, and those that are no such scenes.
    """
    if images.dim() != 4 or tuple(images.shape[1:]) != (3, IMAGE, IMAGE):
        raise InputError(f"scenes must be images (n, 3, {IMAGE}, {IMAGE}), got {tuple(images.shape)}")
    colours = torch.tensor(list(COLOURS.values())).to(images)
    shown = ((images.unsqueeze(1) - colours[:, :, None, None]).abs().amax(2) < 0.01).float()  # (n, colours, 32, 32)
    side = OBJECT * CELL
    windows = unfold(shown.flatten(0, 1).unsqueeze(1), side, stride=CELL)  # (n * colours, side^2, places)
    shapes = _shapes().flatten(1).to(windows)  # (shapes, side^2)
    different = windows.sum(1, keepdim=True) + shapes.sum(1, keepdim=True) - 2 * shapes @ windows
    found = (different < 0.5).unflatten(0, (len(images), -1))  # (n, colours, shapes, places)
    found = found.transpose(1, 2).flatten(1, 2).transpose(1, 2)  # (n, places, kinds)
    number = found.sum((1, 2))
    pixels = found.sum(1).float() @ shapes.sum(1).repeat_interleave(len(COLOURS))
    if ((number < 1) | (number > 2)).any() or ((shown.sum((1, 2, 3)) - pixels).abs() > 0.5).any():
        raise InputError("read_scenes: these are no images of the data 'moving-scenes', or changed ones")
    flat = found.flatten(1).float()
    best = flat.topk(2, dim=1)
    index = torch.where(best.values > 0, best.indices, flat.shape[1]).sort(1).values  # by place, the missing last
    there = index < flat.shape[1]
    return Scenes(torch.where(there, index % NUM_KINDS, -1), torch.where(there, index // NUM_KINDS, -1))


def draw_motions(scenes: Scenes, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    r"""Trajectories of a grid of points, x(t) = a t/T e_m 1[point in object] + 0.3 eps.

    .. math:: m \sim p(m | \text{kind}), \quad a \sim N(\mu_{\text{colour}}, s_{\text{colour}}^2)

    Args:
        scenes: n of them.
        frames: T.
        generator: of the draws.

    Returns:
        displacements in pixels, float32 ``(n, 2 T, 8, 8)``, those to the right of all frames and then those down; and
        the directions m of the objects, int64 ``(n, 2)``, -1 where there is none.
    """
    n = len(scenes.kind)
    kind = scenes.kind.clamp(min=0)
    table = PROBABILITIES.flatten(0, 1)[kind]  # (n, 2, directions)
    which = torch.multinomial(table.flatten(0, 1), 1, generator=generator).view(n, 2)
    mean, spread = DISTANCE[kind % len(COLOURS)].unbind(-1)  # (n, 2)
    distance = mean + spread * torch.randn(n, 2, dtype=torch.float64, generator=generator)
    path = unit_vectors()[which].unsqueeze(-1) * profile(frames)  # (n, 2, axes, T)
    moved = distance[..., None, None] * path * (scenes.kind >= 0)[..., None, None]
    x = torch.einsum("nodt,nohw->ndthw", moved, cells()[scenes.place.clamp(min=0)])
    x = x + NOISE * torch.randn(x.shape, dtype=torch.float64, generator=generator)
    return x.flatten(1, 2).float(), torch.where(scenes.kind >= 0, which, -1)


def profile(frames: int) -> Tensor:
    """t/T of t = 1 … T, float64 ``(T,)``."""
    return torch.arange(1, frames + 1, dtype=torch.float64) / frames


def unit_vectors() -> Tensor:
    """Right and down parts of the directions, float64 ``(4, 2)``."""
    return torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)


def cells() -> Tensor:
    """Which cells an object at each place has, float64 ``(36, 8, 8)`` of 0 and 1."""
    place, at = torch.arange(PLACES), torch.arange(GRID)
    first = torch.stack([place // ROWS, place % ROWS], 1)[..., None]  # (places, 2, 1)
    row, column = ((first <= at) & (at < first + OBJECT)).unbind(1)  # (places, 8) each
    return (row[:, :, None] & column[:, None, :]).double()


def log_prob(x: Tensor, scenes: Scenes) -> Tensor:
    r"""log p(x | image), exactly: a product over objects of mixtures over directions, speeds integrated in closed form.

    With u the path of an object and r = u . x, the numbers r are all that x says of it, and

    .. math:: \log p(x) = \log N(x; 0, 0.09 I) + \sum_{\text{objects}} \log \sum_m p(m)
        \frac{N(r_m; \mu |u|^2, s^2 |u|^4 + 0.09 |u|^2)}{N(r_m; 0, 0.09 |u|^2)}

    Args:
        x: ``(n, 2 T, 8, 8)``, pixels.
        scenes: what the images show (:func:`read_scenes`).

    Returns:
        nats, float64 ``(n,)``.

    Raises:
        InputError: for trajectories of another shape.
    """
    ratios = _log_ratios(x)  # (n, places, kinds)
    rows = torch.arange(len(x), device=x.device)
    found = [ratios[rows, scenes.place[:, i].clamp(min=0), scenes.kind[:, i].clamp(min=0)] for i in range(2)]
    of_objects = sum(torch.where(scenes.kind[:, i] >= 0, found[i], 0.0) for i in range(2))
    return _log_still(x) + of_objects


def log_prob_of_places(x: Tensor, scenes: Scenes) -> Tensor:
    """log p(x | where objects are), exactly: of what kind they are is averaged over; nats, float64 ``(n,)``.

    The mean of ``log_prob(x, scenes) - log_prob_of_places(x, scenes)`` is the information between kinds and
    trajectories, given the places.

    Args:
        x: ``(n, 2 T, 8, 8)``, pixels.
        scenes: of which the places are looked at, and how many objects there are.
    """
    ratios = _log_ratios(x).logsumexp(2) - math.log(NUM_KINDS)  # (n, places)
    found = ratios.gather(1, scenes.place.clamp(min=0))  # (n, 2)
    return _log_still(x) + torch.where(scenes.kind >= 0, found, 0.0).sum(1)


def log_marginal(x: Tensor) -> Tensor:
    """log p(x) = log E[p(x | image)] over all scenes that there are, exactly; nats, float64 ``(n,)``.

    The mean of ``log_prob(x, scenes) - log_marginal(x)`` is the information between images and trajectories.

    Args:
        x: ``(n, 2 T, 8, 8)``, pixels.
    """
    there = _log_ratios(x).logsumexp(2) - math.log(NUM_KINDS)  # (n, places)
    one = there.logsumexp(1) - math.log(PLACES)
    pairs = apart().to(x.device).nonzero()
    two = (there[:, pairs[:, 0]] + there[:, pairs[:, 1]]).logsumexp(1) - math.log(len(pairs))
    return _log_still(x) + torch.logaddexp(one + math.log(1 - TWO), two + math.log(TWO))


def regressor_nats(scenes: Scenes, frames: int) -> float:
    """Nats a datum, -log p, of the best Gaussian of one scale around the best forecast of each image, E[x | image].

    Its variance is that of the noise and of what the image leaves open, averaged over everything.

    Args:
        scenes: the images.
        frames: T.
    """
    table = PROBABILITIES.flatten(0, 1)
    mean, spread = DISTANCE.repeat(len(SHAPES), 1).unbind(1)  # (kinds,)
    size = OBJECT**2 * profile(frames).square().sum()
    forecast = (table @ unit_vectors()).square().sum(1)  # of directions, squared
    left = size * (mean.square() + spread.square() - mean.square() * forecast)  # (kinds,)
    there = scenes.kind >= 0
    open_ = torch.where(there, left[scenes.kind.clamp(min=0)], 0.0).sum(1).mean()
    dimensions = 2 * frames * GRID**2
    return 0.5 * dimensions * math.log(2 * math.pi * math.e * (NOISE**2 + open_.item() / dimensions))


def motion_of(x: Tensor, scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Which way trajectories take each object: the nearest direction, and how far off it they are.

    Args:
        x: ``(n, 2 T, 8, 8)``, pixels.
        scenes: what the images show.

    Returns:
        directions, int64 ``(n, 2)``, -1 where there is no object; and the angles in degrees between the objects' paths
        and these directions, ``(n, 2)``.
    """
    along = _along(x)  # (n, axes, places)
    rows = torch.arange(len(x), device=x.device)
    moved = torch.stack([along[rows, :, scenes.place[:, i].clamp(min=0)] for i in range(2)], 1)  # (n, 2, axes)
    nearest = (moved @ unit_vectors().to(moved).T).argmax(-1)
    smaller, larger = moved.abs().sort(-1).values.unbind(-1)
    angle = torch.atan2(smaller, larger).rad2deg()
    return torch.where(scenes.kind >= 0, nearest, -1), angle


def mirrored_scenes(scenes: Scenes) -> Scenes:
    """What mirror images show."""
    shape, colour = scenes.kind // len(COLOURS), scenes.kind % len(COLOURS)
    shape = torch.where(shape < 2, 1 - shape, shape)
    row, column = scenes.place // ROWS, scenes.place % ROWS
    there = scenes.kind >= 0
    kind = torch.where(there, len(COLOURS) * shape + colour, -1)
    place = torch.where(there, ROWS * row + ROWS - 1 - column, PLACES)  # the missing last
    order = place.argsort(1)
    place, kind = place.gather(1, order), kind.gather(1, order)
    return Scenes(kind, torch.where(kind >= 0, place, -1))


def _shapes() -> Tensor:
    """Pixels of the shapes, bool ``(4, 12, 12)``; each reaches all sides of its square."""
    side = OBJECT * CELL
    at = torch.arange(side) + 0.5 - side / 2  # from the middle
    down, right = at[:, None], at[None, :]
    triangle = down.abs() <= (side / 2 - right) / 2 + 0.25  # its tip to the right
    square = torch.ones(side, side, dtype=torch.bool)
    return torch.stack([triangle, triangle.flip(1), square, down.square() + right.square() <= side**2 / 4])


def _along(x: Tensor) -> Tensor:
    """Of an object at every place, the sums of t/T x(t) over its cells and frames, float64 ``(n, axes, places)``."""
    if x.dim() != 4 or x.shape[1] % 2 or tuple(x.shape[2:]) != (GRID, GRID):
        raise InputError(f"trajectories must have shape (n, 2 * frames, {GRID}, {GRID}), got {tuple(x.shape)}")
    paths = x.double().unflatten(1, (2, -1))  # (n, axes, T, 8, 8)
    weighted = torch.einsum("ndthw,t->ndhw", paths, profile(paths.shape[2]).to(x.device))
    return torch.einsum("ndhw,phw->ndp", weighted, cells().to(x.device))


def _log_ratios(x: Tensor) -> Tensor:
    """log p(x | an object of a kind at a place) - log p(x | nothing moves), float64 ``(n, places, kinds)``."""
    size = OBJECT**2 * profile(x.shape[1] // 2).square().sum()  # |u|^2
    along = _along(x)
    r = torch.einsum("ndp,md->npm", along, unit_vectors().to(x.device)).unsqueeze(2)  # (n, places, 1, directions)
    mean, spread = DISTANCE.to(x.device).unbind(1)  # (colours,)
    noise = NOISE**2 * size
    moves = _normal(r, (mean * size)[:, None], (spread.square() * size.square() + noise)[:, None])
    ratio = moves - _normal(r, torch.zeros_like(noise), noise)  # (n, places, colours, directions)
    parts = PROBABILITIES.to(x.device).log() + ratio.unsqueeze(2)  # (n, places, shapes, colours, directions)
    return parts.logsumexp(-1).flatten(-2)


def _log_still(x: Tensor) -> Tensor:
    """log N(x; 0, 0.09 I), float64 ``(n,)``."""
    noise = torch.tensor(NOISE**2, dtype=torch.float64, device=x.device)
    return _normal(x.double(), torch.zeros_like(noise), noise).flatten(1).sum(1)


def _normal(value: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * ((value - mean).square() / variance + (2 * math.pi * variance).log())
