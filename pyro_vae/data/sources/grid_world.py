"""Clips of a small world seen from above, whose next frame has a probability that is known exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_vae.data.actions import Actions
from pyro_vae.data.clips import Clips
from pyro_vae.data.dataset import RawData
from pyro_vae.data.parts import SPLIT_SEED
from pyro_vae.data.registry import check_counts, source
from pyro_vae.errors import InputError
from pyro_vae.runtime import check_room

ACTIONS = ("left", "right", "forward")
SIDE, CELL = 6, 4  # cells of the world's side, and pixels of a cell's
SLIP, TURN = 0.2, 0.1  # probabilities that an action does nothing, and that the light turns around
WALLS = 6  # cells of the room that are walls
CLIPS, HELD_OUT = 4_000, 500
LANE, LIGHT, FLOOR, WALL, AGENT = range(5)  # kinds of cells; the agent's four, by heading, are the last ones
STEPS = torch.tensor([[-1, 0], [0, 1], [1, 0], [0, -1]])  # one forward, by heading: up, right, down, left
COLOURS = ((24, 24, 64), (250, 210, 60), (140, 140, 130), (90, 50, 30), (200, 40, 40))  # of the kinds
NOSE = (255, 255, 255)  # of the agent, at the side that it looks to


@dataclass(frozen=True)
class World:
    """States of N worlds: what a frame shows, and where the light is going.

    Args:
        walls: bool ``(N, 6, 6)``; the first row is the light's lane.
        place: row and column of the agent, int64 ``(N, 2)``.
        heading: of the agent, int64 ``(N,)``: up, right, down, left.
        light: its column, int64 ``(N,)``.
        going: 1 to the right, -1 to the left, int64 ``(N,)``.
    """

    walls: Tensor
    place: Tensor
    heading: Tensor
    light: Tensor
    going: Tensor


@source(
    "grid-world",
    "clips of a world of 6x6 cells from above, 24x24 in colour: an agent that turns or goes forward, and fails in one "
    "of five cases, and a light that goes to and fro; the next frame's probability is known; 4,000 train / 500 "
    "validation / 500 test",
)
def load_grid_world(limit: int | None, *, clips: int = CLIPS, steps: int = 8, given: int = 2) -> RawData:
    """Draw clips; the actions are drawn evenly, whatever is seen.

    An action fails with probability 0.2, and then nothing happens. Walls, and the edge of the room, stop the agent. The
    light in the first row moves a cell at every step, around the edge, and turns around with probability 0.1 before it.

    Args:
        limit: the first so many clips of each part.
        clips: how many for training.
        steps: T, frames to be predicted.
        given: frames before them; from two frames on, they say all of the state that matters.

    Returns:
        ``x`` uint8 (N, steps, 3, 24, 24), ``frames`` uint8 (N, given, 3, 24, 24), ``actions`` int64 (N, steps):
        actions[t] leads from the frame before to x[t].

    Raises:
        InputError: for numbers that are not positive, or less than two frames given.
    """
    check_counts(clips=clips, steps=steps)
    if given < 2:
        raise InputError(
            f"grid-world: given must be at least 2, got {given}: one frame does not say where the light goes"
        )
    parts = {}
    for part, count in {"train": clips, "validation": HELD_OUT, "test": HELD_OUT}.items():
        numbers = count * (steps + given) * 3 * (SIDE * CELL) ** 2
        check_room(f"grid-world: steps={steps}, given={given}", numbers, "give fewer")
        seed = SPLIT_SEED + ("train", "validation", "test").index(part)
        frames, actions = draw_clips(count, given + steps, torch.Generator().manual_seed(seed))
        frames, actions = frames[:limit], actions[:limit]
        parts[part] = {
            "x": frames[:, given:].contiguous(),
            "frames": frames[:, :given].contiguous(),
            "actions": actions[:, given - 1 :].contiguous(),
        }
    return RawData(parts, extras=(Actions(ACTIONS), Clips()))


def draw_clips(count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clips of worlds that are drawn evenly.

    Args:
        count: N.
        length: frames of a clip.
        generator: of all that is drawn.

    Returns:
        frames uint8 ``(N, length, 3, 24, 24)``, and the actions between them, int64 ``(N, length - 1)``.

    Example:
        >>> import torch
        >>> from pyro_vae.data.sources.grid_world import draw_clips
        >>> frames, actions = draw_clips(5, 4, torch.Generator().manual_seed(0))
        >>> frames.shape, actions.shape
        (torch.Size([5, 4, 3, 24, 24]), torch.Size([5, 3]))
    """
    world = draw_worlds(count, generator)
    actions = torch.randint(len(ACTIONS), (count, length - 1), generator=generator)
    frames = [render(world)]
    for action in actions.unbind(1):
        world = step(world, action, generator)
        frames.append(render(world))
    return torch.stack(frames, 1), actions


