"""Sources of data: how they register themselves, are found by a name or a path, and become splits."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal, TypeVar, get_type_hints

import torch
from torch import Tensor

from pyro_vae.data.binarization import QUADRANTS, Binarization, binarize, check_binarization, quadrant_mask
from pyro_vae.data.colours import LabPictures, coloured
from pyro_vae.data.dataset import Classes, Data, RawData
from pyro_vae.data.images import shown, squares
from pyro_vae.data.parts import PARTS
from pyro_vae.data.rows import Rows
from pyro_vae.data.split import Split
from pyro_vae.data.tokens import Tokens
from pyro_vae.errors import InputError, unknown
from pyro_vae.files import user_path

HANDED = ("name", "path", "root", "image_size", "limit")  # what a loader is given, if it takes arguments of these names
Loader = TypeVar("Loader", bound=Callable[..., RawData])


@dataclass(frozen=True)
class Source:
    """A source as it is registered: see :func:`source`."""

    name: str
    description: str
    load: Callable[..., RawData]
    reads: Callable[[Path], bool] | None
    sound: bool

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Its own options, by name."""
        return {name: each for name, each in inspect.signature(self.load).parameters.items() if name not in HANDED}


_sources: dict[str, Source] = {}


def source(
    name: str, description: str, *, reads: Callable[[Path], bool] | None = None, sound: bool = False
) -> Callable[[Loader], Loader]:
    """Register a function that loads data: :func:`load_data` and ``--data.name`` then know them.

    The function's parameters ``name``, ``root`` (a folder to look in first), ``image_size`` and ``limit`` are given
    what :func:`load_data` was given, ``path`` the name as a path; what it does not take is seen to afterwards. All
    others are options of these data alone, with a type (a number, a text, true or false) and a default, which
    ``load_data``, the command line and configurations then take. A file of the folder ``sources`` is found by itself;
    one of your own registers when it is imported.

    Args:
        name: what ``load_data`` knows the data by; of a source of paths, what errors call it.
        description: one line on them.
        reads: of a source of paths: whether this is one of its. No path may be one of two sources'.
        sound: x are recordings, for which ``image_size``, ``binarization`` and ``observed_quadrants`` are refused.

    Raises:
        InputError: when it registers a function with an option without a type or a default, or of a common name.

    Example:
        >>> import torch
        >>> from pyro_vae.data import RawData, load_data, source
        >>> @source("stripes", "noise with a bright column, 8x8 grey")
        ... def load_stripes(*, column: int = 3) -> RawData:
        ...     x = torch.randint(100, (20, 1, 8, 8), dtype=torch.uint8)
        ...     x[..., column] = 255
        ...     return RawData({"train": {"x": x[:15]}, "test": {"x": x[15:]}})
        >>> load_data("stripes", column=5).test.shape
        (1, 8, 8)
    """

    def register(load: Loader) -> Loader:
        common = inspect.signature(load_data).parameters
        for option, parameter in inspect.signature(load).parameters.items():
            complete = parameter.empty not in (parameter.default, parameter.annotation)
            if option not in HANDED and (option in common or not complete):
                raise InputError(
                    f"{name}: '{option}' is no option of its own with a type and a default, such as n: int = 3"
                )
        _sources[name] = Source(name, description, load, reads, sound)
        return load

    return register


def sources() -> list[Source]:
    """All registered sources, sorted by name."""
    for module in iter_modules([str(Path(__file__).parent / "sources")]):
        import_module(f"{__package__}.sources.{module.name}")
    return sorted(_sources.values(), key=lambda each: each.name)


def dataset_names() -> dict[str, str]:
    """Return the registered datasets: name -> one-line description."""
    return {each.name: each.description for each in sources() if each.reads is None}


def source_options() -> dict[str, tuple[Any, str]]:
    """The options that only some sources have: name -> its type, or None, and what it is, from their docstrings."""
    found: dict[str, tuple[Any, list[str], str]] = {}
    for each in sources():
        hints, text = get_type_hints(each.load), inspect.getdoc(each.load) or ""
        for option in each.options:
            kind, whose, meaning = found.get(option, (None, [], ""))
            said = re.search(rf"^    {option}: (.+(?:\n {{8}}.+)*)", text, re.MULTILINE)
            meaning = meaning or (re.sub(r":\w+:`~?|`", "", " ".join(said[1].split())) if said else "")
            found[option] = (hints[option] | kind, [*whose, each.name], meaning)
    return {option: (kind, f"of {', '.join(whose)}: {meaning}") for option, (kind, whose, meaning) in found.items()}


