"""A model's and a guide's weights in one safetensors file."""

from __future__ import annotations

import logging
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_atomically
from pyro_vae.inference.fingerprint import state_digest
from pyro_vae.parameters import await_weights
from pyro_vae.program import Program

logger = logging.getLogger(__name__)


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


def save_weights(path: str | Path, model: nn.Module, guide: nn.Module, *, trained: bool = True) -> None:
    """Write the weights of a pair to a safetensors file, atomically, with their digest.

    Args:
        path: of the file.
        model, guide: the pair.
        trained: False for initial weights, which training may replace.
    """
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in named_weights(model, guide).items()}
    about = {"digest": _digest(tensors)} | ({} if trained else {"trained": "no"})
    write_atomically(path, lambda temporary: safetensors.torch.save_file(tensors, temporary, about))


def are_trained(path: Path) -> bool:
    """Whether a weights file is from training; False for the initial weights of a run, and for none."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("trained") != "no"
    except FileNotFoundError:
        return False
    except (safetensors.SafetensorError, OSError):  # damaged: they may have been
        return True


def load_weights(path: str | Path, model: nn.Module, guide: nn.Module) -> None:
    """Read the weights of a pair into it.

    Raises:
        CorruptFileError: if the file is missing or damaged, or holds a parameter that is NaN or infinite.
        InputError: if its names or shapes are not the pair's, or it cannot be read.
    """
    if not Path(path).is_file():
        raise CorruptFileError(f"{path} does not exist: it should hold the run's weights")
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = file.metadata() or {}
            saved = {name: file.get_tensor(name) for name in file.keys()}
    except PermissionError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise CorruptFileError(f"{path} is damaged or truncated and cannot be read as weights: {error}") from error
    if "digest" in about and about["digest"] != _digest(saved):
        raise CorruptFileError(f"{path} is damaged: its weights are not those that were saved, bits have changed")
    named = named_weights(model, guide)
    for name, value in named.items():
        if isinstance(value, nn.Parameter) and name in saved and not bool(saved[name].isfinite().all()):
            raise CorruptFileError(f"{path}: weight '{name}' holds NaN or infinite values; no training saves such")
    if about.get("trained") == "no":
        logger.warning("%s holds initial weights: its training was stopped before the first checkpoint", path)
    copy_into(named, _without_awaited(saved, model, guide), str(path))


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
