"""A small run of fields given an image, and its data, as files."""

import numpy as np
import torch
import yaml

from pyro_vae.cli import main

SIDES = (8, 6)
MODEL = {"latent_dim": 2, "channels": [6], "context_dim": 5}
PARTS = {"train": 40, "validation": 16, "test": 12}


def fields(n, seed, sides=SIDES):
    """x is a grey image and its negative, in either order, which the image leaves open; with noise."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(n, 1, *sides, generator=generator)
    sign = torch.randint(2, (n, 1, 1, 1), generator=generator) * 2.0 - 1.0
    noise = torch.randn(n, 2, *sides, generator=generator)
    return {"x": torch.cat([sign * image, -sign * image], 1) + 0.1 * noise, "image": image}


def write_fields(path, seed=0, **changed):
    """A .npz of three parts; entries are changed by functions of their tensors."""
    arrays = {}
    for place, (part, n) in enumerate(PARTS.items()):
        for name, value in fields(n, 10 * seed + place).items():
            arrays[f"{name}_{part}"] = changed.get(name, lambda each: each)(value).numpy()
    np.savez(path, **arrays)
    return path


def recipe(data, **model):
    """A configuration that says no shape."""
    return {
        "data": {"name": str(data)},
        "model": {"class_path": "FieldVAE", "init_args": MODEL | model},
        "guide": {"class_path": "FieldGuide", "init_args": {"channels": [6], "context_dim": 5}},
        "fit": {"epochs": 2, "batch_size": 10, "learning_rate": 0.01},
    }


def trained(folder, changed=None, **model):
    """The directory of a run that the command line has trained in a folder; entries may be changed by functions."""
    data = write_fields(folder / "fields.npz", **changed or {})
    (folder / "fields.yaml").write_text(yaml.safe_dump(recipe(data, **model)))
    command = ["train", str(folder / "fields.yaml"), "--out", str(folder / "run"), "--seed", "1"]
    assert main(command) == 0
    return folder / "run"
