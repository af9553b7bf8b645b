"""What a command on a run is given: a part of its data, files, folders and arrays of one's own, or another dataset."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor, nn

from pyro_vae.cli.context import labels_of, said_context
from pyro_vae.cli.parsing import recipe_of
from pyro_vae.cli.texts import of_texts
from pyro_vae.data import Actions, Classes, Data, Sound, Split, Tokens, dataset_names, load_data, with_text
from pyro_vae.data.binarization import Binarization
from pyro_vae.data.colours import coloured
from pyro_vae.data.images import (
    IMAGES,
    SOUNDS,
    Kind,
    Labelled,
    file_names,
    find_splits,
    given_parts,
    is_grey,
    kind_of,
    read_image,
    shown,
    square,
    squares,
)
from pyro_vae.data.registry import find_source, prepared
from pyro_vae.data.sources.arrays import ARRAYS, arrays_of, part_of_arrays
from pyro_vae.data.sources.folders import find_captions
from pyro_vae.data.texts import LINES, TABLES
from pyro_vae.data.token_file import token_facts
from pyro_vae.errors import InputError, positive
from pyro_vae.files import user_path
from pyro_vae.programs.context import X
from pyro_vae.runs import Run
from pyro_vae.runs.codes import TOKENIZER
from pyro_vae.runs.learned_priors import PRIORS
from pyro_vae.runs.measurements import SplitName, part_of
from pyro_vae.runs.own_pair import OwnPair

logger = logging.getLogger(__name__)

WHAT = "image or WAV files, a folder of them, a .npy, .npz, .txt or .csv file, or a dataset's name, for the run's data"


def run_or_pair(path: Path, trust: bool) -> Run:
    """A run directory; or, of a YAML file, the pair of one's own that it names, which was trained elsewhere.

    Raises:
        InputError: as :class:`~pyro_vae.runs.Run` and :class:`~pyro_vae.runs.own_pair.OwnPair`.
    """
    if path.suffix in (".yaml", ".yml") and not path.is_dir():
        return OwnPair(path, recipe_of(str(path), trust), trust=trust)
    return Run(path, trust=trust)


def add_data_arguments(parser: ArgumentParser) -> None:
    """What commands on data of one's own are given: the data, which part of them, and their context."""
    parser.add_argument("data", nargs="*", type=str, help=WHAT)
    parser.add_argument("--split", type=SplitName | None, default=None, help="which part of the data (test)")
    parser.add_argument("--limit", type=int | None, default=None, help="the first so many data only")
    parser.add_argument(
        "--y", type=str | None, default=None, help="context: a label, or a class's name, of all or each"
    )


def chosen_data(run: Run, model: nn.Module, guide: nn.Module, options: Namespace) -> Split:
    """The data of :func:`add_data_arguments`, with the context that was said in the place of their own.

    Raises:
        InputError, CorruptFileError: as :func:`given_data` and :func:`~pyro_vae.cli.context.said_context`.
    """
    split = given_data(run, options.data, options.split, options.limit)
    said = said_context(run, model, guide, split.keys, len(split), options.y, in_turns=False)
    return split.replaced(said) if said else split


def given_data(run: Run, what: Sequence[str], part: str | None = None, limit: int | None = None) -> Split:
    """The data that a command line names, prepared as the run's own were.

    Args:
        run: the run.
        what: files; or one folder, one array file or one dataset's name; nothing: the run's own data.
        part: of the data, "train", "validation" or "test". If None: "test", but of a folder or an array file that is
            not divided into parts, all of it.
        limit: the first so many only.

    Returns:
        the data in their order, with names where they are files.

    Raises:
        InputError: for what is not there, of another kind or shape, a mixture of these, and a part of single files.
        CorruptFileError: naming the file, if it is damaged.
    """
    if not what:
        return part_of(run.data(), part or "test", limit)
    paths = [user_path(name) for name in what]
    alone = (*ARRAYS, *LINES, *TABLES)
    if len(what) > 1 and (odd := [p for p in paths if p.is_dir() or p.suffix.lower() in alone]):
        raise InputError(f"{odd[0]}: give image or WAV files, or else one folder, array or text file or dataset alone")
    if what[0] in dataset_names() and len(what) == 1:
        split = _of_dataset(run, what[0], part or "test")
    elif run.token_facts is not None and len(what) == 1:
        if not paths[0].exists() and not paths[0].suffix:
            find_source(what[0])  # refuses it, with the nearest name
        split = of_texts(run, paths[0], part)
    elif paths[0].is_dir():
        split = _of_folder(run, paths[0], part)
    elif paths[0].suffix.lower() in ARRAYS:
        split = _of_arrays(run, paths[0], part)
    else:
        if part is not None:
            raise InputError("--split chooses a part of a dataset; leave it out where files are given")
        if len(what) == 1 and not paths[0].exists() and not paths[0].suffix:
            find_source(what[0])  # refuses it, with the nearest name
        split = of_files(run, paths, names=[shown(path) for path in paths])
    return split if limit is None else split.subset(positive("limit", limit))