def find_source(name: str) -> Source:
    """The source of a registered name or a path.

    Raises:
        InputError: if there is none; names the nearest dataset.
    """
    path, known = user_path(name), sources()
    found = [each for each in known if each.reads is None and each.name == name]
    found = found or [each for each in known if each.reads is not None and each.reads(path)]
    if found:
        return found[0]
    if path.is_file():
        raise InputError(
            f"{path}: a data file must be .npz or .npy, or of texts, .txt, .csv or .tsv (or give a folder of images, "
            "of WAV files or of text files)"
        )
    if path.suffix or "/" in name or "\\" in name:
        raise InputError(f"dataset '{name}': no such file or folder (looked in {Path.cwd()})")
    raise unknown("dataset", name, dataset_names())


def load_data(
    name: str,
    *,
    root: str | Path | None = None,
    binarization: Binarization = "none",
    binarization_seed: int = 0,
    image_size: int | None = None,
    limit: int | None = None,
    observed_quadrants: Literal[1, 2, 3] | None = None,
    colours: Literal["lab"] | None = None,
    num_labels: int | None = None,
    **options: str | float | int | bool | None,
) -> Data:
    """Load a dataset by name, from an array or text file, or from a folder of images, WAV files or text files.

    Args:
        name: a registered name (`pyro-vae datasets`), a path to a ``.npz``, ``.npy``, ``.txt``, ``.csv`` or ``.tsv``
            file, or a folder of images, of WAV files or of text files.
        root: folder in which a registered dataset's files are looked for first.
        binarization: ``"none"``; ``"threshold"`` (x/255 >= 0.5); ``"static"`` (drawn once as
            Bernoulli(x/255)); ``"dynamic"`` (training data drawn anew for every batch, validation and test
            data as under static).
        binarization_seed: of the draws done once; each split has its own stream.
        image_size: pixels a side of images, cut to their central square. They are resized; pictures beside x, too.
        limit: at most that many data of each split (the first ones), for quick trials.
        observed_quadrants: for completing images: 1 (the lower left quadrant is observed), 2 (the left half), 3 (all
            but the upper right quadrant). A batch then holds, beside x, the observed part ``y`` (0 elsewhere; it takes
            the place of labels) and ``mask``, True where observed.
        colours: ``"lab"`` parts images into lightness and colours. For colouring them, in CIE Lab: a batch then holds
            the colours ``x`` = (a, b) / 128, (2, H, W), and the lightness ``image`` = L / 100, (1, H, W).
        num_labels: labels ``y`` that are known in training, evenly over classes. The first of each class are kept, and
            the others are -1, not known: for semi-supervised learning.
        options: what these data alone have (docs/data.md), such as ``scenes`` of ``emoji``, ``layout`` of an array
            file, ``sample_rate`` of sound; None is as if it were not given.

    Returns:
        The splits, on the CPU. ``x`` is stored as uint8 (grey levels, mu-law levels), bool (binarized) or float; of
        sound it has the shape (1, length), and of texts it is int64 (T,), tokens. What else the source knows:
        ``Split.names`` and ``Split.captions``, one a datum, and ``Data.extra(Sound)``, how x is played,
        ``Data.extra(Tokens)``, ``Data.extra(Classes)``, ``Data.extra(Scenes)``.

    Raises:
        InputError: for an unknown name or option (with the nearest one), a missing or damaged file (named), and
            unusable arguments.
    """
    check_binarization(binarization, binarization_seed)
    check_counts(image_size=image_size, limit=limit, num_labels=num_labels)
    root, name = _check_root(root), str(name)
    found, options = find_source(name), {key: value for key, value in options.items() if value is not None}  # pyright: ignore[reportAssignmentType]
    _check_options(shown(name), found, options)
    for_images = {"image_size": image_size, "observed_quadrants": observed_quadrants, "colours": colours}
    for_images["binarization"] = None if binarization == "none" else binarization
    if found.sound:
        _check_no_images(shown(name), "sound", for_images)
    given = {"name": name, "path": user_path(name), "root": root, "image_size": image_size, "limit": limit}
    taken = inspect.signature(found.load).parameters
    loaded = found.load(**{key: value for key, value in given.items() if key in taken}, **options)
    are_tokens = any(isinstance(extra, Tokens) for extra in loaded.extras)
    if are_tokens:
        _check_no_images(shown(name), "sequences of tokens", for_images)
    if colours is not None:
        _check_colours(shown(name), colours, for_images)
    splits: dict[str, Split] = {}
    for part in (part for part in PARTS if part in loaded.parts):
        label, held = f"{shown(name)} {part}", loaded.parts[part]
        texts = {
            kind: meaning[part][:limit] if part in meaning else None
            for kind, meaning in {"names": loaded.names, "captions": loaded.captions}.items()
        }
        if isinstance(held, Rows):
            refused = {"image_size": image_size if "image_size" not in taken else None, "num_labels": num_labels}
            refused["colours"] = colours
            refused["binarization_seed"] = binarization_seed or None  # evaluation draws each datum by its place
            _check_not_in_memory(label, binarization, refused)
            if limit is not None and limit < len(held):
                held = held.first(limit)
        else:
            held = {key: tensor[:limit] for key, tensor in held.items()}
            if image_size is not None:
                held = squares(held, image_size, name=label)
            if num_labels is not None and part == "train":
                held["y"] = _few_labels(held.get("y"), num_labels, label)
            if colours is not None:
                held = coloured(held, label)
        splits[part] = prepared(
            held,
            binarization=binarization,
            binarization_seed=binarization_seed,
            observed_quadrants=observed_quadrants,
            part=part,
            later=part == "train" or isinstance(held, Rows),
            missing=loaded.missing,
            **texts,
            name=label,
        )
        if part in loaded.variants:
            variants = {key: tensor[:limit] for key, tensor in loaded.variants[part].items()}
            splits[part] = splits[part].with_variants(variants)
    train, extras = splits["train"], loaded.extras
    extras = extras if colours is None else (*extras, LabPictures())
    lines = [_sizes(shown(name), splits, limit)]
    if not found.sound and not are_tokens:
        seed = binarization_seed if train.in_memory else None
        lines.append(_binarized(binarization, seed, len(splits)))
    if observed_quadrants is not None:
        lines.append(f"observed of each image: {QUADRANTS[observed_quadrants]}")
        extras = tuple(extra for extra in extras if not isinstance(extra, Classes))  # y is then the observed part
    if num_labels is not None:
        lines.append(f"{num_labels:,} training labels are known")
    if train.captions is not None:
        lines.append(f"captions, such as '{train.captions[0]}'")
    lines += filter(None, (extra.describe(train) for extra in extras))
    return Data(**splits, name=shown(name), description="\n".join(lines), extras=extras)


