"""Checkpoints and weights in files."""

from __future__ import annotations

import json
import logging
import math
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import check_no_links, write_atomically
from pyro_vae.programs.parameters import await_weights
from pyro_vae.programs.program import Program
from pyro_vae.training.experiment import differences, state_digest
from pyro_vae.training.metrics import METRICS

logger = logging.getLogger(__name__)

ABOUT = "pyro_vae"  # the entry of a weights file in which it says what it is
TYPES = (  # of saved tensors
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)
MOST_ENTRIES = 1 << 20  # of a checkpoint
MOST_SHARED = 1 << 26  # bytes of a checkpoint's tensors beyond twice the file's, if several have the same memory


def named_weights(model: nn.Module, guide: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, ``model.…`` and ``guide.…``; a shared tensor appears once."""
    weights, seen = {}, set()
    for prefix, program in (("model", model), ("guide", guide)):
        inner = program.program if isinstance(program, Program) else program
        owner = inner if isinstance(inner, nn.Module) else program
        for name, value in owner.state_dict(keep_vars=True).items():
            if id(value) not in seen:
                seen.add(id(value))
                weights[f"{prefix}.{name}"] = value
    return weights


def save_weights(
    path: str | Path,
    model: nn.Module,
    guide: nn.Module,
    *,
    trained: bool = True,
    experiment: Mapping[str, str] | None = None,
) -> None:
    """Write the weights of a pair to a safetensors file, atomically, with their digest.

    Args:
        path: of the file.
        model, guide: the pair.
        trained: False for initial weights, which training may replace.
        experiment: that they were trained in, as in a checkpoint; :func:`load_weights` compares it.
    """
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in named_weights(model, guide).items()}
    entries = {"digest": _digest(tensors), "trained": trained, "experiment": dict(experiment or {})}
    about = {ABOUT: json.dumps(entries)}  # one entry: of several, the order in the file is by chance
    write_atomically(path, lambda temporary: safetensors.torch.save_file(tensors, temporary, about))


def _about(file: Any, path: str | Path) -> dict[str, Any]:
    """What an open weights file says of itself; nothing, if it was not written here."""
    try:
        return dict(json.loads((file.metadata() or {}).get(ABOUT, "{}")))
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptFileError(f"{path}: what it says of itself is damaged") from error


def are_trained(path: Path) -> bool:
    """Whether a weights file is from training; False for the initial weights of a run, and for none."""
    if not path.is_file():
        return path.exists()
    try:
        with safetensors.safe_open(path, "pt") as file:
            return _about(file, path).get("trained", True) is not False
    except (safetensors.SafetensorError, OSError, CorruptFileError):  # damaged: they may have been
        return True


def load_weights(
    path: str | Path,
    model: nn.Module,
    guide: nn.Module,
    described: Mapping[str, str] | None = None,
    initial: bool = False,
) -> None:
    """Read the weights of a pair into it.

    Args:
        path: of a file that :func:`save_weights` wrote.
        model, guide: the pair.
        described: the settings of its experiment by name: the log says if the weights were trained in another one.
            Files that do not say in which are not compared.
        initial: whether initial weights are expected.

    Raises:
        CorruptFileError: if the file is missing or damaged, or holds a parameter that is NaN or infinite.
        InputError: if its names or shapes are not the pair's, or it cannot be read.
    """
    if not Path(path).is_file():
        raise CorruptFileError(f"{path} does not exist: it should hold the run's weights")
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = _about(file, path)
            saved = {name: file.get_tensor(name) for name in file.keys()}
    except PermissionError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise CorruptFileError(f"{path} is damaged or truncated and cannot be read as weights: {error}") from error
    odd = next((name for name, value in saved.items() if value.dtype not in TYPES), None)
    if odd is not None:
        raise CorruptFileError(f"{path}: weight '{odd}' is of type {saved[odd].dtype}; no training saves such")
    if "digest" in about and about["digest"] != _digest(saved):
        raise CorruptFileError(f"{path} is damaged: its weights are not those that were saved, bits have changed")
    named = named_weights(model, guide)
    for name, value in named.items():
        if isinstance(value, nn.Parameter) and name in saved and not bool(saved[name].isfinite().all()):
            raise CorruptFileError(f"{path}: weight '{name}' holds NaN or infinite values; no training saves such")
    if about.get("trained", True) is False and not initial:
        logger.warning("%s holds initial weights: its training was stopped before the first checkpoint", path)
    copy_into(named, _without_awaited(saved, model, guide), str(path))
    _warn_if_other(path, about.get("experiment", {}), described or {})


def _warn_if_other(path: str | Path, begun: Any, now: Mapping[str, str]) -> None:
    if not isinstance(begun, Mapping):
        raise CorruptFileError(f"{path}: what it says of its experiment is damaged")
    names = [name for name in now if name in begun and begun[name] != now[name]]
    if names:
        logger.warning(
            "%s was trained otherwise than its configuration says: %s. What is measured is of neither: put back what "
            "was changed, or train anew",
            path,
            differences(begun, now, names),
        )


def _digest(tensors: dict[str, Tensor]) -> str:
    return state_digest(dict(sorted(tensors.items())))


def _without_awaited(saved: dict[str, Tensor], model: nn.Module, guide: nn.Module) -> dict[str, Tensor]:
    """Saved tensors but for those of parameters that come into being when the programs first run; these are kept."""
    ours = named_weights(model, guide)
    awaited = {}
    for name, value in saved.items():
        who, *path = name.split(".")
        if name not in ours and len(path) > 1 and who in ("model", "guide"):
            awaited[name] = value
    for program, who in ((model, "model"), (guide, "guide")):
        own = {n.removeprefix(f"{who}."): v for n, v in awaited.items() if n.startswith(f"{who}.")}
        for name in await_weights(program, own):
            del awaited[f"{who}.{name}"]
    taken = saved.keys() - ours.keys() - awaited.keys()
    return {name: value for name, value in saved.items() if name not in taken}


def copy_common(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Copy those tensors into ours that have the name and shape of one of them; returns their names.

    A layer's tensors (weight, bias, statistics, parametrization) are copied together or not at all.
    """

    def layer(name: str) -> str:
        return name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]

    differ = {layer(n) for n, v in ours.items() if n in theirs and theirs[n].shape != v.shape}
    common = [name for name in ours if name in theirs and layer(name) not in differ]
    for name in common:
        ours[name].detach().copy_(theirs[name].detach())
    return common


