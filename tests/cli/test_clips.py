"""``pyro-vae sample --actions``: what is written, and what is refused."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.cli import main
from pyro_vae.cli.clips import BORDER, write_gif


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "grid"
    sizes = ["--model.num_codes", "8", "--model.channels", "8", "--model.code_dim", "4", "--model.block_channels", "4"]
    data = ["--data.limit", "12", "--data.steps", "4"]
    arguments = ["video-codes-grid", "--out", str(path), *data, *sizes, "--fit.epochs", "1", "--fit.compile", "off"]
    assert main(["-q", "train", *arguments]) == 0
    return path


def test_clips_are_written_and_older_ones_removed(run, capsys):
    assert main(["sample", str(run), "--actions", "forward*4;right", "--num", "3", "--batch-size", "2"]) == 0
    said = capsys.readouterr().out
    assert "000.gif  forward*4" in said and "005.gif  right" in said
    with np.load(run / "samples.npz") as arrays:
        assert arrays["x.mean"].shape == (2, 3, 4, 3, 24, 24) and arrays["frames"].shape == (3, 2, 3, 24, 24)
        assert arrays["steps"].tolist() == [4, 1] and arrays["actions"].shape == (2, 4)
        assert len(np.unique(arrays["actions"][1])) == 1  # the last action goes on
        frames = arrays["frames"]
    assert len(list((run / "samples").glob("*.gif"))) == 6
    with Image.open(run / "samples" / "000.gif") as image:
        times = -(-160 // 24)
        assert image.size == (24 * times + 2 * BORDER,) * 2 and image.info["loop"] == 0
        first = np.asarray(image.convert("RGB"), float) / 255
    assert np.abs(first[BORDER:-BORDER:times, BORDER:-BORDER:times].transpose(2, 0, 1) - frames[0, 0]).max() < 0.06
    assert (run / "figures" / "clips.png").is_file()
    assert main(["sample", str(run), "--actions", "forward", "--num", "2"]) == 0
    assert sorted(file.name for file in (run / "samples").iterdir()) == ["000.gif", "001.gif"]


def test_a_prior_that_is_not_told_the_actions_is_named(run, tmp_path, caplog):
    """One that is not learned yet, and one that was told none; of one that is told them there is no such word."""
    said = "does not depend on the actions"
    small = ["frame-pixelcnn", "--prior.channels", "4", "--prior.num_layers", "1", "--fit.epochs", "1"]
    small += ["--fit.compile", "off"]
    for name, options, ignored in (
        ("uniform", None, True),
        ("without", ["--conditional", "false"], True),
        ("told", [], False),
    ):
        other = shutil.copytree(run, tmp_path / name)
        if options is not None:
            assert main(["-q", "train-prior", str(other), *small, *options]) == 0
        drawn = []
        for action in ("left", "forward"):
            caplog.clear()
            assert main(["sample", str(other), "--actions", f"{action}*4", "--num", "2"]) == 0
            assert (said in caplog.text) == ignored
            with np.load(other / "samples.npz") as arrays:
                drawn.append(arrays["x.mean"])
        assert np.array_equal(*drawn) == ignored


def test_frames_of_ones_own_are_given(run, tmp_path, capsys):
    frames = np.random.default_rng(0).integers(256, size=(2, 2, 3, 24, 24), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", frames=frames)
    own = ["--given", str(tmp_path / "own.npz")]
    assert main(["sample", str(run), "--actions", "left*2,right*2", *own]) == 0
    assert len(list((run / "samples").glob("*.gif"))) == 2
    with np.load(run / "samples.npz") as arrays:
        assert np.allclose(arrays["frames"], frames / 255) and arrays["actions"].tolist() == [[0, 0, 1, 1]]
    assert main(["sample", str(run), "--actions", "left", *own, "--num", "3"]) == 0  # three draws of each
    assert len(list((run / "samples").glob("*.gif"))) == 6
    np.savez(tmp_path / "own.npz", frames=frames[:, :1])
    assert main(["sample", str(run), "--actions", "left", *own]) == 1
    assert "(N, 2, 3, 24, 24)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--actions", "forward*5"], "forward\\*5: 5 steps, but the model takes 4"),
        (["--actions", "jump"], "unknown action 'jump'"),
        (["--actions", "forward*4", "--y", "1"], "--y is not for --actions"),
        (["--actions", "forward*4", "--beams", "3"], "--beams is not for --actions"),
        (["--actions", "forward*4", "--num", "0"], "--num must be a positive integer"),
        (["--actions", "forward*4", "--temperature", "0"], "temperature"),
    ],
)
def test_what_cannot_be_done_is_refused(run, arguments, message, capsys):
    assert main(["sample", str(run), *arguments]) in (1, 2)
    import re

    assert re.search(message, capsys.readouterr().err)


def test_a_run_without_actions_is_refused(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((30, 1, 4, 4), np.float32))
    small = ["--model.latent_dim", "2", "--model.hidden_dims", "[4]", "--guide.hidden_dims", "[4]", "--fit.epochs", "1"]
    assert (
        main(["-q", "train", "vae", "--data.name", str(tmp_path / "x.npz"), "--out", str(tmp_path / "r"), *small]) == 0
    )
    assert main(["sample", str(tmp_path / "r"), "--actions", "forward*4"]) == 1
    assert "--actions is not for this run: its data do not say what actions are called" in capsys.readouterr().err


def test_given_frames_have_a_white_border_and_others_a_black_one(tmp_path):
    write_gif(tmp_path / "clip.gif", torch.full((2, 1, 8, 8), 0.5), torch.full((3, 1, 8, 8), 0.25))
    with Image.open(tmp_path / "clip.gif") as image:
        borders, times = [], []
        for place in range(image.n_frames):
            image.seek(place)
            borders.append(image.convert("L").getpixel((0, 0)))
            times.append(image.info["duration"])
    assert borders[0] == 255 and borders[-1] == 0
    assert sum(times) == 5 * 150  # frames that are alike may be one that stays longer


def test_frames_may_be_bytes_or_floats_beyond(tmp_path):
    frames = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
    seen = []
    for some in (frames, frames / 255, torch.where(frames < 128, frames / 255 - 1, frames / 255 + 1)):
        write_gif(tmp_path / "clip.gif", some[:1], some[1:])
        with Image.open(tmp_path / "clip.gif") as image:
            seen.append(np.asarray(image.convert("RGB"))[BORDER:-BORDER:20, BORDER:-BORDER:20])
    assert np.array_equal(seen[0], seen[1])
    assert np.abs(seen[0] - frames[0].permute(1, 2, 0).numpy().astype(float)).mean() < 12  # a GIF has 256 colours
    assert np.array_equal(seen[2], np.where(frames[0].permute(1, 2, 0) < 128, 0, 255))
