"""A folder of pairs of images: x, and the image that it is given with, under the same names."""

from __future__ import annotations

from pathlib import Path

from pyro_vae.data.dataset import RawData
from pyro_vae.data.images import IMAGES, given_parts, image_files, is_grey, is_paired, shown
from pyro_vae.data.parts import PARTS, Parts, random_order
from pyro_vae.data.registry import source
from pyro_vae.data.sources.folders import PAIR, ImageStack
from pyro_vae.errors import InputError


@source(
    "a folder of pairs of images",
    "image files of the same names in folders x and image",
    reads=lambda path: path.is_dir() and is_paired(path, PAIR),
)
def load_pairs(path: Path, image_size: int | None, limit: int | None) -> RawData:
    """Load pairs of images, ``x/NAME.png`` and ``image/NAME.png``, or those of train/validation/test folders.

    A pair's files may be of different kinds (NAME.jpg, NAME.png). Without split folders the pairs are split at random
    (seed 0) into 80% / 10% / 10%. If all files of x are grey, x has one channel, else three; so has image.

    Args:
        path: the folder.
        image_size: central squares, resized to this many pixels a side; of x and image alike.
        limit: at most that many pairs of each split are read.

    Returns:
        ``x`` and ``image``, uint8 (N, C, H, W), and the files' names.

    Raises:
        CorruptFileError: naming the file, if an image is truncated or damaged.
        InputError: naming the file or folder, for files without a partner, or two of one name, for other layouts, and
            for images of different sizes without image_size.
    """
    found = {part: _pairs(folder) for part, folder in _folders(path).items()}
    if not given_parts(path):
        every = found["train"]
        found = {part: [every[i] for i in order.tolist()] for part, order in random_order(len(every)).items()}
    found = {part: pairs[:limit] for part, pairs in found.items()}
    parts: Parts = {part: {} for part in found}
    for which, name in enumerate(PAIR):
        files = {part: [pair[which] for pair in pairs] for part, pairs in found.items()}
        grey = all([is_grey(file) for some in files.values() for file in some])
        stack = ImageStack(path, grey, image_size, sum(map(len, files.values())))
        for part, some in files.items():
            parts[part] |= {name: stack(some)}  # type: ignore[operator]
    names = {part: tuple(shown(pair[0].relative_to(path).as_posix()) for pair in some) for part, some in found.items()}
    return RawData(parts, names)


def _folders(path: Path) -> dict[str, Path]:
    """The folder of each part that has the two; of one that is not divided, it itself."""
    if not given_parts(path):
        return {"train": path}
    parts = {part: path / part for part in PARTS if (path / part).is_dir()}
    for folder in parts.values():
        if not is_paired(folder, PAIR):
            raise InputError(f"{folder}: must have the folders {' and '.join(PAIR)}, as train has, and no others")
    return parts


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The files of x with their partners, by name."""
    stems = []
    for name in PAIR:
        by_stem: dict[str, Path] = {}
        for file in image_files(folder / name):
            if file.stem in by_stem:
                raise InputError(f"{file}: {by_stem[file.stem].name} has the same name; a pair is told by it")
            by_stem[file.stem] = file
        stems.append(by_stem)
    x, image = stems
    for mine, theirs, other in ((x, image, PAIR[1]), (image, x, PAIR[0])):
        alone = next((file for stem, file in mine.items() if stem not in theirs), None)
        if alone is not None:
            partner = folder / other / f"{alone.stem}{IMAGES.suffixes[0]}"
            raise InputError(f"{alone}: has no partner {partner}, or of another kind; add it, or remove this one")
    if not x:
        raise InputError(f"{folder / PAIR[0]}: no images in this folder; looked for {', '.join(IMAGES.suffixes)}")
    return [(file, image[stem]) for stem, file in x.items()]