def draw_worlds(count: int, generator: torch.Generator) -> World:
    """Worlds with six walls, the agent on one of the other cells of the room."""
    room = (SIDE - 1) * SIDE
    cells = torch.rand(count, room, generator=generator).argsort(1)[:, : WALLS + 1]  # different ones
    walls = torch.zeros(count, room, dtype=torch.bool).scatter_(1, cells[:, :WALLS], True).view(count, SIDE - 1, SIDE)
    walls = torch.cat([torch.zeros(count, 1, SIDE, dtype=torch.bool), walls], 1)
    place = torch.stack([1 + cells[:, WALLS] // SIDE, cells[:, WALLS] % SIDE], 1)
    heading, light, way = (torch.randint(n, (count,), generator=generator) for n in (4, SIDE, 2))
    return World(walls, place, heading, light, 2 * way - 1)


def step(world: World, action: Tensor, generator: torch.Generator) -> World:
    """The worlds after actions ``(N,)``, drawn."""
    count = len(action)
    after = acted(world, action)
    failed = torch.rand(count, generator=generator) < SLIP
    going = torch.where(torch.rand(count, generator=generator) < TURN, -world.going, world.going)
    return replace(
        world,
        place=torch.where(failed[:, None], world.place, after.place),
        heading=torch.where(failed, world.heading, after.heading),
        light=(world.light + going) % SIDE,
        going=going,
    )


def acted(world: World, action: Tensor) -> World:
    """The worlds after actions ``(N,)`` that do not fail; the light stays."""
    turn = (action == ACTIONS.index("right")).long() - (action == ACTIONS.index("left")).long()
    ahead = world.place + STEPS[world.heading]  # (N, 2)
    row, column = ahead.clamp(0, SIDE - 1).unbind(1)
    outside = (ahead[:, 0] < 1) | (ahead[:, 0] >= SIDE) | (ahead[:, 1] < 0) | (ahead[:, 1] >= SIDE)
    free = ~outside & ~world.walls[torch.arange(len(action)), row, column]
    moves = free & (action == ACTIONS.index("forward"))
    return replace(
        world, place=torch.where(moves[:, None], ahead, world.place), heading=(world.heading + turn) % len(STEPS)
    )


def _templates() -> Tensor:
    """What the kinds of cells look like, uint8 ``(8, 3, 4, 4)``."""
    cells = torch.tensor([*COLOURS, *COLOURS[AGENT:] * 3], dtype=torch.uint8)[:, :, None, None].repeat(1, 1, CELL, CELL)
    nose = torch.tensor(NOSE, dtype=torch.uint8)[:, None]
    up = cells[AGENT].clone()
    up[:, 0] = nose
    for heading in range(len(STEPS)):
        cells[AGENT + heading] = up.rot90(-heading, (1, 2))  # a quarter of a turn to the right each
    return cells


def render(world: World) -> Tensor:
    """The worlds' frames, uint8 ``(N, 3, 24, 24)``."""
    rows = torch.arange(len(world.light))
    kinds = torch.where(world.walls, WALL, FLOOR)
    kinds[:, 0] = LANE
    kinds[rows, 0, world.light] = LIGHT
    kinds[rows, world.place[:, 0], world.place[:, 1]] = AGENT + world.heading
    return _joined(_templates()[kinds])


def nearest(frames: Tensor) -> Tensor:
    """Frames whose cells are the nearest ones that there are, uint8, of pictures in [0, 1] ``(..., 3, 24, 24)``."""
    cells = frames.reshape(-1, 3, SIDE, CELL, SIDE, CELL).permute(0, 2, 4, 1, 3, 5).flatten(3)  # (N, 6, 6, 48)
    kinds = torch.cdist(cells, (_templates().float() / 255).flatten(1)).argmin(-1)
    return _joined(_templates()[kinds]).view(frames.shape)


def _joined(cells: Tensor) -> Tensor:
    """Frames ``(N, 3, 24, 24)`` of cells ``(N, 6, 6, 3, 4, 4)``."""
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, SIDE * CELL, SIDE * CELL)


def read(frames: Tensor) -> tuple[World, Tensor]:
    """What frames show, and whether they are frames of a world at all; ``going`` is 0, one frame does not say it.

    Args:
        frames: ``(N, 3, 24, 24)``, uint8, or in [0, 1].

    Returns:
        the worlds; and bool ``(N,)``: where it is false the world means nothing.
    """
    cells = _bytes(frames).reshape(-1, 3, SIDE, CELL, SIDE, CELL).permute(0, 2, 4, 1, 3, 5)  # (N, 6, 6, 3, 4, 4)
    same = (cells[:, :, :, None] == _templates()).flatten(4).all(-1)  # (N, 6, 6, 8)
    kinds = torch.where(same.any(-1), same.long().argmax(-1), -1)
    light, agent = kinds == LIGHT, kinds >= AGENT
    right = (kinds >= 0).flatten(1).all(1) & (agent.flatten(1).sum(1) == 1) & (light.flatten(1).sum(1) == 1)
    right &= ((kinds[:, 0] == LANE) | light[:, 0]).all(1) & ~(light[:, 1:] | (kinds[:, 1:] == LANE)).flatten(1).any(1)
    at = agent.flatten(1).long().argmax(1)
    place = torch.stack([at // SIDE, at % SIDE], 1)
    heading = (kinds.flatten(1).gather(1, at[:, None])[:, 0] - AGENT).clamp(min=0)
    column = light[:, 0].long().argmax(1)
    return World(kinds == WALL, place, heading, column, torch.zeros_like(column)), right


def _bytes(frames: Tensor) -> Tensor:
    return frames if frames.dtype == torch.uint8 else (frames * 255).round().to(torch.uint8)


def frame_log_prob(x: Tensor, frames: Tensor, actions: Tensor | None) -> Tensor:
    r"""The exact log p(x_t | the frames before, actions_t), nats; minus infinity of what cannot be.

    .. math:: p = \big[0.8\,[s_t = act(s_{t-1}, a_t)] + 0.2\,[s_t = s_{t-1}]\big] \cdot (0.9 \text{ or } 0.1)

    with s what there is of the agent, and the last factor the light's, which keeps its way or turns around.

    Args:
        x: ``(N, T, 3, 24, 24)``, uint8 or in [0, 1].
        frames: those before, two or more, ``(N, T0, 3, 24, 24)``, likewise.
        actions: int64 ``(N, T)``; None: averaged over them, log p(x_t | the frames before).

    Returns:
        float64 ``(N, T)``.

    Raises:
        InputError: if the frames before are none of this world, and for actions of another shape or out of range.

    Example:
        >>> import torch
        >>> from pyro_vae.data.sources.grid_world import draw_clips, frame_log_prob
        >>> frames, actions = draw_clips(2000, 6, torch.Generator().manual_seed(0))
        >>> exact = frame_log_prob(frames[:, 2:], frames[:, :2], actions[:, 1:])
        >>> [round(p, 2) for p in exact.exp().unique().tolist()]
        [0.02, 0.08, 0.1, 0.18, 0.72, 0.9]
    """
    _check_actions(x, actions)
    before, after, right = _transitions(x, frames)
    n, steps = x.shape[:2]
    named = [torch.full((n * steps,), a) for a in range(len(ACTIONS))] if actions is None else [actions.flatten()]
    agent = torch.stack([_agent_probability(before, after, action) for action in named]).mean(0)
    moved = (after.light - before.light) % SIDE  # 1 to the right, 5 to the left
    keeps, turns = ((moved == way % SIDE).double() for way in (before.going, -before.going))
    light = (1 - TURN) * keeps + TURN * turns
    return torch.where(right, agent * light, 0.0).log().view(n, steps)


def frame_entropy(x: Tensor, frames: Tensor, actions: Tensor) -> Tensor:
    """The exact entropy of every next frame, given the frames before it and its action: nats, float64 ``(N, T)``.

    Args:
        x, frames, actions: as for :func:`frame_log_prob`; of x only the frames that are before others matter.
    """
    _check_actions(x, actions)
    before, _, _ = _transitions(x, frames)
    after = acted(before, actions.flatten())
    open_ = (after.place != before.place).any(1) | (after.heading != before.heading)
    return (_binary_entropy(TURN) + _binary_entropy(SLIP) * open_.double()).view(x.shape[:2])


def _binary_entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def _agent_probability(before: World, after: World, action: Tensor) -> Tensor:
    """p(what there is of the agent | the world before, action), float64 ``(N,)``."""
    wanted = acted(before, action)
    reached, stayed = (
        ((after.place == world.place).all(1) & (after.heading == world.heading)).double() for world in (wanted, before)
    )
    return (1 - SLIP) * reached + SLIP * stayed


def _check_actions(x: Tensor, actions: Tensor | None) -> None:
    """Check that there is an action for every frame."""
    if actions is not None:
        if actions.shape != x.shape[:2]:
            raise InputError(
                f"grid-world: actions must be {tuple(x.shape[:2])}, as x has frames, got {tuple(actions.shape)}"
            )
        Actions(ACTIONS).check_range(actions, "grid-world")


def _transitions(x: Tensor, frames: Tensor) -> tuple[World, World, Tensor]:
    """The worlds before and after every step, ``(N * T)``, and whether both are frames of one world."""
    if frames.shape[1] < 2:
        raise InputError("grid-world: two frames must be given, or more: one does not say where the light goes")
    whole = torch.cat([_bytes(frames), _bytes(x)], 1)  # (N, T0 + T, 3, 24, 24)
    n, length, steps = *whole.shape[:2], x.shape[1]
    world, right = read(whole.flatten(0, 1))
    if not bool(right.view(n, length)[:, : frames.shape[1]].all()):
        raise InputError("the frames that are given are none of grid-world")

    def at(offset: int, value: Tensor) -> Tensor:  # from `offset` frames before those of x
        first = length - steps - offset
        return value.view(n, length, *value.shape[1:])[:, first : first + steps].flatten(0, 1)

    earlier, before, after = (
        World(*(at(k, value) for value in (world.walls, world.place, world.heading, world.light, world.going)))
        for k in (2, 1, 0)
    )
    moved = (before.light - earlier.light) % SIDE
    before = replace(before, going=torch.where(moved == 1, 1, -1))
    same = (before.walls == after.walls).flatten(1).all(1)
    known = (moved == 1) | (moved == SIDE - 1)
    return before, after, same & known & at(0, right) & at(1, right) & at(2, right)
