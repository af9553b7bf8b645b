"""Figures of clips: how they are laid out, and when there are none."""

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae.data import Actions, Clips, Split
from pyro_vae.data.sources.grid_world import ACTIONS
from pyro_vae.errors import NotApplicable
from pyro_vae.plots import branches, rollouts
from pyro_vae.plots.clips import sheet


def test_a_clip_is_given_frames_a_line_and_what_follows():
    x, frames = torch.rand(2, 5, 3, 1, 4, 4), torch.randint(256, (5, 2, 1, 4, 4), dtype=torch.uint8)
    images = Clips().images(x, {"frames": frames})  # of two draws of five data
    assert images.shape == (2, 5, 1, 4, 22)
    assert torch.equal(images[1, 3, :, :, 4:8], frames[3, 1] / 255) and (images[..., 8:10] == 1).all()
    assert torch.equal(images[1, 3, :, :, 14:18], x[1, 3, 1])
    assert Clips().images(x, {}).shape == (2, 5, 1, 4, 12)


def test_rows_are_where_their_pictures_are():
    pictures = torch.rand(4, 3, 8, 30)
    figure = sheet(pictures, ["a", "b", "c", "d"], "title", groups=2)
    (axes,) = figure.axes
    drawn = axes.images[0].get_array()
    for place, name, picture in zip(axes.get_yticks(), axes.get_yticklabels(), pictures, strict=True):
        assert name.get_text() == "abcd"[[torch.equal(picture, p) for p in pictures].index(True)]
        assert np.allclose(drawn[round(place) - 4 : round(place) + 4], picture.permute(1, 2, 0))


def test_branches_have_their_truth_beneath():
    frames, made, truth = torch.rand(3, 2, 3, 8, 8), torch.rand(2, 3, 4, 3, 8, 8), torch.rand(2, 3, 4, 3, 8, 8)
    figure = branches(frames, made, truth, ["forward", "right"])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["forward", "truth", "right", "truth"] * 3
    row, drawn = round(axes.get_yticks()[3]), axes.images[0].get_array()
    assert np.allclose(drawn[row - 4 : row + 4, 18:26], truth[1, 0, 0].permute(1, 2, 0))


def test_rollouts_are_of_clips_with_actions():
    model = pyro_vae.models.VideoVQVAE((3, 3, 8, 8), (2, 3, 8, 8), 3, num_codes=4, code_dim=2, channels=4)
    batch = {
        "x": torch.rand(6, 3, 3, 8, 8),
        "frames": torch.rand(6, 2, 3, 8, 8),
        "actions": torch.arange(18).reshape(6, 3) % 3,
    }
    split = Split(batch)
    figure = rollouts(model, split, Actions(ACTIONS), Clips(), n=2)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["truth: left,right,forward", "the same actions", "left x 3", "right x 3", "forward x 3"] * 2
    with pytest.raises(NotApplicable, match="no clips with actions"):
        rollouts(model, split, None, Clips())
    with pytest.raises(NotApplicable, match="takes no actions"):
        rollouts(lambda x=None, *, frames: None, split, Actions(ACTIONS), Clips())