def _check_no_images(label: str, what: str, for_images: Mapping[str, Any]) -> None:
    """Check that nothing is said that is for images alone."""
    for option, value in for_images.items():
        if value is not None:
            raise InputError(f"{label}: {option} is not for these data, which are {what}; leave it out")


def _check_colours(label: str, colours: str, others: Mapping[str, Any]) -> None:
    if colours != "lab":
        raise unknown("colours", str(colours), ["lab"])
    for option in ("binarization", "observed_quadrants"):
        if others[option] is not None:
            raise InputError(
                f"{label}: {option} is not for colours, which are real numbers; leave out either it or colours"
            )


def _check_not_in_memory(label: str, binarization: str, refused: Mapping[str, Any]) -> None:
    for option, value in refused.items():
        if value is not None:
            raise InputError(f"{label}: {option} is for data in memory; leave out either it or in_memory=False")
    if binarization not in ("none", "dynamic"):
        raise InputError(
            f"{label}: binarization '{binarization}' is done once, in memory: take 'dynamic' (whose evaluation data "
            "are drawn once, too), or save binary data"
        )


def prepared(
    held: Mapping[str, Tensor] | Rows,
    *,
    binarization: Binarization,
    binarization_seed: int,
    observed_quadrants: int | None,
    part: str,
    later: bool,
    missing: bool = False,
    names: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    name: str,
) -> Split:
    """A part of data, binarized and masked as :func:`load_data` does it.

    Args:
        held: x ``(N, ...)`` and others, or data that are read.
        binarization, binarization_seed, observed_quadrants: as for :func:`load_data`.
        part: whose random stream binarizes them once.
        later: under ``dynamic``, x is drawn for every batch (for evaluation once, by a datum's place); else once, now.
        missing, names, captions, name: as for :class:`~pyro_vae.data.Split`.
    """
    shape = held.columns["x"].shape if isinstance(held, Rows) else tuple(held["x"].shape[1:])
    kind = held.columns["x"].dtype if isinstance(held, Rows) else held["x"].dtype
    mask = None if observed_quadrants is None else quadrant_mask(shape, observed_quadrants, name)
    later = later and binarization == "dynamic"
    if binarization != "none" and not later:
        how = "threshold" if binarization == "threshold" else "static"
        held = {**held, "x": binarize(held["x"], how, seed=binarization_seed, part=part, name=name)}  # pyright: ignore[reportGeneralTypeIssues, reportIndexIssue]
    drawn = "dynamic" if later else "none"
    texts = {"names": names, "captions": captions}
    return Split(held, mask=mask, integers=kind == torch.int64, missing=missing, binarization=drawn, **texts, name=name)


