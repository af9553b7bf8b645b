"""``pyro-vae reconstruct``: of a run's data, or of files that a user brings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.cli.context import describe_y, example_y, parse_y
from pyro_vae.cli.parsing import parse, run_parser
from pyro_vae.data.binarization import Binarization, binarize, quadrant_mask
from pyro_vae.data.images import IMAGES, SOUNDS, Kind, read_image, shown, square
from pyro_vae.data.sound import Sound
from pyro_vae.data.split import Split
from pyro_vae.errors import InputError, positive
from pyro_vae.programs.context import X, accepted_arguments, declared_context, required_arguments
from pyro_vae.runs import Run
from pyro_vae.runs.learned_priors import PRIORS
from pyro_vae.runs.measurements import SplitName
from pyro_vae.training.batches import derived_seed


def read_files(
    paths: Sequence[Path],
    shape: tuple[int, ...],
    *,
    sound: Sound | None = None,
    image_size: int | None = None,
    binarization: Binarization = "none",
    binarization_seed: int = 0,
    observed_quadrants: int | None = None,
) -> Split:
    """Read WAV files as sound was read, or image files as a folder of images was.

    Args:
        paths: the files.
        shape: of one x.
        sound: how x is played, if the data are sound: recordings are mixed, resampled, cut or padded, and encoded.
        image_size: images are cut to their central square and resized, as the dataset's were; without it they must have
            the size of the data.
        binarization, binarization_seed, observed_quadrants: as for :func:`pyro_vae.data.load_data`; under ``dynamic``
            the files are binarized once, as test data are.

    Returns:
        the files in their order.

    Raises:
        CorruptFileError: naming the file, if it is damaged.
        InputError: naming the file, if there is none, it is of another kind or size, or not to be used for another
            reason; and for data that are neither images nor sound.
    """
    images = sound is None and len(shape) == 3 and shape[0] in (1, 3)
    if sound is None and not images:
        raise InputError(f"files cannot be given: the data, of shape {shape}, are neither images nor sound")
    for path in paths:
        _check_kind(path, IMAGES if images else SOUNDS)
    if sound is not None:
        return Split({X: torch.stack([sound.encode(sound.read(path, shape[-1])) for path in paths]).unsqueeze(1)})
    x = torch.stack([_image(path, shape, image_size) for path in paths])  # (n, C, H, W)
    if binarization != "none":
        how = "threshold" if binarization == "threshold" else "static"
        x = binarize(x, how, seed=binarization_seed, part="test", name="files")
    mask = None if observed_quadrants is None else quadrant_mask(shape, observed_quadrants, "files")
    return Split({X: x}, mask=mask, name="files")


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


NUM = 16
MOST_SHOWN = 16  # data in the figure
CHUNK = 100  # data at once
FOLDER = "reconstructions"  # of WAV files


def reconstruct(arguments: Sequence[str]) -> None:
    """Send data, or files of one's own, through the latents and back: pictures, arrays, sound."""
    import numpy as np

    from pyro_vae.data import Split
    from pyro_vae.files import write_atomically

    parser = run_parser("reconstruct", reconstruct.__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="image or WAV files, in place of the run's data")
    parser.add_argument("--split", type=SplitName | None, default=None, help="which part of the run's data (test)")
    parser.add_argument("--num", type=int | None, default=None, help=f"how many of them, at even distances ({NUM})")
    parser.add_argument("--seed", type=int, default=0, help="of the draws of the latents")
    parser.add_argument(
        "--y",
        type=str | None,
        default=None,
        help="context of a conditional model, in place of the data's own: a label (7) or a class's name, or several "
        "that take turns (0,1,2)",
    )
    options = parse(parser, arguments)
    run = Run(options.dir, trust=options.trust)
    pictures, sounds = run.file("figures"), run.file(FOLDER)
    model, guide = run.stage_one()  # a learned prior has no part in it
    if options.files:
        if options.split is not None or options.num is not None:
            raise InputError("--split and --num choose among the run's data; leave them out where files are given")
        stems, batch = _of_files(run, options.files)
        names: Sequence[str] = stems
    else:
        stems, names, batch = _of_data(run, options.split or "test", NUM if options.num is None else options.num)
    batch |= _context(run, model, guide, batch, options.y)
    mean = _reconstructed(model, guide, Split(batch, missing=True, name="data"), options.seed)  # (n, *shape)
    arrays = {"name": np.array(names), **{key: value.cpu().numpy() for key, value in batch.items()}}
    arrays["x.mean"] = mean.numpy()
    file = run.path / "reconstructions.npz"
    write_atomically(file, lambda path: np.savez_compressed(path, **arrays))
    print(file)
    if run.sound is not None:
        print(_write_sounds(run, sounds, stems, batch[X].cpu(), mean))
    _draw(run, pictures, names, batch[X].cpu(), mean)