def of_files(run: Run, paths: Sequence[Path], *, part: str = "test", **more: Any) -> Split:
    """Files as a run's own data were read: see :func:`read_files`.

    Args:
        run: whose data they are to be like.
        paths: the files.
        part: of the data that they are like.
        more: names, captions, y.

    Raises:
        InputError, CorruptFileError: as :func:`read_files`; and where the run's data are arrays.
    """
    if Path(run.config.data.name).suffix.lower() in ARRAYS:
        raise InputError(
            f"the run's data are arrays ({run.config.data.name}): how files would become such is not known; use --split"
        )
    size = run.config.data.image_size
    return read_files(paths, run.data_shape, sound=run.sound, image_size=size, part=part, **_how(run, part), **more)


def _how(run: Run, part: str) -> dict[str, Any]:
    """How a run's own images were prepared, as arguments of :func:`read_files`."""
    data = run.config.data
    found = {key: data[key] for key in ("binarization", "binarization_seed", "observed_quadrants", "colours")}
    return {**found, "by_place": part == "train" or data.get("in_memory") is False}


def read_files(
    paths: Sequence[Path],
    shape: tuple[int, ...],
    *,
    sound: Sound | None = None,
    image_size: int | None = None,
    y: Tensor | None = None,
    **how: Any,
) -> Split:
    """Read WAV files as sound was read, or image files as a folder of images was.

    Args:
        paths: the files.
        shape: of one x.
        sound: how x is played, if the data are sound: recordings are mixed, resampled, cut or padded, and encoded.
        image_size: images are cut to their central square and resized, as the dataset's were; without it they must have
            the size of the data.
        y: labels ``(N,)``.
        how: what :func:`like_the_runs` takes; of sound, names and captions alone mean something.

    Returns:
        the files in their order.

    Raises:
        CorruptFileError: naming the file, if it is damaged.
        InputError: naming the file, if there is none, it is of another kind or size, or not to be used for another
            reason; and for data that are neither images nor sound.
    """
    own = shape if how.get("colours") is None else (3, *shape[1:])  # of what a file holds
    images = sound is None and len(own) == 3 and own[0] in (1, 3)
    if sound is None and not images:
        raise InputError(f"files cannot be given: the data, of shape {shape}, are neither images nor sound")
    for path in paths:
        _check_kind(path, IMAGES if images else SOUNDS)
        if how.get("colours") is not None and is_grey(path):
            raise InputError(f"{path}: is a grey image, and the run's data are colours; give colour images")
    tensors = {} if y is None else {"y": y}
    if sound is not None:
        x = torch.stack([sound.encode(sound.read(path, shape[-1])) for path in paths]).unsqueeze(1)  # (n, 1, L)
        return Split({X: x, **tensors}, names=how.get("names"), captions=how.get("captions"), name="files")
    x = torch.stack([_image(path, own, image_size) for path in paths])  # (n, C, H, W)
    return like_the_runs({X: x, **tensors}, shape, **how)


def _check_kind(path: Path, kind: Kind) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() not in kind.suffixes:
        raise InputError(f"{path}: the data are {kind.noun}; give files of these kinds: {', '.join(kind.suffixes)}")


def _image(path: Path, shape: tuple[int, ...], image_size: int | None) -> Tensor:
    image = read_image(path, grey=shape[0] == 1)  # (C, H, W)
    if image_size is not None:
        image = square(image.unsqueeze(0), image_size)[0]
    if tuple(image.shape) != shape:
        raise InputError(
            f"{path}: is {image.shape[1]} x {image.shape[2]} pixels (height x width), but the data are "
            f"{shape[1]} x {shape[2]}; resize it first"
        )
    return image


def like_the_runs(
    tensors: Mapping[str, Tensor],
    shape: tuple[int, ...],
    *,
    binarization: Binarization = "none",
    binarization_seed: int = 0,
    observed_quadrants: int | None = None,
    colours: str | None = None,
    part: str = "test",
    by_place: bool = False,
    label: str = "files",
    **more: Any,
) -> Split:
    """Tensors binarized and masked as a run's own data were, for evaluation.

    Args:
        tensors: x ``(N, *shape)``, and others.
        shape: of one x of the data that they are to be like.
        binarization, binarization_seed, observed_quadrants, colours: as for :func:`pyro_vae.data.load_data`.
        part: whose random stream binarizes them.
        by_place: under ``dynamic``, draw as training data and data that are not in memory are drawn for evaluation;
            else once, as test data are.
        label: what errors call them.
        more: names and captions of the data, and whether entries may be missing.

    Raises:
        InputError: for an x of another shape.
    """
    if colours is not None and "image" not in tensors:  # else they are colours with their lightness
        tensors = coloured(tensors, label)
    if tuple(tensors[X].shape[1:]) != shape:
        raise InputError(f"{label}: one x has shape {tuple(tensors[X].shape[1:])}, but the run's have {shape}")
    if binarization in ("static", "dynamic"):
        logger.info("%s: binarized by one draw, in which a datum's depends on its place among them", label)
    drawn = {"binarization": binarization, "binarization_seed": binarization_seed, "part": part, "later": by_place}
    return prepared(tensors, **drawn, observed_quadrants=observed_quadrants, **more, name=label)


