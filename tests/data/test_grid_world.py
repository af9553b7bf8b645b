"""The grid world: frames show all of the state, and the exact probabilities are those of the draws."""

import math

import pytest
import torch

from pyro_vae.data import Actions, load_data
from pyro_vae.data.sources.grid_world import (
    ACTIONS,
    SIDE,
    SLIP,
    TURN,
    World,
    draw_clips,
    draw_worlds,
    frame_entropy,
    frame_log_prob,
    nearest,
    read,
    render,
    step,
)
from pyro_vae.errors import InputError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_parts_and_entries():
    data = load_data("grid-world", limit=30, steps=5, given=3)
    assert {part: len(split) for part, split in data.splits.items()} == dict.fromkeys(data.splits, 30)
    assert data.extra(Actions).names == ACTIONS == ("left", "right", "forward")
    batch = data.test.batch(slice(None))
    assert batch["x"].shape == (30, 5, 3, 24, 24) and batch["actions"].shape == (30, 5)
    assert batch["frames"].shape == (30, 3, 3, 24, 24) and batch["frames"].max() <= 1
    exact = frame_log_prob(batch["x"], batch["frames"], batch["actions"])
    assert exact.isfinite().all()  # the actions are those of the frames, and x goes on where the frames end
    off = frame_log_prob(batch["x"], batch["frames"], batch["actions"].roll(1, 1))  # off by one
    assert off.isinf().double().mean() > 0.3
    again = load_data("grid-world", limit=7, steps=5, given=3)
    assert torch.equal(again.test.batch(slice(None))["x"], batch["x"][:7])
    assert not torch.equal(data.train.tensors["x"][:30], data.test.tensors["x"])
    with pytest.raises(InputError, match="given must be at least 2"):
        load_data("grid-world", given=1)
    with pytest.raises(InputError, match="steps"):
        load_data("grid-world", steps=0)


def test_frames_show_the_state():
    world = draw_worlds(500, generator())
    seen, right = read(render(world))
    assert right.all()
    for name in ("walls", "place", "heading", "light"):
        assert torch.equal(getattr(seen, name), getattr(world, name)), name
    assert not world.walls[torch.arange(500), world.place[:, 0], world.place[:, 1]].any()
    assert (world.walls.flatten(1).sum(1) == 6).all() and not world.walls[:, 0].any()
    spoiled = render(world)
    spoiled[:, 0, 9, 9] += 1
    assert not read(spoiled)[1].any()
    blurred = (render(world).float() / 255 + 0.1 * torch.randn(500, 3, 24, 24, generator=generator())).clamp(0, 1)
    assert torch.equal(nearest(blurred[:, None])[:, 0], render(world))


def one(heading, place, action, walls=()):
    """A world with the agent in it, and where it may be afterwards."""
    grid = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    for wall in walls:
        grid[0][wall] = True
    world = World(grid, torch.tensor([place]), torch.tensor([heading]), torch.tensor([2]), torch.tensor([1]))
    worlds = World(*(value.expand(4000, *value.shape[1:]) for value in vars(world).values()))
    after = step(worlds, torch.full((4000,), ACTIONS.index(action)), generator())
    states = torch.cat([after.place, after.heading[:, None]], 1)
    found, counts = states.unique(dim=0, return_counts=True)
    return {tuple(state): count / 4000 for state, count in zip(found.tolist(), counts.tolist(), strict=True)}


@pytest.mark.parametrize(
    ("heading", "place", "action", "walls", "reached"),
    [
        (0, (3, 3), "forward", [], (2, 3, 0)),  # up
        (1, (3, 3), "forward", [], (3, 4, 1)),
        (2, (3, 3), "forward", [], (4, 3, 2)),
        (3, (3, 3), "forward", [], (3, 2, 3)),
        (0, (3, 3), "left", [], (3, 3, 3)),
        (3, (3, 3), "right", [], (3, 3, 0)),
        (0, (3, 3), "forward", [(2, 3)], None),  # a wall
        (0, (1, 3), "forward", [], None),  # the lane of the light
        (1, (3, 5), "forward", [], None),
        (2, (5, 0), "forward", [], None),
        (3, (5, 0), "forward", [], None),
    ],
)
def test_what_actions_do(heading, place, action, walls, reached):
    found = one(heading, place, action, walls)
    if reached is None:
        assert found == {(*place, heading): 1.0}
    else:
        assert set(found) == {reached, (*place, heading)}
        assert abs(found[reached] - (1 - SLIP)) < 4 * math.sqrt(SLIP * (1 - SLIP) / 4000)


