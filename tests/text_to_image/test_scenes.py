"""The score of composed scenes."""

import itertools

import pytest
import torch
from made_scenes import made_scenes

from pyro_vae.data.scenes import ABOVE, GRID, LEFT_OF
from pyro_vae.data.sources.emoji import draw_scenes
from pyro_vae.errors import InputError
from pyro_vae.text_to_image import recognize, score_scenes


def some(side=16, count=400):
    scenes = made_scenes(side)
    layout, objects = draw_scenes(8, count)["train"]
    return scenes, layout, objects, scenes.draw(layout, objects)


def test_real_scenes_are_perfect():
    for side in (8, 16, 32):
        scenes, layout, objects, images = some(side, 64)
        captions = scenes.captions(layout, objects)
        for x in (images, images / 255, 0.02 * torch.randn(images.shape) + images / 255):
            score = score_scenes(x, captions, scenes)
            assert score.scenes.all() and (score.per_object == 1).all()
    told = score.to_dict()
    assert told["object_accuracy"] == told["scene_accuracy"] == told["scene_accuracy, left of"] == 1


def test_shuffled_captions_are_at_chance():
    scenes, layout, objects, images = some()
    grids = layout == GRID
    shuffled = objects[grids][torch.randperm(int(grids.sum()), generator=torch.Generator().manual_seed(0))]
    score = score_scenes(images[grids], scenes.captions(layout[grids], shuffled), scenes)
    assert abs(score.objects.float().mean() - 1 / 8) < 0.04  # 300 scenes, 1,200 objects
    assert score.scenes.float().mean() < 0.02


def test_one_fault_is_one_fault():
    scenes = made_scenes(16)
    captions = ["pink and lemon above grey and cyan", "pink left of lemon", "pink above lemon"]
    layout, objects = scenes.parse(captions)
    for place in range(4):
        wrong = objects.clone()
        wrong[:, place] = torch.where(objects[:, place] >= 0, 0, -1)  # a red bar in its place
        score = score_scenes(scenes.draw(layout, wrong), captions, scenes)
        assert score.objects[0].tolist() == [i != place for i in range(4)] and score.per_object[0] == 0.75
        faults = place < 2
        assert score.scenes.tolist() == [False, not faults, not faults]
        assert score.per_object[1:].tolist() == ([0.5, 0.5] if faults else [1, 1])
    swapped = objects[:, [1, 0, 2, 3]]
    assert score_scenes(scenes.draw(layout, swapped), captions, scenes).per_object.tolist() == [0.5, 0, 0]
    other = torch.tensor([GRID, ABOVE, LEFT_OF])  # the right objects in the wrong relation
    score = score_scenes(scenes.draw(other, objects), captions, scenes)
    assert score.scenes.tolist() == [True, False, False]
    missing = scenes.draw(layout, objects)
    missing[1, :, :, :16] = 255
    assert score_scenes(missing, captions, scenes).objects[1].tolist() == [False, True, False, False]


def test_the_nearest_of_all_scenes():
    """Against the list of all scenes, on noise and mixtures; without blur (objects of 8 pixels)."""
    whole = made_scenes(8)
    scenes = type(whole)(whole.names[:3], whole.bitmaps[:3])
    known = torch.cat([scenes.bitmaps, torch.full_like(scenes.bitmaps[:1], 255)])  # with white
    everything = type(whole)((*scenes.names, "nothing"), known)
    pairs, grids = (torch.tensor([*itertools.product(range(4), repeat=n)]) for n in (2, 4))
    rows = torch.cat([torch.cat([pairs, -torch.ones_like(pairs)], 1).repeat(2, 1), grids])
    layouts = torch.tensor([LEFT_OF] * 16 + [ABOVE] * 16 + [GRID] * 256)
    all_scenes = everything.draw(layouts, rows).flatten(1) / 255
    mixed = all_scenes[torch.randint(288, (60, 3))].mean(1) + 0.2 * torch.randn(60, all_scenes.shape[1])
    distance = (mixed[:, None] - all_scenes).square().sum(-1)
    nearest = distance.argmin(1)
    layout, objects = recognize(mixed.reshape(-1, 3, 16, 16), scenes)
    found = objects[torch.arange(60), layout]
    index = {(kind, *row): i for i, (kind, row) in enumerate(zip(layouts.tolist(), rows.tolist(), strict=True))}
    ours = torch.tensor([index[(k, *row)] for k, row in zip(layout.tolist(), found.tolist(), strict=True)])
    rows_ = torch.arange(60)
    torch.testing.assert_close(distance[rows_, ours], distance[rows_, nearest], rtol=1e-4, atol=1e-4)


def test_refusals():
    scenes, layout, objects, images = some(8, 8)
    captions = scenes.captions(layout, objects)
    with pytest.raises(InputError, match="7 captions for 8 images"):
        score_scenes(images, captions[:7], scenes)
    with pytest.raises(InputError, match=r"have shape \(N, 3, 16, 16\), got \(8, 3, 8, 8\)"):
        score_scenes(images[..., :8, :8], captions, scenes)
    with pytest.raises(InputError, match="describes no scene"):
        score_scenes(images[:1], ["a cat"], scenes)