def _check_options(name: str, found: Source, options: Mapping[str, Any]) -> None:
    """Check that a source has these options."""
    own = found.options
    for option in options:
        if option not in own:
            near = difflib.get_close_matches(option, [*own, *inspect.signature(load_data).parameters], n=1)
            hint = f". Did you mean '{near[0]}'?" if near else ""
            has = f"have {', '.join(own)}" if own else "have no options of their own"
            raise InputError(f"{name}: {option} is not for these data, which {has}; leave it out{hint}")


def _few_labels(y: Tensor | None, count: int, name: str) -> Tensor:
    """Labels of which ``count`` are known, as many of each class as of any other, and the others -1.

    Raises:
        InputError: for data without class labels, and for more labels than there are.
    """
    if y is None or y.dtype != torch.int64 or y.dim() != 1:
        raise InputError(f"{name}: num_labels is for data with class labels y, which these are not; leave it out")
    place = torch.empty_like(y)  # of each datum among those of its class
    for label in y.unique():
        rows = (y == label).nonzero()[:, 0]
        place[rows] = torch.arange(len(rows))
    order = (place * (int(y.max()) + 1) + y).argsort()  # the first of each class, the second of each, …
    if count > len(y):
        raise InputError(f"{name}: num_labels must be at most {len(y):,}, got {count:,}")
    known = torch.full_like(y, -1)
    known[order[:count]] = y[order[:count]]
    return known


def _sizes(name: str, splits: dict[str, Split], limit: int | None) -> str:
    sizes = " / ".join(f"{len(split):,} {part}" for part, split in splits.items())
    limited = f" (at most {limit:,} of each)" if limit is not None else ""
    return f"{name}: {sizes}{limited}"


def _binarized(binarization: str, seed: int | None, num_splits: int) -> str:
    """What was done, in words; without a seed evaluation draws each datum once, by its place."""
    return {
        "none": "not binarized",
        "threshold": "binarized by threshold, x/255 >= 0.5",
        "static": f"binarized once as Bernoulli(x/255), seed {seed}",
        "dynamic": "training data binarized anew for every batch as Bernoulli(x/255)"
        + (", the others once" if num_splits > 1 else "")
        + (f", seed {seed}" if num_splits > 1 and seed is not None else ""),
    }[binarization]


MOST = 2**31 - 1  # of what is counted: torch takes no more than a few times that


def check_counts(**values: int | None) -> None:
    """Check what counts something, by its name; None is not given.

    Raises:
        InputError: names what is no positive integer, or too large a one.
    """
    for argument, value in values.items():
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
