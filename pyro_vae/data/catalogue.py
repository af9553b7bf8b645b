"""The datasets that are known by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyro_vae.data.idx import load_idx_set
from pyro_vae.data.mnist5k import load_mnist5k
from pyro_vae.data.parts import Parts
from pyro_vae.data.torchvision_sets import load_celeba, load_cifar10, load_omniglot, load_svhn


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