def _of_files(run: Run, files: Sequence[Path]) -> tuple[list[str], dict[str, Tensor]]:

    data = run.config.data
    if Path(data.name).suffix.lower() in (".npz", ".npy"):
        raise InputError(
            f"the run's data are arrays ({data.name}): how files would become such is not known; use --split"
        )
    keys = ("image_size", "binarization", "binarization_seed", "observed_quadrants")
    split = read_files(files, run.data_shape, sound=run.sound, **{key: data[key] for key in keys})
    return _names(files), split.batch(slice(None))


def _names(files: Sequence[Path]) -> list[str]:
    """The files' names without suffix; of equal ones from different folders, the later ones with a number."""
    names: list[str] = []
    taken: set[str] = set()
    for file in files:
        stem = shown(file.stem)
        candidates = [stem, *(f"{stem}-{i}" for i in range(2, len(files) + len(taken) + 2))]
        name = next(name for name in candidates if not {name, f"{name}.data"} & taken)
        names.append(name)
        taken |= {name, f"{name}.data"}
    return names


def _of_data(run: Run, part: str, num: int) -> tuple[list[str], Sequence[str], dict[str, Tensor]]:
    """Names for files, names of the data (the same, if they have none), and the data."""
    from pyro_vae.plots.images import evenly

    positive("--num", num)
    split = getattr(run.data(), part)
    if split is None:
        raise InputError(f"the run's data have no {part} part; choose another --split")
    index = evenly(len(split), num)
    digits = len(str(len(split) - 1))
    some = split.fixed(index)
    stems = [f"{part}-{i:0{digits}d}" for i in index.tolist()]
    return stems, some.names or stems, some.batch(slice(None))


def _context(
    run: Run, model: nn.Module, guide: nn.Module, batch: dict[str, Tensor], y: str | None
) -> dict[str, Tensor]:
    """y as it is said, or an error if it must be."""
    declared = declared_context(model) | declared_context(guide)
    context = declared.get("y")
    sayable = "mask" not in batch and (context is None or len(context.shape) < 2)
    if y is None:
        needed = {*required_arguments(model, batch), *required_arguments(guide, batch)}
        if "y" in needed and "y" not in batch and sayable:
            what, example = describe_y(context), example_y(context, run.classes)
            raise InputError(f"the model needs y ({what}), which is not in the data: say it, e.g. --y {example}")
        return {}
    if context is None and (run.path / PRIORS).is_dir() and "y" in declared_context(run.programs()[0]):
        logging.info("--y is passed over: only the prior takes it, which reconstructions do not ask")
        return {}
    accepted = [accepted_arguments(program) for program in (model, guide)]
    if not sayable or not any(names is None or "y" in names for names in accepted):
        why = "it is made from the data" if not sayable else "it is not conditional"
        raise InputError(f"--y is not for this model: {why}; leave it out")
    return {"y": parse_y(y, context, len(batch[X]), run.classes)}


def _reconstructed(model: nn.Module, guide: nn.Module, split: Any, seed: int) -> Tensor:
    from pyro_vae.evaluation.generate import reconstruct as through_latents
    from pyro_vae.programs.checks import check_data
    from pyro_vae.programs.program import as_programs

    check_data(*as_programs(model, guide), split)
    means = [
        through_latents(model, guide, batch, seed=derived_seed(seed, chunk))
        for chunk, batch in enumerate(split.batches(CHUNK))
    ]
    return torch.cat(means)


def _write_sounds(run: Run, folder: Path, names: Sequence[str], x: Tensor, mean: Tensor) -> Path:
    """One WAV file for what was made of each datum, and one for the datum itself as the model was given it."""
    from pyro_vae.data.wav import write_wavs

    waves = {name: wave[0] for name, wave in zip(names, run.sound.decode(mean), strict=True)}
    data = {f"{name}.data": wave[0] for name, wave in zip(names, run.sound.decode(x), strict=True)}
    write_wavs(folder, waves | data, run.sound.sample_rate)
    return folder


def _draw(run: Run, folder: Path, names: Sequence[str], x: Tensor, mean: Tensor) -> None:
    from pyro_vae.plots.reconstruction import pairs
    from pyro_vae.plots.registry import saved_if_applicable
    from pyro_vae.plots.spectrogram import pairs_of_spectrograms

    title = "Reconstructions, mean of p(x | z) with z ~ q(z | x)"
    if len(x) > MOST_SHOWN:
        logging.info("the figure shows the first %d of %d", MOST_SHOWN, len(x))
        names, x, mean = names[:MOST_SHOWN], x[:MOST_SHOWN], mean[:MOST_SHOWN]
    names = [name.replace("$", r"\$") for name in names]  # no formulas
    if run.sound is None:
        draw = partial(pairs, x, mean, title)
    else:
        draw = partial(pairs_of_spectrograms, x, mean, run.sound, title, names)
    if saved_if_applicable(draw, picture := folder / "reconstruction.png"):
        print(picture)
