"""The dataset ``vizdoom``: clips of walks through the rooms of a 3-D world, with the actions from frame to frame."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.actions import Actions
from pyro_vae.data.clips import Clips
from pyro_vae.data.dataset import RawData
from pyro_vae.data.images import cache_folder, square
from pyro_vae.data.parts import PARTS
from pyro_vae.data.registry import check_counts, source
from pyro_vae.data.sources.cache_file import find_kept, held, keep
from pyro_vae.errors import InputError
from pyro_vae.runtime import check_room

logger = logging.getLogger(__name__)

SCENARIO = "my_way_home"
BUTTONS = {  # the names of actions, and what is pressed
    "left": "TURN_LEFT",
    "right": "TURN_RIGHT",
    "forward": "MOVE_FORWARD",
    "strafe-left": "MOVE_LEFT",
    "strafe-right": "MOVE_RIGHT",
}
FORWARD = list(BUTTONS).index("forward")
CHOSEN = (0.2, 0.2, 0.4, 0.1, 0.1)  # how often a run of each action begins
LONGEST_RUN = 12  # of one action; 1 is the shortest
WALK = (8, 32)  # steps before a clip, at least and at most
BLOCKED = 0.5  # map units: who moves less by a step forward stands at a wall
TICS = 4  # of the game in a step
SIDE = 48  # pixels
LARGEST = 120  # pixels a side that the game renders
MOST_FRAMES = 400  # of a clip: the game ends by itself after 525 steps
FIRST = {"train": 0, "validation": 1_000_000, "test": 2_000_000}  # episodes of the parts
MAKER = 1  # changes where clips are made otherwise, so that they are made anew


@source(
    "vizdoom",
    "clips of a walk through the rooms of ViZDoom's my_way_home, 48x48 RGB unless image_size says otherwise, made here "
    "once: frames given=6, x the steps=10 after them, actions from frame to frame; clips=2,000 train / a tenth of them "
    "validation / as many test",
)
def load_vizdoom(
    root: Path | None, image_size: int | None, *, given: int = 6, steps: int = 10, clips: int = 2000
) -> RawData:
    """Load clips; the first time they are rendered (half a minute) and kept in the cache folder.

    Every clip is of an episode of its own, which is played anew by its number: the player appears in a random room,
    walks some steps, turning away from walls, and then presses one button for a while, then another, whatever comes.
    A step is four tics of the game. Frames are the middle of the picture. Which episodes are in which part depends on
    no seed of the user's, and on no option; that of which the goal is reached is left out.

    Args:
        root: a folder in which clips that were made are looked for first, in its sub-folder ``vizdoom``.
        image_size: pixels a side, 48 if None; at most 120.
        given: frames before those to be predicted, T0.
        steps: frames to be predicted, T.
        clips: of training, at least 10.

    Returns:
        ``frames`` uint8 (N, T0, 3, size, size), ``x`` uint8 (N, T, 3, size, size), ``actions`` int64 (N, T) of which
        actions[t] leads from the frame before to x[t], and ``episode`` int64 (N,), for :func:`true_futures`; what the
        actions are called, and how clips are looked at.

    Raises:
        InputError: for options out of range; if no such clips were made yet and vizdoom is missing or fails.
        CorruptFileError: if the cache file is damaged.
    """
    check_counts(given=given, steps=steps, clips=clips)
    size = _size(image_size)
    if clips < 10 or given + steps > MOST_FRAMES:
        raise InputError(f"vizdoom: clips must be at least 10, given and steps at most {MOST_FRAMES} together")
    counts = dict(zip(PARTS, (clips, clips // 10, clips // 10), strict=True))
    total = sum(counts.values())
    check_room(f"vizdoom: {total:,} clips", total * (given + steps) * 3 * size**2, "make fewer or smaller ones")
    recipe = json.dumps([MAKER, SCENARIO, CHOSEN, LONGEST_RUN, WALK, BLOCKED, TICS, size, given, steps, clips])
    name = Path("vizdoom") / f"clips-{size}px-{given}-{steps}-{clips}.npz"
    shape = total, given + steps, 3, size, size
    kept = find_kept(root, name, lambda path: _held(path, recipe, shape))
    if kept is None:
        kept = _make(cache_folder() / name, recipe, counts, given, steps, size)
    arrays = {key: dict(zip(PARTS, value.split(list(counts.values())), strict=True)) for key, value in kept.items()}
    parts = {
        part: {
            "x": arrays["frames"][part][:, given:],
            "frames": arrays["frames"][part][:, :given],
            "actions": arrays["actions"][part][:, given - 1 :],
            "episode": arrays["episode"][part],
        }
        for part in PARTS
    }
    return RawData(parts, extras=(Actions(tuple(BUTTONS)), Clips()))


def true_futures(episodes: Tensor, frames: Tensor, actions: Tensor) -> Tensor:
    """What is seen when, after the frames given of clips, other actions are chosen: the episodes are played anew.

    Where the goal is reached, the game ends, and its last frame stays.

    Args:
        episodes: int64 (N,), of :func:`load_vizdoom`.
        frames: given of these clips, as they were loaded, uint8 or in [0, 1] (N, T0, 3, size, size).
        actions: int64 (A, T), sequences of actions, each chosen in every episode.

    Returns:
        uint8 (A, N, T, 3, size, size).

    Raises:
        InputError: for an action that there is not, frames of another shape, or that are not what is seen when the
            episodes are played (another version of vizdoom made them, or they are other clips'), and if vizdoom is
            missing or fails.
    """
    if frames.dim() != 5 or len(frames) != len(episodes) or frames.shape[2] != 3 or frames.shape[3] != frames.shape[4]:
        raise InputError(
            f"true_futures: frames must be ({len(episodes)}, T0, 3, size, size), those given of the episodes' clips, "
            f"got {tuple(frames.shape)}"
        )
    given, size = frames.shape[1], _size(frames.shape[-1])
    check_counts(given=given)
    Actions(tuple(BUTTONS)).check_range(actions, "true_futures")
    if actions.shape[1] + given > MOST_FRAMES:
        raise InputError(f"true_futures: given and steps are at most {MOST_FRAMES} together")
    check_room("true_futures", len(actions) * len(episodes) * actions.shape[1] * 3 * size**2, "take fewer episodes")
    last = frames[:, -1] if frames.dtype == torch.uint8 else (frames[:, -1] * 255).round().to(torch.uint8)
    found = torch.empty(len(actions), len(episodes), actions.shape[1], 3, size, size, dtype=torch.uint8)
    with _world() as world:
        for place, episode in enumerate(episodes.tolist()):
            before = world.before(episode, given)
            for target, branch in zip(found[:, place], actions.tolist(), strict=True):
                world.begin(episode)
                for action in before:
                    world.step(action)
                if not torch.equal(resized([world.frame], size)[0], last[place].cpu()):
                    raise InputError(
                        f"true_futures: episode {episode} does not look as in the frames given: they are another "
                        "clip's, or were made by another version of vizdoom (remove them from the cache folder)"
                    )
                target.copy_(resized([world.step(action) for action in branch], size))
    return found


class _World:
    """A running game."""

    def __init__(self, game: Any) -> None:
        self.game = game
        self.frame = np.zeros(0, np.uint8)
        self.ended = False

    def begin(self, episode: int) -> None:
        """Begin an episode by its number."""
        self.game.set_seed(episode)
        self.game.new_episode()
        self.ended = False
        self._look()

    def step(self, action: int) -> np.ndarray:
        """Choose an action for a step; the frame seen after it, uint8 ``(120, 160, 3)``."""
        if not self.ended:
            self.game.make_action([float(button == action) for button in range(len(BUTTONS))], TICS)
            self._look()
        return self.frame

    def _look(self) -> None:
        state = self.game.get_state()
        self.ended = state is None
        if state is not None:
            self.frame, self.place = state.screen_buffer.copy(), np.array(state.game_variables)

    def walk(self, episode: int) -> tuple[list[int], torch.Generator]:
        """Play an episode up to where its clip begins: all actions until then, and what the clip's are drawn with."""
        generator = torch.Generator().manual_seed(episode)
        self.begin(episode)
        chosen: list[int] = []
        run: list[int] = []
        for _ in range(int(torch.randint(WALK[0], WALK[1] + 1, (), generator=generator))):
            run = run or _run(generator)
            before, action = self.place, run.pop()
            self.step(action)
            chosen.append(action)
            if action == FORWARD and np.abs(self.place - before).max() < BLOCKED:
                run = _turn(generator)  # away from the wall
        return chosen, generator

    def clip(self, episode: int, given: int, steps: int) -> tuple[list[np.ndarray], list[int]] | None:
        """The frames of a clip and the actions that lead from one to the next; None if the goal is reached."""
        _, generator = self.walk(episode)
        first, actions = self.frame, _runs(generator, given - 1) + _runs(generator, steps)
        frames = [first, *(self.step(action) for action in actions)]
        return None if self.ended else (frames, actions)

    def before(self, episode: int, given: int) -> list[int]:
        """All actions from an episode's beginning to the last of the frames given of its clip."""
        chosen, generator = self.walk(episode)
        return chosen + _runs(generator, given - 1)


def _run(generator: torch.Generator) -> list[int]:
    """One action, some times."""
    action = int(torch.multinomial(torch.tensor(CHOSEN), 1, generator=generator))
    return [action] * int(torch.randint(1, LONGEST_RUN + 1, (), generator=generator))


def _turn(generator: torch.Generator) -> list[int]:
    """To the left or to the right, by a quarter or a half."""
    side, steps = (int(torch.randint(*ends, (), generator=generator)) for ends in ((0, 2), (6, 13)))
    return [side] * steps


def _runs(generator: torch.Generator, steps: int) -> list[int]:
    """So many actions, one for some steps, then another."""
    actions: list[int] = []
    while len(actions) < steps:
        actions += _run(generator)
    return actions[:steps]


@contextmanager
def _world() -> Iterator[_World]:
    """The game, without a window.

    Raises:
        InputError: if vizdoom is not installed, or fails.
    """
    if find_spec("vizdoom") is None:
        raise InputError(
            "the dataset 'vizdoom' is rendered with vizdoom, which is not installed: pip install 'pyro-vae[video]', or "
            "copy the folder vizdoom of another machine's ~/.cache/pyro_vae here"
        )
    import vizdoom

    left = Path("_vizdoom")  # a folder that the game leaves where it is started
    there = left.exists()
    game = vizdoom.DoomGame()
    with tempfile.TemporaryDirectory() as folder:
        try:
            game.load_config(str(Path(vizdoom.scenarios_path) / f"{SCENARIO}.cfg"))
            game.set_doom_config_path(str(Path(folder) / "vizdoom.ini"))
            game.set_available_buttons([getattr(vizdoom.Button, button) for button in BUTTONS.values()])
            game.set_available_game_variables([vizdoom.GameVariable.POSITION_X, vizdoom.GameVariable.POSITION_Y])
            game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
            game.set_screen_format(vizdoom.ScreenFormat.RGB24)
            game.set_window_visible(False)
            game.set_mode(vizdoom.Mode.PLAYER)
            game.init()
            yield _World(game)
        except (
            vizdoom.ViZDoomErrorException,
            vizdoom.ViZDoomUnexpectedExitException,
            vizdoom.FileDoesNotExistException,
        ) as error:
            raise InputError(f"vizdoom failed: {error}") from error
        finally:
            game.close()
            if not there:
                with suppress(OSError):
                    left.rmdir()


def resized(frames: Sequence[np.ndarray], size: int) -> Tensor:
    """The middle of frames ``(120, 160, 3)``, uint8 ``(T, 3, size, size)``."""
    return square(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), size)


