"""The datasets that are known by name, and how one becomes splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from pyro_vae.data.arrays import Layout, load_arrays
from pyro_vae.data.binarization import QUADRANTS, Binarization, binarize, check_binarization, quadrant_mask
from pyro_vae.data.dataset import Data, Loaded
from pyro_vae.data.images import SOUNDS, kind_of, shown, square
from pyro_vae.data.sound import Encoding
from pyro_vae.data.sources.emoji import load_emoji, load_emoji_names
from pyro_vae.data.sources.idx import load_idx_set, load_mnist5k
from pyro_vae.data.sources.image_folder import load_folder
from pyro_vae.data.sources.sound_folder import load_sound_folder
from pyro_vae.data.sources.speech import load_speech
from pyro_vae.data.sources.torchvision_sets import load_celeba, load_cifar10, load_omniglot, load_svhn
from pyro_vae.data.split import PARTS, Parts, Split
from pyro_vae.errors import InputError, unknown
from pyro_vae.files import user_path


@dataclass(frozen=True)
class Dataset:
    """A registered dataset: one line on it, and its loader ``(root, image_size, limit) -> parts``."""

    description: str
    load: Callable[[Path | None, int | None, int | None], Parts]


def _idx_set(name: str, what: str) -> Dataset:
    text = f"{what}, 28x28 grey, 10 classes; 50,000 train / 10,000 validation / 10,000 test"
    return Dataset(text, lambda root, image_size, limit: load_idx_set(name, root))


DATASETS: dict[str, Dataset] = {
    "mnist5k": Dataset(
        "5,000 MNIST digits embedded in the package, 28x28 grey, 10 classes; 4,000 train / 500 validation / 500 test",
        lambda root, image_size, limit: load_mnist5k(),
    ),
    "fashion-mnist": _idx_set("fashion-mnist", "Fashion-MNIST clothes (Xiao et al. 2017)"),
    "mnist": _idx_set("mnist", "MNIST handwritten digits (LeCun & Cortes)"),
    "kmnist": _idx_set("kmnist", "Kuzushiji-MNIST characters (Clanuwat et al. 2018)"),
    "omniglot": Dataset(
        "Omniglot characters (Lake et al. 2015), grey, 28x28 unless image_size says otherwise, ink white; "
        "17,352 train / 1,928 validation / 13,180 test",
        load_omniglot,
    ),
    "cifar10": Dataset(
        "CIFAR-10 photographs (Krizhevsky 2009), 32x32 RGB, 10 classes; 45,000 train / 5,000 validation / 10,000 test",
        load_cifar10,
    ),
    "svhn": Dataset(
        "SVHN house numbers (Netzer et al. 2011), 32x32 RGB, 10 classes; 65,932 train / 7,325 validation / 26,032 test",
        load_svhn,
    ),
    "celeba": Dataset(
        "CelebA faces (Liu et al. 2015), RGB, 64x64 unless image_size says otherwise; "
        "162,770 train / 19,867 validation / 19,962 test",
        load_celeba,
    ),
}

SOUND_DATASETS = {
    "speech": "20 words by 10 voices of espeak-ng (made here once), 1.024 s at 8 kHz unless sample_rate and length say "
    "otherwise; y is the speaker; 2,000 train / 200 validation / 200 test",
}

EMOJI_DATASETS = {
    "emoji": "scenes of two or four emoji of 16 (drawn here, 32x32 RGB; objects, scenes and image_size change it) with "
    "captions; of held-out combinations in validation and test; 20,000 train / 128 validation / 256 test",
    "emoji-names": "1,373 emoji of the Noto colour font, each with its name as caption, 32x32 RGB unless image_size "
    "says otherwise; 80% train / 10% validation / 10% test",
}


def dataset_names() -> dict[str, str]:
    """Return the registered datasets: name -> one-line description."""
    return {name: dataset.description for name, dataset in DATASETS.items()} | SOUND_DATASETS | EMOJI_DATASETS


ARRAYS = (".npz", ".npy")


def load_data(
    name: str,
    *,
    root: str | Path | None = None,
    binarization: Binarization = "none",
    binarization_seed: int = 0,
    image_size: int | None = None,
    limit: int | None = None,
    observed_quadrants: Literal[1, 2, 3] | None = None,
    sample_rate: int | None = None,
    length: int | None = None,
    encoding: Encoding = "linear",
    objects: int | None = None,
    scenes: int | None = None,
    layout: Layout | None = None,
) -> Data:
    """Load a dataset by name, from an array file, or from a folder of images or WAV files.

    Args:
        name: a registered name (:func:`dataset_names`), a path to a ``.npz`` or ``.npy`` file, or a folder of
            images or of WAV files.
        root: folder in which a registered dataset's files are looked for first.
        binarization: ``"none"``; ``"threshold"`` (x/255 >= 0.5); ``"static"`` (drawn once as
            Bernoulli(x/255)); ``"dynamic"`` (training data drawn anew for every batch, validation and test
            data as under static).
        binarization_seed: of the draws done once; each split has its own stream.
        image_size: images are cut to their central square and resized to this many pixels a side.
        limit: at most that many data of each split (the first ones), for quick trials.
        observed_quadrants: for completing images: 1 (the lower left quadrant is observed), 2 (the left half), 3 (all
            but the upper right quadrant). A batch then holds, beside x, the observed part ``y`` (0 elsewhere; it takes
            the place of labels) and ``mask``, True where observed.
        sample_rate: of sound, in Hz: recordings are resampled to it. If None, that of the files (``speech``: 8000).
        length: of sound: samples to which recordings are cut, or padded with silence, at the end. If None, that of the
            files (``speech``: 1.024 seconds).
        encoding: of sound: ``"linear"`` (x in [-1, 1]) or ``"mu_law"`` (x one of the levels k/255 in [0, 1]).
        objects: of ``emoji``: how many different ones there are in the scenes, 8 to 48; 16 if None.
        scenes: of ``emoji``: how many for training; 20,000 if None.
        layout: of an array file: what the axes of x are, ``"NHW"``, ``"NCHW"``, ``"NHWC"``, or ``"NCL"`` (signals). If
            None, told from the shape; the log says how, where it could be told otherwise.

    Returns:
        The splits, on the CPU. ``x`` is stored as uint8 (grey levels, mu-law levels), bool (binarized) or float; of
        sound it has the shape (1, length), and ``Data.sound`` says how it is played. Of a folder, ``Split.names`` are
        its files' names, and ``Data.classes`` its class folders'.

    Raises:
        InputError: for an unknown name (with the nearest one), a missing or damaged file (named), and
            unusable arguments.
    """
    check_binarization(binarization, binarization_seed)
    _check_positive("image_size", image_size)
    counts = {"limit": limit, "sample_rate": sample_rate, "length": length, "objects": objects, "scenes": scenes}
    for argument, value in counts.items():
        _check_positive(argument, value)
    root = _check_root(root)
    if layout is not None and Path(name).suffix.lower() not in ARRAYS:
        _refuse(str(name), "no arrays", {"layout": layout})
    load_sound = _sound_loader(str(name), root, limit)
    if name != "emoji":
        _refuse(str(name), "no composed scenes", {"objects": objects, "scenes": scenes})
    if load_sound is not None:
        for_images = {"image_size": image_size, "observed_quadrants": observed_quadrants}
        _refuse(str(name), "sound", for_images | {"binarization": None if binarization == "none" else binarization})
        loaded = load_sound(sample_rate, length, encoding)
    else:
        for_sound = {"encoding": None if encoding == "linear" else encoding}
        _refuse(str(name), "no sound", {"sample_rate": sample_rate, "length": length} | for_sound)
        loaded = _load_images(str(name), root, image_size, limit, objects, scenes, layout)
    parts, sound = loaded.parts, loaded.sound
    splits: dict[str, Split] = {}
    for part in PARTS:
        if part in parts:
            tensors = {key: tensor[:limit] for key, tensor in parts[part].items()}
            if image_size is not None:
                tensors["x"] = square(tensors["x"], image_size, name=f"{name} {part}")
            mask = None
            if observed_quadrants is not None:
                mask = quadrant_mask(tuple(tensors["x"].shape[1:]), observed_quadrants, f"{name} {part}")
            names = loaded.names[part][:limit] if part in loaded.names else None
            splits[part] = _split(tensors, mask, names, shown(name), part, binarization, binarization_seed)
    how = (
        _binarized(binarization, binarization_seed, len(splits))
        if sound is None
        else sound.describe(splits["train"].shape[-1])
    )
    description = _describe(shown(name), splits, how, limit)
    if observed_quadrants is not None:
        description += f"\nobserved of each image: {QUADRANTS[observed_quadrants]}"
    captions = None
    if loaded.captions is not None:
        captions = {part: told[:limit] for part, told in loaded.captions.items()}
        description += f"\ncaptions, such as '{captions['train'][0]}'"
    if loaded.scenes is not None:
        description += f"\nscenes of {len(loaded.scenes.names)} objects: {', '.join(loaded.scenes.names)}"
    return Data(
        **splits,
        name=shown(name),
        description=description,
        sound=sound,
        captions=captions,
        scenes=loaded.scenes,
        classes=loaded.classes if observed_quadrants is None else None,  # y is then the observed part
    )


def _split(
    tensors: dict[str, Tensor],
    mask: Tensor | None,
    names: tuple[str, ...] | None,
    name: str,
    part: str,
    binarization: Binarization,
    seed: int,
) -> Split:
    label = f"{name} {part}"
    if binarization == "dynamic" and part == "train":
        return Split(tensors, mask=mask, binarization="dynamic", names=names, name=label)
    if binarization != "none":
        how = "threshold" if binarization == "threshold" else "static"
        tensors["x"] = binarize(tensors["x"], how, seed=seed, part=part, name=label)
    return Split(tensors, mask=mask, names=names, name=label)


def _describe(name: str, splits: dict[str, Split], how: str, limit: int | None) -> str:
    sizes = " / ".join(f"{len(split):,} {part}" for part, split in splits.items())
    limited = f" (at most {limit:,} of each)" if limit is not None else ""
    return f"{name}: {sizes}{limited}\n{how}"


def _binarized(binarization: str, seed: int, num_splits: int) -> str:
    return {
        "none": "not binarized",
        "threshold": "binarized by threshold, x/255 >= 0.5",
        "static": f"binarized once as Bernoulli(x/255), seed {seed}",
        "dynamic": "training data binarized anew for every batch as Bernoulli(x/255)"
        + (f", the others once, seed {seed}" if num_splits > 1 else ""),
    }[binarization]


def _sound_loader(
    name: str, root: Path | None, limit: int | None
) -> Callable[[int | None, int | None, Encoding], Loaded] | None:
    """The loader ``(sample_rate, length, encoding)`` of data that are sound, else None."""
    if name == "speech":
        return partial(load_speech, root)
    path = user_path(name)
    if name not in dataset_names() and path.is_dir() and kind_of(path) is SOUNDS:
        return partial(load_sound_folder, path, limit=limit)
    return None


def _refuse(name: str, what: str, given: dict[str, Any]) -> None:
    """What is said of another kind of data is an error."""
    for argument, value in given.items():
        if value is not None:
            raise InputError(f"{name}: {argument} is not for these data, which are {what}; leave it out")


def _load_images(
    name: str,
    root: Path | None,
    image_size: int | None,
    limit: int | None,
    objects: int | None,
    scenes: int | None,
    layout: Layout | None,
) -> Loaded:
    """Load what is no sound."""
    if name in DATASETS:
        return Loaded(DATASETS[name].load(root, image_size, limit))
    if name == "emoji":
        return load_emoji(root, image_size, objects, scenes)
    if name == "emoji-names":
        return load_emoji_names(root, image_size)
    path = user_path(name)
    if path.is_dir():
        return load_folder(path, image_size, limit)
    if path.is_file():
        if path.suffix.lower() not in ARRAYS:
            raise InputError(f"{path}: a data file must be .npz or .npy (or give a folder of images or WAV files)")
        return Loaded(load_arrays(path, layout))
    if path.suffix or "/" in name or "\\" in name:
        raise InputError(f"dataset '{name}': no such file or folder (looked in {Path.cwd()})")
    raise unknown("dataset", name, dataset_names())


MOST = 2**31 - 1  # of what is counted: torch takes no more than a few times that


def _check_positive(argument: str, value: int | None) -> None:
    if value is not None and (type(value) is not int or not 1 <= value <= MOST):
        most = f"; {MOST:,} is the most" if isinstance(value, int) and value > MOST else ""
        raise InputError(f"{argument} must be a positive integer, got {value!r}{most}")


def _check_root(root: str | Path | None) -> Path | None:
    if root is None:
        return None
    path = user_path(root)
    if not path.is_dir():
        raise InputError(f"root: no such folder: {path}")
    return path
