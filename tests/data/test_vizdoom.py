"""The dataset ``vizdoom``: clips, their actions and cache; the game itself where it is installed."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from pyro_vae.data import Actions, Clips, load_data
from pyro_vae.data.sources import vizdoom_clips as source
from pyro_vae.errors import CorruptFileError, InputError

played = pytest.mark.skipif(find_spec("vizdoom") is None, reason="vizdoom is not installed")
SMALL = {"given": 2, "steps": 3, "clips": 10, "image_size": 16}
TURNS = torch.tensor([[2, 0, 0], [0, 2, 0]])


@played
def test_clips_are_deterministic_and_played_anew(empty_home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    data = load_data("vizdoom", **SMALL)
    assert [len(split) for split in data.splits.values()] == [10, 1, 1]
    x, frames, actions = (data.train.column(name) for name in ("x", "frames", "actions"))
    assert (
        x.dtype == frames.dtype == torch.uint8 and x.shape == (10, 3, 3, 16, 16) and frames.shape == (10, 2, 3, 16, 16)
    )
    assert data.extra(Actions).names[:3] == ("left", "right", "forward") and data.extra(Clips) is not None
    assert list(tmp_path.iterdir()) == []  # the game leaves nothing where it is started
    episodes = data.train.column("episode")
    futures = source.true_futures(episodes[:4], frames[:4], actions[:4])
    assert all(torch.equal(futures[i, i], x[i]) for i in range(4))  # actions[t] leads to x[t]: not off by one
    both = source.true_futures(episodes[:4], frames[:4] / 255, TURNS)  # they part with the first action
    again = source.true_futures(episodes[1:2], frames[1:2], TURNS[:, :2])
    assert (both[0] != both[1]).flatten(2).any(2).all() and torch.equal(again, both[:, 1:2, :2])
    for wrong in (frames[1:5], frames[:4, 1:], x[:4, :2]):  # other clips', and other times'
        with pytest.raises(InputError, match="does not look as in the frames given"):
            source.true_futures(episodes[:4], wrong, TURNS)
    cached = next((empty_home / ".cache" / "pyro_vae" / "vizdoom").iterdir())
    monkeypatch.setattr(source, "_world", None)  # not needed any more
    assert torch.equal(load_data("vizdoom", **SMALL).train.column("x"), x)
    cached.write_bytes(cached.read_bytes()[:-100])
    with pytest.raises(CorruptFileError, match="damaged"):
        load_data("vizdoom", **SMALL)


@played
def test_more_clips_are_the_same_ones_and_more(empty_home):
    few, many = (load_data("vizdoom", **{**SMALL, "clips": count}) for count in (10, 20))
    for name in ("x", "frames", "actions", "episode"):
        assert torch.equal(many.train.column(name)[:10], few.train.column(name))
        assert torch.equal(many.test.column(name)[:1], few.test.column(name))


@played
def test_the_last_frame_stays_where_the_game_ends():
    with source._world() as world:
        world.begin(0)
        world.game.send_game_command("endgame")
        before = world.step(2)
        world.ended = True
        assert np.array_equal(world.step(0), before)


def test_what_cannot_be_is_refused(empty_home):
    for options, message in (
        ({"clips": 9}, "at least 10"),
        ({"given": 0}, "given must be a positive integer"),
        ({"steps": 400}, "at most 400 together"),
        ({"image_size": 200}, "from 8 to 120"),
        ({"bars": 2}, "not for these data"),
    ):
        with pytest.raises(InputError, match=message):
            load_data("vizdoom", **options)
    with pytest.raises(InputError, match="from 0 to 4"):
        source.true_futures(torch.tensor([0]), torch.zeros(1, 2, 3, 16, 16), torch.tensor([[5]]))
    for frames in (torch.zeros(2, 2, 3, 16, 16), torch.zeros(1, 3, 16, 16), torch.zeros(1, 2, 3, 16, 12)):
        with pytest.raises(InputError, match=r"frames must be \(1, T0, 3, size, size\)"):
            source.true_futures(torch.tensor([0]), frames, TURNS)


def test_a_missing_extra_is_named(empty_home, monkeypatch):
    monkeypatch.setattr(source, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'pyro-vae\[video\]'"):
        load_data("vizdoom", **SMALL)
    monkeypatch.undo()
    code = "import sys; sys.modules['vizdoom'] = None; import pyro_vae.data.sources.vizdoom_clips"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0  # nothing imports it before it is used


def test_runs_of_one_action_are_as_long_as_a_clip():
    generator = torch.Generator().manual_seed(0)
    clips = [source._runs(generator, 10) for _ in range(400)]
    alone = [clip[0] for clip in clips if len(set(clip)) == 1]
    assert {0, 1, 2} <= set(alone) and len(alone) > 60
    assert all(len(clip) == 10 for clip in clips) and max(map(len, map(set, clips))) > 2
