"""Accuracy of images of scenes: whether they show what their captions say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from pyro_vae.data.scenes import NUM_OBJECTS, PLACES, Scenes
from pyro_vae.errors import InputError
from pyro_vae.evaluation.results import mean_and_error

CHUNK = 1024  # images looked at together
LAYOUT_NAMES = ("left of", "above", "two above two")


@dataclass
class SceneScore:
    """What is right in images of scenes.

    Attributes:
        layout: of the caption, int64 ``(num_images,)``.
        objects: whether the nearest bitmap at each place of the caption's layout is the caption's object, bool
            ``(num_images, 4)``; False where a layout has no such place.
        scenes: whether the nearest of all scenes is the caption's, bool ``(num_images,)``: the layout, and all objects,
            each at its place.
    """

    layout: Tensor
    objects: Tensor
    scenes: Tensor

    @property
    def per_object(self) -> Tensor:
        """The share of its objects that are right, of each image, ``(num_images,)``."""
        counts = torch.tensor([NUM_OBJECTS[kind] for kind in sorted(NUM_OBJECTS)])
        return self.objects.sum(1) / counts[self.layout]

    def to_dict(self) -> dict[str, float | int]:
        """The summary as plain values: accuracies between 0 and 1 with standard errors, in all and by layout."""
        summary: dict[str, float | int] = {"num_images": len(self.scenes)}
        for name, values in {"object": self.per_object, "scene": self.scenes}.items():
            summary[f"{name}_accuracy"], summary[f"{name}_standard_error"] = mean_and_error(values)
            for kind, layout_name in enumerate(LAYOUT_NAMES):
                if (of_kind := self.layout == kind).any():
                    summary[f"{name}_accuracy, {layout_name}"] = mean_and_error(values[of_kind])[0]
        return summary


def score_scenes(images: Tensor, captions: Sequence[str], scenes: Scenes) -> SceneScore:
    """Compare images with their captions.

    Args:
        images: ``(N, 3, size, size)``, floats in [0, 1] or uint8.
        captions: N.
        scenes: what the scenes are made of.

    Raises:
        InputError: for images of another size, another number of captions, and captions of no scene.
    """
    if len(captions) != len(images):
        raise InputError(f"there are {len(captions)} captions for {len(images)} images; give every image one")
    layout, objects = scenes.parse(list(captions))
    found, seen = recognize(images, scenes)
    at_places = seen[torch.arange(len(layout)), layout]  # (N, 4), by the layout that the caption has
    there = objects >= 0
    right = (at_places == objects) & there
    return SceneScore(layout, right, (found == layout) & (right == there).all(1))


def recognize(images: Tensor, scenes: Scenes) -> tuple[Tensor, Tensor]:
    r"""The nearest scene of all that there are, for each image.

    With b running over the bitmaps, white among them, the distance of an image from the nearest scene of one layout is

    .. math:: \sum_{places} \min_b \|blur(x_{place}) - blur(b)\|^2 + \|blur(x_{beside}) - 1\|^2,

    and the layout with the least is taken. The blur is the mean over 3 x 3 pixels of objects of 16 x 16 (in general
    2 [side / 16] + 1 a side), the edge repeated: what a reconstruction lacks first is the finest detail.

    Args:
        images: ``(N, 3, size, size)``, floats in [0, 1] or uint8.
        scenes: what the scenes are made of.

    Returns:
        layout int64 ``(N,)``, and the nearest objects at the places of *each* layout, int64 ``(N, 3, 4)``: -1 where it
        has no such place, K where white is nearest. On the CPU.

    Raises:
        InputError: for images of another size.
    """
    shape = (3, 2 * scenes.side, 2 * scenes.side)
    if images.dim() != 4 or tuple(images.shape[1:]) != shape:
        raise InputError(
            f"images of these scenes have shape (N, {', '.join(map(str, shape))}), got {tuple(images.shape)}"
        )
    bitmaps = _as_float(scenes.bitmaps.to(images.device))
    known = torch.cat([bitmaps, torch.ones_like(bitmaps[:1])])  # (K + 1, 3, side, side)
    side = 2 * (scenes.side // 16) + 1
    references = _blurred(known, side).flatten(1)
    found = [_recognize(_as_float(some), scenes, references, side) for some in images.split(CHUNK)]
    layouts, objects = zip(*found, strict=True)
    return torch.cat(layouts).cpu(), torch.cat(objects).cpu()


def _recognize(images: Tensor, scenes: Scenes, references: Tensor, side: int) -> tuple[Tensor, Tensor]:
    distances = images.new_zeros(len(images), len(NUM_OBJECTS))
    objects = torch.full((len(images), len(NUM_OBJECTS), PLACES), -1, device=images.device)
    for layout in sorted(NUM_OBJECTS):
        for place, box in enumerate(scenes.boxes(layout)):
            cut = _blurred(box.cut(images), side).flatten(1)
            nearest = torch.cdist(cut, references, compute_mode="donot_use_mm_for_euclid_dist").square().min(1)
            distances[:, layout] += nearest.values
            objects[:, layout, place] = nearest.indices
        for box in scenes.white(layout):
            distances[:, layout] += (1 - _blurred(box.cut(images), side)).square().flatten(1).sum(1)
    return distances.argmin(1), objects


def _blurred(images: Tensor, side: int) -> Tensor:
    """The mean over a window around each pixel."""
    margin = side // 2
    return avg_pool2d(pad(images, (margin,) * 4, mode="replicate"), side, 1)


def _as_float(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()
