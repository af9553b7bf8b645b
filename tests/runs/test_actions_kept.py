"""A run keeps the names of its data's actions and how clips are looked at, and hands their number to classes."""

import numpy as np
import pytest
import torch
import yaml

from pyro_vae.cli import main
from pyro_vae.data import Actions, Clips, RawData, registry, source
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.runs import Run

SIZES = {"num_codes": 4, "code_dim": 2, "channels": 4, "block_channels": 2}


@pytest.fixture
def moves(monkeypatch):
    """A data set of clips; the names of its actions are the test's to change."""
    registry.sources()
    monkeypatch.setattr(registry, "_sources", dict(registry._sources))
    names = ["left", "right", "up"]

    @source("moves", "noise with actions")
    def load_moves() -> RawData:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (24, 5, 3, 8, 8), generator=generator).to(torch.uint8)
        actions = torch.randint(3, (24, 3), generator=generator)
        parts = {"train": slice(0, 16), "test": slice(16, 24)}
        held = {k: {"x": pixels[s, 2:], "frames": pixels[s, :2], "actions": actions[s]} for k, s in parts.items()}
        return RawData(held, extras=(Actions(tuple(names)), Clips()))

    return names


@pytest.fixture
def run(moves, tmp_path):
    config = {
        "data": {"name": "moves"},
        "model": {"class_path": "pyro_vae.models.VideoVQVAE", "init_args": SIZES},
        "guide": {"class_path": "pyro_vae.guides.VideoVQGuide"},
        "fit": {"epochs": 1, "batch_size": 8, "compile": "off"},
    }
    (tmp_path / "moves.yaml").write_text(yaml.safe_dump(config))
    assert main(["-q", "train", str(tmp_path / "moves.yaml"), "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def test_they_are_known_without_the_data(run, moves):
    kept = Run(run)
    assert kept.actions == Actions(("left", "right", "up")) and kept.pictures == Clips()
    model, _ = kept.programs()
    assert model.num_actions == 3 and model.frames_shape == (2, 3, 8, 8)
    kept.data()
    moves[:] = ["right", "left", "up"]  # the same numbers, which mean something else now
    with pytest.raises(InputError, match="are not those that the run was begun with, left, right, up"):
        kept.data()


def test_damaged_names_are_refused(run):
    file = run / "config.yaml"
    config = yaml.safe_load(file.read_text())
    for wrong in (["left"], ["left", "left"], ["left", 3], "left", 3, {"left": 1}):
        file.write_text(yaml.safe_dump({**config, "actions": wrong}, sort_keys=False))
        with pytest.raises(CorruptFileError, match="damaged"):
            Run(run)


def test_the_number_may_be_said_and_must_be_known(run, moves, tmp_path, capsys):
    batch = {"frames": torch.rand(6, 2, 3, 8, 8), "x": torch.rand(6, 3, 3, 8, 8).round()}
    arrays = {**{name: value.numpy() for name, value in batch.items()}, "actions": np.zeros((6, 3), np.int64)}
    np.savez(tmp_path / "own.npz", **arrays)
    config = yaml.safe_load((tmp_path / "moves.yaml").read_text())
    config["data"]["name"] = str(tmp_path / "own.npz")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    assert main(["-q", "train", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "own")]) == 1
    assert "VideoVQVAE needs num_actions" in capsys.readouterr().err
    own = ["train", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "own")]
    assert main(["-q", *own, "--model.num_actions", "2"]) == 0
    assert Run(tmp_path / "own").programs()[0].num_actions == 2