def copy_into(ours: dict[str, Tensor], saved: dict[str, Tensor], source: str) -> None:
    """Copy saved tensors into existing ones of the same names and shapes.

    Raises:
        InputError: names a tensor that is missing, unknown, or of another shape; nothing is copied then.
    """
    for name, value in ours.items():
        if name not in saved:
            raise InputError(f"{source} has no weight '{name}': it belongs to another model or guide")
        if saved[name].shape != value.shape:
            raise InputError(
                f"{source}: weight '{name}' has shape {tuple(saved[name].shape)}, the program's has "
                f"{tuple(value.shape)}: it was saved from a model or guide with other sizes"
            )
    extra = sorted(saved.keys() - ours.keys())
    if extra:
        raise InputError(f"{source} holds weight '{extra[0]}', which this model and guide do not have")
    for name, value in ours.items():
        value.detach().copy_(saved[name])


CHECKPOINT = Path("checkpoints") / "last.pt"
PREVIOUS = Path("checkpoints") / "previous.pt"
WEIGHTS = "model.safetensors"
FILES = (str(CHECKPOINT), str(PREVIOUS), METRICS, WEIGHTS)  # what training writes
DAMAGED = "the last one is damaged"  # of a state that was read from the checkpoint before it
SCHEMA: dict[str, Any] = {  # what a checkpoint holds; a finished one of an older version has its progress alone
    "progress": dict,
    **dict.fromkeys(("experiment", "weights", "optimizer", "best_weights", "rng", "precision"), dict | None),
    "ema": list | tuple | None,
    "lr_scheduler": dict | None,
    "names": list | tuple | None,
}


def save_checkpoint(run: Path, state: dict[str, Any]) -> None:
    """Write the state as the run's last checkpoint, with its digest; the one before is kept as ``previous.pt``."""
    last, previous = run / CHECKPOINT, run / PREVIOUS
    if last.exists():
        try:
            previous.unlink(missing_ok=True)
            previous.hardlink_to(last)  # a second name: at no moment is there no last.pt
        except OSError:  # a file system without hard links
            write_atomically(previous, lambda path: shutil.copyfile(last, path))
    whole = {**state, "digest": state_digest(state)}
    write_atomically(last, lambda path: torch.save(whole, path))