def _size(image_size: int | None) -> int:
    size = SIDE if image_size is None else image_size
    if not 8 <= size <= LARGEST:
        raise InputError(f"vizdoom: image_size must be from 8 to {LARGEST} pixels, got {size}")
    return size


def _make(path: Path, recipe: str, counts: dict[str, int], given: int, steps: int, size: int) -> dict[str, Tensor]:
    """Render the clips of all parts, and keep them."""
    total = sum(counts.values())
    frames = torch.empty(total, given + steps, 3, size, size, dtype=torch.uint8)
    actions, episodes = torch.empty(total, given + steps - 1, dtype=torch.int64), torch.empty(total, dtype=torch.int64)
    with _world() as world:
        logger.info(
            "vizdoom: %s clips of %d frames are rendered, once, and kept in %s", f"{total:,}", given + steps, path
        )
        place = 0
        for part, count in counts.items():
            episode = FIRST[part]
            for _ in range(count):
                while (clip := world.clip(episode, given, steps)) is None:
                    episode += 1
                frames[place], actions[place], episodes[place] = resized(clip[0], size), torch.tensor(clip[1]), episode
                place, episode = place + 1, episode + 1
    made = {"frames": frames, "actions": actions, "episode": episodes}
    keep(path, recipe, {key: value.numpy() for key, value in made.items()})
    return made


def _held(path: Path, recipe: str, shape: tuple[int, ...]) -> dict[str, Tensor] | None:
    """The clips of a cache file, of all parts; None if there is none, or it is of others."""
    right = {
        "frames": ("uint8", shape),
        "actions": ("int64", (shape[0], shape[1] - 1)),
        "episode": ("int64", shape[:1]),
    }

    def read(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        types = {key: (arrays[key].dtype.name, arrays[key].shape) for key in right}
        if types != right:
            raise ValueError(f"its arrays are {types}, not {right}")
        return {key: torch.from_numpy(arrays[key]) for key in right}

    return held(path, recipe, read)