def _of_folder(run: Run, path: Path, part: str | None) -> Split:
    """The files of a folder: a part if it has parts or one is asked for, else all, in sorted order."""
    kind = kind_of(path)
    wanted = IMAGES if run.sound is None else SOUNDS
    if kind is not wanted:
        raise InputError(f"{path}: holds {kind.noun}, but the run's data are {wanted.noun}")
    splits = find_splits(path, kind)
    if part is None and not given_parts(path):
        members: Labelled = sorted(chain.from_iterable(splits.values()))
        part = "test"
    else:
        part = part or "test"
        if part not in splits:
            raise InputError(f"{path}: has no {part} part; it has: {', '.join(splits)}")
        members = splits[part]
    classes = sorted({label for _, label in members if label is not None})
    y = labels_of(run, [label for _, label in members if label is not None], classes, str(path)) if classes else None
    texts = find_captions(path, splits) if _tokenized(run) else {}
    said = {file: text for where, some in texts.items() for (file, _), text in zip(splits[where], some, strict=True)}
    captions = [said[file] for file, _ in members] if said else None
    names = file_names(path, {part: members})[part]
    split = of_files(run, [file for file, _ in members], names=names, captions=captions, y=y, part=part)
    return _with_text(run, Data(split, name=str(path))).train


def _of_dataset(run: Run, name: str, part: str) -> Split:
    """A part of a registered dataset, loaded with the options of the run's own data that it has."""
    mine, source = run.config.data, find_source(name)
    common = ("root", "binarization", "binarization_seed", "image_size", "observed_quadrants", "colours")
    options = {key: mine[key] for key in common}
    if name == mine.name:
        options |= {key: mine[key] for key in source.options if mine.get(key) is not None}
    elif run.sound is not None:
        sound = {"sample_rate": run.sound.sample_rate, "length": run.data_shape[-1], "encoding": run.sound.encoding}
        options |= {key: value for key, value in sound.items() if key in source.options}
    if (run.sound is not None) != source.sound:
        raise InputError(f"{name}: {'recordings' if source.sound else 'no recordings'}, unlike the run's data")
    data = load_data(name, **options)
    split, tokens = part_of(data, part), data.extra(Tokens)
    if (None if tokens is None else token_facts(tokens)) != run.token_facts:
        raise InputError(
            f"{name}: its tokens do not stand for what the run's do; of other texts give a file, with one a line"
        )
    if run.actions is not None and data.extra(Actions) != run.actions:
        raise InputError(f"{name}: its actions are not the run's, {', '.join(run.actions.names)}")
    if split.shape != run.data_shape:
        raise InputError(f"{name}: one x has shape {split.shape}, but the run's have {run.data_shape}")
    classes = data.extra(Classes)
    if name != mine.name and "y" in split.columns and split.mask is None:
        if classes is None or run.classes is None:
            logger.warning("warning: %s: its labels y are taken as the run's, whose meaning may be another", name)
        elif classes.names != run.classes:
            words = [classes.names[i] for i in split.column("y").tolist()]
            y = labels_of(run, words, sorted({*words}), name)
            columns = {key: split.column(key) for key in split.columns if key != "y"}
            texts = {"names": split.names, "captions": split.captions, "name": split.name}
            split = Split(columns if y is None else {**columns, "y": y}, missing=split.missing, **texts)
            return _with_text(run, Data(split, name=name)).train
    return part_of(_with_text(run, data), part)


def _of_arrays(run: Run, path: Path, part: str | None) -> Split:
    """The arrays of a file: a part if it has parts or one is asked for, else all."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if run.sound is not None:
        raise InputError(f"{path}: the run's data are sound; give WAV files")
    how = run.config.data
    shape = run.data_shape if how.colours is None else (3, *run.data_shape[1:])
    tensors = arrays_of(path, how.get("layout"), bool(how.get("missing")), shape=shape)
    found, part = part_of_arrays(tensors, path, part)
    if how.image_size is not None:
        found = squares(found, how.image_size, name=str(path))
    if found[X].dtype == torch.uint8:
        logger.info("%s: x are grey levels from 0 to 255, and go to the model as x/255", path)
    missing, label = bool(how.get("missing")), str(path)
    return like_the_runs(found, run.data_shape, part=part, missing=missing, label=label, **_how(run, part))


def _tokenized(run: Run) -> bool:
    return (run.path / PRIORS / TOKENIZER).is_file()


def _with_text(run: Run, data: Data) -> Data:
    """With the tokens of captions, if the run has learned a prior over texts and the data have captions."""
    return with_text(data, run.tokenizer()) if _tokenized(run) and data.train.captions is not None else data
