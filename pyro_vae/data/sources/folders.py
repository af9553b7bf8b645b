"""A folder of images, with or without captions, or of WAV files, as a dataset."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.data.dataset import Classes, Extra, RawData
from pyro_vae.data.images import (
    IMAGES,
    SOUNDS,
    Labelled,
    class_names,
    file_names,
    find_splits,
    is_grey,
    is_paired,
    kind_of,
    read_image,
    shown,
    square,
)
from pyro_vae.data.parts import Parts, Texts
from pyro_vae.data.registry import check_counts, source
from pyro_vae.data.rows import Beside, Rows
from pyro_vae.data.sound import Encoding, Sound
from pyro_vae.data.streams import Items
from pyro_vae.data.wav import Header, read_header
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.runtime import check_room

logger = logging.getLogger(__name__)

PAIR = ("x", "image")  # folders of pairs of images, and the entries of a batch that their files become
LONGEST = 1 << 16  # bytes of a caption beside an image
NAMES = ("captions.txt", "captions.tsv", "captions.json")


def find_captions(root: Path, splits: dict[str, Labelled]) -> Texts:
    """The captions of a folder's images, from the files ``captions.txt``, ``.tsv`` or ``.json`` in it.

    Such a file lies beside the images, or in a folder above them, up to the dataset's own; it names the images by their
    path from there. A line of ``.txt`` and ``.tsv`` is the image's name, a tab, and its caption; ``.json`` holds one
    object, ``{"name": "caption"}``. UTF-8.

    Where there is no such file, a caption may lie beside each image, in a text file of the same name (``a.png``,
    ``a.txt``). They are taken if every image has one; else, or if one is empty or not to be read, one line of the log
    says that they are passed over: text files beside images may also be something else.

    Args:
        root: the dataset's folder.
        splits: its images.

    Returns:
        one caption an image by split, in the order of the images; empty if there are none.

    Raises:
        CorruptFileError: naming the file, if it is no JSON or not UTF-8.
        InputError: naming the file, the line or the image: for a line without a tab, an empty caption, an image that is
            not there, that has no caption or two, and two captions files in a folder.
    """
    images = {file for members in splits.values() for file, _ in members}
    folders = sorted({parent for file in images for parent in file.parents if parent.is_relative_to(root)})
    files = [file for folder in folders for file in _in_folder(folder)]
    if not files:
        return _beside(root, splits)
    by_file: dict[Path, str] = {}
    for file in files:
        for name, caption in _read(file):
            image = file.parent / name
            if image not in images:
                raise InputError(f"{file}: there is no image '{name}' in {file.parent}; correct or remove its line")
            if image in by_file:
                raise InputError(f"{file}: '{name}' has a caption already; give every image one")
            if not caption.strip():
                raise InputError(f"{file}: the caption of '{name}' is empty")
            by_file[image] = caption.strip()
    silent = sorted(images - by_file.keys())
    if silent:
        raise InputError(f"{silent[0]} has no caption in {files[0]}, and {len(silent) - 1} other images; add them")
    return {part: tuple(by_file[file] for file, _ in members) for part, members in splits.items()}


def _beside(root: Path, splits: dict[str, Labelled]) -> Texts:
    """Captions in text files beside the images, if every image has one."""
    images = [file for members in splits.values() for file, _ in members]
    files = [file for image in images if (file := image.with_suffix(".txt")).is_file()]
    if not files:
        return {}
    problem = None if len(files) == len(images) else f"{len(images) - len(files):,} images have none"
    by_file: dict[Path, str] = {}
    for file in files if problem is None else ():
        try:
            with file.open("rb") as stream:
                content = stream.read(LONGEST + 1)
            by_file[file] = " ".join(content.decode("utf-8-sig").split())
        except (OSError, UnicodeDecodeError):
            problem = f"{file.name} is not readable as UTF-8"
            break
        if not by_file[file] or len(content) > LONGEST:
            problem = f"{file.name} is {'too long' if by_file[file] else 'empty'}"
            break
    if problem is not None:
        logger.info("%s: text files beside images are passed over as captions, for %s", shown(root), shown(problem))
        return {}
    return {part: tuple(by_file[file.with_suffix(".txt")] for file, _ in members) for part, members in splits.items()}


def _in_folder(folder: Path) -> list[Path]:
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise InputError(f"{folder} has both {found[0].name} and {found[1].name}; keep one of them")
    return found


def _read(file: Path) -> list[tuple[str, str]]:
    """The names and captions of a file."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        entries = json.loads(text, object_pairs_hook=list) if file.suffix == ".json" else None
    except (OSError, ValueError, RecursionError) as error:  # of the file, its encoding, or JSON
        raise CorruptFileError(f"{file}: not readable ({error}); it must be UTF-8{_json(file)}") from error
    if entries is None:
        return [_line(file, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    texts = isinstance(entries, list) and all(isinstance(e, tuple) and isinstance(e[1], str) for e in entries)
    if not texts:
        raise InputError(f'{file}: must hold one object of names and captions, {{"a.png": "a cat"}}')
    broken = next((name for name, caption in entries if shown(name + caption) != name + caption), None)
    if broken is not None:
        raise InputError(f"{file}: '{shown(broken)}' or its caption has halves of characters (\\ud800 to \\udfff)")
    return entries


def _line(file: Path, number: int, line: str) -> tuple[str, str]:
    name, tab, caption = line.partition("\t")
    if not tab:
        raise InputError(f"{file}, line {number}: '{line[:60]}' has no tab between the image's name and its caption")
    return name.strip(), caption


def _json(file: Path) -> str:
    return " and JSON" if file.suffix == ".json" else ""


@source(
    "a folder of images",
    "image files in a folder",
    reads=lambda path: path.is_dir() and kind_of(path) is IMAGES and not is_paired(path, PAIR),
)
def load_folder(path: Path, image_size: int | None, limit: int | None, *, in_memory: bool = True) -> RawData:
    """Load a folder of images, of one sub-folder per class, or of train/validation/test folders of either.

    Without split folders the images are split at random (seed 0) into 80% / 10% / 10%. If all images are grey
    they get one channel, else three. Hidden files and folders are passed over.

    Args:
        path: the folder.
        image_size: central square, resized to this many pixels a side; needed if the images differ in size.
        limit: at most that many images of each split are read.
        in_memory: False: images are decoded when they are wanted, so that there may be more than the memory holds;
            ``fit``'s num_workers are then worth having.

    Returns:
        ``x`` uint8 (N, C, H, W), and with class folders ``y`` int64 (N,), the class's place in sorted order; captions,
        if the folder has files of them (:func:`find_captions`); the files' names, and the classes'.

    Raises:
        CorruptFileError: naming the file, if an image is truncated or damaged.
        InputError: naming the file or folder, for other layouts, for images of different sizes without image_size, and
            for images without a caption where others have one.
    """
    splits = find_splits(path, IMAGES)
    classes, captions = class_names(splits), find_captions(path, splits)
    splits = {part: members[:limit] for part, members in splits.items()}
    grey = all([is_grey(file) for members in splits.values() for file, _ in members])
    if not in_memory:
        pictures = {
            part: Items(Pictures(members, grey, image_size), name=str(path)) for part, members in splits.items()
        }
        return _labelled(path, splits, dict(pictures), classes, captions)
    count = sum(map(len, splits.values()))
    stack = ImageStack(path, grey, image_size, count)
    parts: Parts = {part: {"x": stack([file for file, _ in members])} for part, members in splits.items()}
    return _labelled(path, splits, parts, classes, captions)


class ImageStack:
    """Image files as tensors, all of one size.

    Args:
        path: of the dataset, for errors.
        grey: one channel, or three.
        image_size: pixels a side of their central squares; None: as they are.
        count: how many there are in all, for which there must be room.
    """

    def __init__(self, path: Path, grey: bool, image_size: int | None, count: int) -> None:
        self.path, self.grey, self.image_size, self.count = path, grey, image_size, count
        self.first: tuple[Path, torch.Size] | None = None

    def __call__(self, files: Sequence[Path]) -> Tensor:
        """Files as uint8 ``(n, C, H, W)``.

        Raises:
            CorruptFileError, InputError: as :func:`load_folder`.
        """
        x: Tensor | None = None
        for place, file in enumerate(files):
            image = read_image(file, grey=self.grey)  # (C, H, W)
            if self.image_size is not None:
                image = square(image.unsqueeze(0), self.image_size)[0]
            self.first = self.first or (file, image.shape)
            if image.shape != self.first[1]:
                raise InputError(_sizes_differ(file, image.shape, *self.first))
            if x is None:
                check_room(self.path, self.count * image.numel(), "give image_size, or a limit")
                x = image.new_empty(len(files), *image.shape)
            x[place] = image
        assert x is not None
        return x


class Pictures:
    """Image files as a map-style dataset: each is decoded when it is wanted.

    Args:
        members: the files.
        grey: one channel, or three.
        image_size: pixels a side of their central squares; None: as they are.
    """

    def __init__(self, members: Labelled, grey: bool, image_size: int | None) -> None:
        self.members, self.grey, self.image_size = members, grey, image_size
        self.first: torch.Size | None = None

    def __len__(self) -> int:
        """Number of files."""
        return len(self.members)

    def __getitem__(self, place: int) -> Tensor:
        """One image, uint8 (C, H, W)."""
        file = self.members[place][0]
        image = read_image(file, grey=self.grey)
        if self.image_size is not None:
            image = square(image.unsqueeze(0), self.image_size)[0]
        self.first = self.first or image.shape
        if image.shape != self.first:
            raise InputError(_sizes_differ(file, image.shape, self.members[0][0], self.first))
        return image


def _labelled(
    path: Path, splits: dict[str, Labelled], parts: Parts, classes: list[str], captions: Texts, *extras: Extra
) -> RawData:
    """With the names of the files, and labels where they lie in class folders."""
    if classes:
        extras = *extras, Classes(tuple(map(shown, classes)))
        for part, members in splits.items():
            labels = {"y": torch.tensor([classes.index(label) for _, label in members])}  # (N,)
            images = parts[part]
            parts[part] = Beside(images, labels) if isinstance(images, Rows) else {**images, **labels}
    return RawData(parts, file_names(path, splits), captions, extras)


def _sizes_differ(file: Path, shape: torch.Size, first: Path, expected: torch.Size) -> str:
    return (
        f"{file}: is {shape[1]} x {shape[2]} pixels (height x width), "
        f"but {first} is {expected[1]} x {expected[2]}; "
        "give image_size to cut and resize all images to one size"
    )


@source(
    "a folder of WAV files",
    "WAV files in a folder",
    reads=lambda path: path.is_dir() and kind_of(path) is SOUNDS,
    sound=True,
)
def load_sound_folder(
    path: Path,
    limit: int | None,
    *,
    sample_rate: int | None = None,
    length: int | None = None,
    encoding: Encoding = "linear",
) -> RawData:
    """Load a folder of WAV files, laid out as a folder of images may be (:mod:`pyro_vae.data.images`).

    Channels are mixed to one; recordings are as loud as they are in the files.

    Args:
        path: the folder.
        limit: at most that many files of each split are read.
        sample_rate: in Hz, to which others are resampled; needed if the files differ.
        length: samples to which recordings are cut, or padded with silence, at the end; needed if they differ.
        encoding: linear (x in [-1, 1]) or mu_law (x one of the levels k/255 in [0, 1]).

    Returns:
        ``x`` (N, 1, length), and with class folders ``y`` int64 (N,), the class's place in sorted order; how x is
        played; the files' names, and the classes'.

    Raises:
        CorruptFileError: naming the file, if it is no WAV file or damaged.
        InputError: naming the file or folder, for other layouts and formats, files without samples or too short, and
            for different rates or lengths without sample_rate or length.
    """
    check_counts(sample_rate=sample_rate, length=length)
    splits = find_splits(path, SOUNDS)
    classes = class_names(splits)
    splits = {part: members[:limit] for part, members in splits.items()}
    if sample_rate is None:
        remedy = "give sample_rate to resample all files to one rate"
        sample_rate = _common(splits, lambda header: header.sample_rate, "samples a second", remedy)
    sound = Sound(sample_rate, encoding)
    if length is None:
        remedy = "give length to cut or pad all recordings to one length"
        rate, at = sample_rate, f"samples at {sample_rate:,} Hz"
        length = _common(splits, lambda header: -(-header.length * rate // header.sample_rate), at, remedy)
    check_room(path, sum(map(len, splits.values())) * length * (1 if encoding == "mu_law" else 4), "give a length")
    parts: Parts = {}
    for part, members in splits.items():
        x = torch.empty(len(members), 1, length, dtype=torch.uint8 if encoding == "mu_law" else torch.float32)
        for place, (file, _) in enumerate(members):
            x[place, 0] = sound.encode(sound.read(file, length))
        parts[part] = {"x": x}
    return _labelled(path, splits, parts, classes, {}, sound)


def _common(splits: dict[str, Labelled], value: Callable[[Header], int], what: str, remedy: str) -> int:
    """The value that the headers of all files have.

    Args:
        splits: the files.
        value: of a header.
        what: it is, in an error.
        remedy: what would be right where it differs.

    Raises:
        InputError: names two files in which it differs.
    """
    first: tuple[Path, int] | None = None
    for members in splits.values():
        for file, _ in members:
            found = value(read_header(file))
            first = first or (file, found)
            if found != first[1]:
                raise InputError(f"{file}: {found:,} {what}, but {first[0]} has {first[1]:,}; {remedy}")
    return first[1]
