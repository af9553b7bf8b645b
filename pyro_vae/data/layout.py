"""How the files of a folder are a dataset: flat, in class folders, in split folders of either."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyro_vae.data.images import SUFFIXES
from pyro_vae.data.parts import PARTS, random_order
from pyro_vae.errors import InputError

Labelled = list[tuple[Path, str | None]]  # files with the class's name, in sorted order


@dataclass(frozen=True)
class Kind:
    """A kind of files: what people call them, and their suffixes."""

    noun: str
    suffixes: tuple[str, ...]


IMAGES, SOUNDS = Kind("images", SUFFIXES), Kind("WAV files", (".wav", ".wave"))


def kind_of(path: Path) -> Kind:
    """What a folder holds: the kind of the first file found, going down from the folder itself; else images."""
    for folder in _downwards(path):
        for file in folder.iterdir():
            for kind in (IMAGES, SOUNDS):
                if _is_one(file, kind):
                    return kind
    return IMAGES


def find_splits(path: Path, kind: Kind) -> dict[str, Labelled]:
    """The files of each split; without split folders they are split at random (seed 0), 80% / 10% / 10%.

    Hidden files and folders are passed over, and files of neither kind.

    Raises:
        InputError: naming the folder, for other layouts, folders without files of the kind, and with both kinds.
    """
    folders = _visible_folders(path)
    if any(folder.name in PARTS for folder in folders):
        splits = _given_splits(path, folders, kind)
    else:
        everything = _list_files(path, kind)
        order = random_order(len(everything))
        splits = {part: [everything[i] for i in index.tolist()] for part, index in order.items()}
    _check_classes(path, splits)
    return splits


def class_names(splits: dict[str, Labelled]) -> list[str]:
    """The names of the classes in sorted order, so that a label is a place in it; none without class folders."""
    return sorted({label for _, label in splits["train"] if label is not None})


def _given_splits(path: Path, folders: list[Path], kind: Kind) -> dict[str, Labelled]:
    for entry in [*folders, *_files_in(path, kind)]:
        if entry.name not in PARTS:
            raise InputError(f"{entry}: beside split folders there may only be {', '.join(PARTS)}; rename or move it")
    if not (path / "train").is_dir():
        raise InputError(f"{path}: has split folders but no 'train'")
    return {part: _list_files(path / part, kind) for part in PARTS if (path / part).is_dir()}


def _list_files(path: Path, kind: Kind) -> Labelled:
    flat, folders = _files_in(path, kind), _visible_folders(path)
    if flat and folders:
        raise InputError(f"{path}: holds both {kind.noun} and sub-folders ('{folders[0].name}'); use one or the other")
    found: Labelled = [(file, None) for file in flat]
    for folder in folders:
        files = _files_in(folder, kind)
        if not files:
            looked = ", ".join(kind.suffixes)
            raise InputError(f"{folder}: no {kind.noun} in this class folder ({looked}); remove it or fill it")
        found += [(file, folder.name) for file in files]
    if not found:
        looked = ", ".join(IMAGES.suffixes + SOUNDS.suffixes)
        raise InputError(f"{path}: no {IMAGES.noun} in this folder, and no {SOUNDS.noun}; looked for {looked}")
    return found


def _files_in(path: Path, kind: Kind) -> list[Path]:
    other = SOUNDS if kind is IMAGES else IMAGES
    entries = list(path.iterdir())
    stranger = next((file for file in entries if _is_one(file, other)), None)
    if stranger is not None:
        raise InputError(f"{stranger}: the dataset is of {kind.noun}; {other.noun} cannot be among them")
    return sorted(file for file in entries if _is_one(file, kind))


def _is_one(file: Path, kind: Kind) -> bool:
    return file.suffix.lower() in kind.suffixes and not file.name.startswith(".") and file.is_file()


def _visible_folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _downwards(path: Path, levels: int = 2) -> Iterator[Path]:
    yield path
    if levels:
        for folder in _visible_folders(path):
            yield from _downwards(folder, levels - 1)


def _check_classes(path: Path, splits: dict[str, Labelled]) -> None:
    classes = class_names(splits)
    for part, members in splits.items():
        for file, label in members:
            if (label is None) == bool(classes) or (label is not None and label not in classes):
                raise InputError(f"{file.parent}: {part} must have the class folders of train ({', '.join(classes)})")