def load_checkpoint(run: Path) -> dict[str, Any] | None:
    """The run's last checkpoint that can be read (None: it has none); nothing in the file is executed.

    If the last one is damaged, the one before it is taken, the log says so, and so does the state's entry ``DAMAGED``.

    Raises:
        CorruptFileError: if there is none that can be read; says what can be done.
    """
    paths = [run / path for path in (CHECKPOINT, PREVIOUS) if (run / path).exists()]
    for path in paths:
        try:
            state = _read(path)
        except PermissionError as error:
            raise InputError(f"cannot read checkpoint {path}: {error.strerror}") from error
        except Exception as error:  # damaged bytes make the reader fail in many ways
            logger.warning("checkpoint %s is damaged: %s", path, str(error).split(". ")[0][:120])
            continue
        if path != paths[0]:
            logger.warning("going on from the checkpoint before it, %s", path)
            state[DAMAGED] = True
        return state
    if paths:
        raise CorruptFileError(
            f"checkpoint {' and '.join(map(str, paths))} {'are' if len(paths) > 1 else 'is'} damaged or truncated: "
            "train again into a new directory. The weights in model.safetensors can still be loaded"
        )
    return None


def load_tensors(path: Path) -> Any:
    """What ``torch.save`` has written of tensors, plain values and mappings, on the CPU; no code of it is run.

    Raises:
        ValueError: if its parts are packed, or its tensors larger than the file, or of an odd kind.
        Exception: of many kinds, if bytes are damaged.
    """
    if not path.is_file():
        raise ValueError("it is no file")
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > size:
        raise ValueError("its parts are packed, or overlap")
    state = torch.load(path, map_location="cpu", weights_only=True)
    _check_tensors(state, 2 * size + MOST_SHARED)
    return state


def _read(path: Path) -> dict[str, Any]:
    state = load_tensors(path)
    whole = state if isinstance(state, dict) else {}
    odd = next((key for key, kind in SCHEMA.items() if not isinstance(whole.get(key), kind)), None)
    if odd or not all(isinstance(text, str) for pair in (whole.get("experiment") or {}).items() for text in pair):
        raise ValueError(f"it is not one that pyro_vae's training saved ({odd or 'experiment'})")
    digest = state.pop("digest", None)  # older ones have none
    if digest is not None and digest != state_digest(state):
        raise ValueError("its contents are not those that were saved, bits have changed")
    return state


def _check_tensors(state: Any, most: int) -> None:
    """Check that nested dicts and lists of tensors are no larger than their file lets expect, before they are read.

    Args:
        state: the outermost.
        most: bytes of all tensors: several can share their memory, and one all of its numbers.

    Raises:
        ValueError: if they are, or a tensor is of an odd kind.
    """
    waiting, count, nbytes = [state], 0, 0
    while waiting:
        value = waiting.pop()
        count += 1
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in TYPES:
                raise ValueError(f"it holds a tensor of {value.dtype}, {value.layout}, on {value.device}")
            nbytes += math.prod(value.shape) * value.element_size()  # of Python's integers: they do not overflow
        elif isinstance(value, Mapping):
            waiting.extend(each for item in value.items() for each in item)
        elif isinstance(value, list | tuple):
            waiting.extend(value)
        if count > MOST_ENTRIES or nbytes > most:
            raise ValueError("its tensors are larger than the file")


def check_directory(run: Path, resume: bool) -> None:
    """Check that training may write in a directory.

    Raises:
        InputError: if there is a run already that is not to be resumed, or one to be resumed that has lost its
            checkpoints; if something there is a link.
    """
    check_no_links(run, FILES)
    if resume:
        trained = [name for name in (WEIGHTS, METRICS, "summary.json") if _says_of_training(run / name)]
        if trained and not any((run / path).exists() for path in (CHECKPOINT, PREVIOUS)):
            raise InputError(
                f"{run} holds a trained run ({', '.join(trained)}) without {CHECKPOINT}, which going on with it needs; "
                "nothing was changed. Put the directory checkpoints back, or train into a new directory"
            )
        return
    there = [name for name in FILES if _says_of_training(run / name)]
    if there:
        raise InputError(
            f"out: {run} holds {', '.join(there)} already, which training would replace; go on with it (resume=True), "
            "or choose another directory"
        )


def _says_of_training(file: Path) -> bool:
    return are_trained(file) if file.name == WEIGHTS else file.exists() and file.stat().st_size > 0