def every_next(frames):
    """All frames that could come next of one world, by brute force over agents and lights: ``(M, 3, 24, 24)``."""
    world, _ = read(frames)
    cells = [(r, c) for r in range(1, SIDE) for c in range(SIDE) if not world.walls[0, r, c]]
    states = [(r, c, h, at) for r, c in cells for h in range(4) for at in range(SIDE)]
    place, heading, light = torch.tensor(states).split([2, 1, 1], 1)
    n = len(states)
    walls = world.walls[:1].expand(n, SIDE, SIDE)
    return render(World(walls, place, heading[:, 0], light[:, 0], torch.ones(n, dtype=torch.int64)))


def test_probabilities_sum_to_one_and_give_the_entropy():
    """Over all frames that could be, for single worlds, with and without the action."""
    frames, actions = draw_clips(2, 3, generator(3))
    for i in range(2):
        before, action = frames[i, :2], actions[i, 1]
        every = every_next(before[1:])
        given = before.expand(len(every), 2, 3, 24, 24)
        with_action = frame_log_prob(every[:, None], given, action.expand(len(every), 1)).exp()[:, 0]
        without = frame_log_prob(every[:, None], given, None).exp()[:, 0]
        assert abs(with_action.sum() - 1) < 1e-12 and abs(without.sum() - 1) < 1e-12
        p = with_action[with_action > 0]
        exact = frame_entropy(frames[i : i + 1, 2:], before[None], action[None, None])
        torch.testing.assert_close(-(p * p.log()).sum(), exact[0, 0])
        each = [frame_log_prob(every[:, None], given, torch.full((len(every), 1), a)).exp()[:, 0] for a in range(3)]
        torch.testing.assert_close(without, torch.stack(each).mean(0))


def test_draws_have_these_probabilities():
    """The mean of -log p is the mean entropy, within four standard errors; so is the light's turning."""
    frames, actions = draw_clips(800, 6, generator(1))
    x, before = frames[:, 2:], frames[:, :2]
    off = -frame_log_prob(x, before, actions[:, 1:]) - frame_entropy(x, before, actions[:, 1:])
    assert off.mean().abs() < 4 * off.std() / math.sqrt(off.numel())
    light = read(frames.flatten(0, 1))[0].light.view(800, 6)
    turned = (light.diff(dim=1) % SIDE).diff(dim=1) != 0
    assert abs(turned.double().mean() - TURN) < 4 * math.sqrt(TURN * (1 - TURN) / turned.numel())


def test_what_cannot_be_has_probability_zero():
    frames, actions = draw_clips(50, 4, generator(2))
    x, before, actions = frames[:, 2:], frames[:, :2], actions[:, 1:]
    jumped = x.clone()
    jumped[:, 1] = frames[:, 1].roll(1, 0)  # another world's
    assert frame_log_prob(jumped, before, actions)[:, 1].isinf().all()
    still = frame_log_prob(before[:, 1:], before, actions[:, :1])  # the light does not stand still
    assert still.isinf().all()
    with pytest.raises(InputError, match="none of grid-world"):
        frame_log_prob(x, before + 1, actions)


def test_actions_that_are_not_those_of_the_frames_are_refused():
    frames, actions = draw_clips(4, 6, generator(2))
    x, before, actions = frames[:, 2:], frames[:, :2], actions[:, 1:]
    for exact in (frame_log_prob, frame_entropy):
        for wrong in (actions.T[:3], actions.flatten(), frames[:, 0, 0, 0, :4].long()[:, :3], torch.zeros(4, 5).long()):
            with pytest.raises(InputError, match=r"actions must be \(4, 4\)"):
                exact(x, before, wrong)
        for wrong in (3, -1):
            with pytest.raises(InputError, match="from 0 to 2"):
                exact(x, before, torch.full((4, 4), wrong))
