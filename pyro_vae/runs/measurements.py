"""Measuring a run on a part of its data, and the two files of a measurement, which carry one id."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import math
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.data import Data, Split
from pyro_vae.data.split import split_digest
from pyro_vae.errors import CorruptFileError, InputError, NotApplicable, positive, unknown, why_not
from pyro_vae.evaluation import CodeUsage, code_statistics, elbo, log_likelihood
from pyro_vae.evaluation.results import metrics
from pyro_vae.files import check_shape, write_atomically, write_json
from pyro_vae.programs.checks import data_type
from pyro_vae.programs.context import given_names
from pyro_vae.programs.left_out import averaged_names, without_averaged
from pyro_vae.programs.program import as_programs
from pyro_vae.programs.session import in_evaluation
from pyro_vae.runs.directory import digest_of_weights
from pyro_vae.runtime import as_device, check_seed
from pyro_vae.training.checkpoint import named_weights

logger = logging.getLogger(__name__)


def plain(value: Any) -> Any:
    """Values as JSON knows them: numbers that are none (the error of one datum) as None, names as text."""
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def no_numbers(value: Any, name: str = "") -> list[str]:
    """Where in a result there are floats that are NaN or infinite, and so null in JSON: "kl.z", "bounds.0.mean"."""
    if isinstance(value, dict | list | tuple):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, inner in entries for found in no_numbers(inner, f"{name}.{key}".lstrip("."))]
    return [name] if isinstance(value, float) and not math.isfinite(value) else []


def warned(result: dict[str, Any]) -> dict[str, Any]:
    """A measurement's result whose ``warnings`` say which of its numbers are none.

    Bits per dimension are left out: where data sites are of different kinds there are none, and tables say so.
    """
    names = [name for name in no_numbers(result) if not name.endswith("bits_per_dim")]
    if not names:
        return result
    of_one = result.get("num_data") == 1 and all(name.endswith("standard_error") for name in names)
    why = "one datum has no standard error" if of_one else "these are no numbers, NaN or infinite"
    return {**result, "warnings": [*result["warnings"], f"{why}: {', '.join(names)} (null in JSON)"]}


ID = "measurement_id"  # in the summary; of the numbers the archive's comment, so that they are arrays and nothing else


def with_id(result: Mapping[str, Any], per_datum: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A measurement's summary with its id: a digest of it and of the numbers of each datum, but for the seconds taken.

    Args:
        result: the summary.
        per_datum: arrays ``(num_data,)`` by name.
    """
    found = hashlib.sha256(json.dumps({k: v for k, v in plain(result).items() if k != "seconds"}).encode())
    for key, value in per_datum.items():
        found.update(f"/{key} {value.dtype} {value.shape}/".encode() + np.ascontiguousarray(value).tobytes())
    return {**result, ID: found.hexdigest()[:32]}


def write_measurement(folder: Path, name: str, result: Mapping[str, Any], per_datum: Mapping[str, np.ndarray]) -> None:
    """Write ``name.npz`` and ``name.json``, each whole or not at all; the id tells when only one of them was written.

    Args:
        folder: the run directory.
        name: such as "evaluation-test".
        result: the summary, :func:`with_id`.
        per_datum: arrays ``(num_data,)`` by name.

    Raises:
        InputError: if they cannot be written.
    """

    def write(path: Path) -> None:
        np.savez(path, **per_datum)
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = str(result[ID]).encode()

    write_atomically(folder / f"{name}.npz", write)
    write_json(folder / f"{name}.json", plain(result))


def print_then_write(text: str, write: Callable[[], object]) -> None:
    """Print a result, then write it: neither a full disk nor a closed pipe loses the number."""
    try:
        print(text, flush=True)
    finally:
        write()


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CorruptFileError: if the file is not one.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        stored = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise CorruptFileError(f"{file} cannot be read: {stored}; remove it, or measure again") from error
    check_shape(value, str(file))
    return value


def read_per_datum(file: Path) -> tuple[dict[str, np.ndarray], str | None]:
    """The numbers of each datum by name, float64, and the id that they carry (None: they carry none).

    Raises:
        CorruptFileError: if the file is damaged.
    """
    try:
        with file.open("rb") as opened, zipfile.ZipFile(opened) as archive:
            number = archive.comment.decode()
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its members are compressed, and pyro-vae compresses none")
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # damaged bytes make the reader fail in many ways
        raise CorruptFileError(f"{file} cannot be read: {error}; measure again, with pyro-vae evaluate") from error
    return {
        name: value.astype(np.float64) for name, value in found.items() if value.dtype.kind in "fiu"
    }, number or None


def not_together(folder: Path, name: str, result: Mapping[str, Any] | None = None) -> str | None:
    """Why the two files of a measurement are not those of one, in a sentence; None if they are.

    Args:
        folder: the run directory.
        name: such as "evaluation-test".
        result: what ``name.json`` holds, if it has been read.

    Raises:
        CorruptFileError: if a file is damaged.
    """
    summary, numbers = folder / f"{name}.json", folder / f"{name}.npz"
    for there, missing in ((summary, numbers), (numbers, summary)):
        if there.is_file() and not missing.is_file():
            return f"{there} is there, but {missing.name}, its other half, is missing"
    if not summary.is_file():
        return None
    stored = read_json(summary) if result is None else result
    said, (arrays, number) = stored.get(ID), read_per_datum(numbers)
    if said is None and number is None:
        return (
            f"{summary} and {numbers.name} carry no id that says that they belong together (an older version of "
            "pyro_vae wrote them)"
        )
    if said != number:
        return f"{summary} and {numbers.name} are of different measurements: one of the two was not written to its end"
    if said != with_id({key: value for key, value in stored.items() if key != ID}, arrays)[ID]:
        return f"{summary} or {numbers.name} is not as it was written: a number in it has been changed"
    return None


def read_together(folder: Path, name: str, again: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Both files of a measurement; None if neither is there.

    Args:
        folder: the run directory.
        name: such as "evaluation-test".
        again: the command that measures again.

    Raises:
        InputError: if they do not belong together, or one is missing.
        CorruptFileError: if a file is damaged.
    """
    why = not_together(folder, name)
    if why is not None:
        raise InputError(f"{why}. Measure again: {again}")
    if not (folder / f"{name}.json").is_file():
        return None
    return read_json(folder / f"{name}.json"), read_per_datum(folder / f"{name}.npz")[0]


SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(SplitName)
PARTICLES, MEMORY_MIB = 5000, 512


@dataclass
class Measured:
    """What a measurement found.

    Attributes:
        result: means over data and what they are of, as plain values (``evaluation-<split>.json``).
        per_datum: ``log_likelihood``, ``elbo`` (nats), ``effective_sample_size`` and ``pareto_k``, float64
            ``(num_data,)`` each, in the data's order (``evaluation-<split>.npz``); of a metric, ``metric.name`` each.
        names: of the data, such as their files', if they have names; ``name`` in the same file.
        rows: the numbers for people, by label; none of a measurement that was read from its files.
    """

    result: dict[str, Any]
    per_datum: dict[str, np.ndarray]
    names: tuple[str, ...] | None = None
    rows: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write both files into a run directory, each whole or not at all, with one id."""
        named = {} if self.names is None else {"name": np.array(self.names)}
        write_measurement(folder, f"evaluation-{self.result['split']}", self.result, self.per_datum | named)


def measure(
    model: nn.Module,
    guide: nn.Module,
    data: Data,
    split: str = "test",
    *,
    particles: int = PARTICLES,
    limit: int | None = None,
    memory_mib: int = MEMORY_MIB,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
    given: Sequence[str] = (),
) -> Measured:
    """Importance-weighted log-likelihood, ELBO and its parts by site, the use of codes, and every registered metric.

    Args:
        model, guide: the programs.
        data: the dataset.
        split: the part of it, "train", "validation" or "test".
        particles: importance samples per datum.
        limit: measure the first so many data only.
        memory_mib: memory budget of all that is computed at once.
        seed: of the particles.
        device: "auto" (a GPU if there is one), "cpu", "cuda", …
        progress: show a bar.
        given: of what the model can average over, and is not given else (labels, for log p(x)), what it is to be given.

    Raises:
        InputError: as :func:`check_options`; for an unknown split, another name in ``given``; as the estimators.
    """
    check_options(particles=particles, limit=limit, memory_mib=memory_mib, seed=seed, device=device)
    trained, model = model, without_averaged(model, given)  # pyright: ignore[reportAssignmentType]
    part = part_of(data, split, limit)
    started = time.monotonic()
    place = as_device(device)
    common: dict[str, Any] = {"seed": seed, "device": place}
    common["memory_budget"] = memory_mib * 2**20
    likelihood = log_likelihood(model, guide, part, num_particles=particles, progress=progress, **common)
    bound = elbo(model, guide, part, **common)
    codes = code_statistics(model, guide, part, **common)
    further, of_metrics, warnings = _further(model, guide, part, common)
    parts, taken = bound.to_dict(), given_names(model, part.keys)
    result = {
        **likelihood.to_dict(),
        "warnings": list(dict.fromkeys([*likelihood.warnings, *bound.warnings, *warnings])),
        "split": split,
        "given": taken,
        "elbo": bound.mean,
        "elbo_standard_error": bound.standard_error,
        "reconstruction": parts["reconstruction"],
        "kl": parts["kl"],
        **{name: parts[name] for name in ("elbo_nats_per_token", "elbo_perplexity") if name in parts},
        **_codes(codes.sites, parts["kl"]),
        **({"metrics": further} if further else {}),
        "seed": seed,
        "device": device_name(place),
        "data_digest": split_digest(part),
        "weights_digest": weights_digest(trained, guide),
        "seconds": round(time.monotonic() - started, 2),
    }
    both = {"log_likelihood": likelihood.per_datum, **bound.arrays(), **likelihood.arrays()}  # in the id's order
    per_datum = both | of_metrics
    arrays = {name: value.double().cpu().numpy() for name, value in per_datum.items()}
    rows = {"given": f"{', '.join(taken)}: log p(x | {', '.join(taken)})"} if taken else {}
    left_out = ", ".join(sorted({*averaged_names(trained)} & {*part.keys} - {*taken}))
    rows |= {"not given": f"{left_out}: log p(x), averaged over it"} if left_out else {}
    rows |= {**likelihood.rows, **bound.rows, **codes.rows}
    for name, stored in result.get("codes", {}).items():
        rows[f"KL of {name}"] += f", {stored['kl_bits_per_code']:.2f} bits per code"
    for name, entry in further.items():
        rows |= {k if k not in rows else f"{k} ({name})": text for k, text in entry["rows"].items()}
    return Measured(with_id(warned(result), arrays), arrays, part.names, rows)


def _further(
    model: nn.Module, guide: nn.Module, part: Split, common: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor], list[str]]:
    """Measure by every registered metric that applies; the failure of one takes no other number with it.

    Returns:
        ``rows`` and ``summary`` of each by its name, as plain values; the numbers of each datum, ``metric.name`` each;
        what all of them warn of, and which have failed.
    """
    found: dict[str, dict[str, Any]] = {}
    arrays: dict[str, Tensor] = {}
    warnings: list[str] = []
    every = metrics()
    if not every:
        return found, arrays, warnings
    programs, seed = as_programs(model, guide), common["seed"]
    split = part.fixed().to(common["device"])
    known = {"model": model, "guide": guide, "split": split.to(split.device, data_type(*programs, split)), **common}
    for name, function in every.items():
        try:
            with in_evaluation(programs, split.batch(slice(0, 1)), seed):
                result = function(**{n: known[n] for n in inspect.signature(function).parameters if n in known})
            values = plain({"rows": {k: str(v) for k, v in result.rows.items()}, "summary": result.to_dict()})
            json.dumps(values)
            each = {f"{name}.{key}": value.double() for key, value in result.arrays().items()}
            found[name], arrays, warnings = values, arrays | each, [*warnings, *result.warnings]
        except NotApplicable as error:
            ours = function.__module__.startswith("pyro_vae.")  # always there: nobody asked for it of this pair
            logger.log(logging.DEBUG if ours else logging.INFO, "no metric '%s': %s", name, error)
        except Exception as error:
            logger.warning("no metric '%s': %s", name, why_not(error))
            warnings.append(f"the metric {name} failed: {why_not(error)}")
    return found, arrays, warnings


def check_options(*, particles: int | None, limit: int | None, memory_mib: int, seed: int, device: str) -> None:
    """Check what a measurement is asked for, before any work.

    Raises:
        InputError: for numbers that are not positive, what is no seed, an unknown device or one that is not here.
    """
    for name, value in {"particles": particles, "limit": limit, "memory_mib": memory_mib}.items():
        if value is not None:
            positive(name, value)
    check_seed(seed)
    as_device(device)


def part_of(data: Data, split: str, limit: int | None = None) -> Split:
    """A part of the data, or the first so many of it.

    Raises:
        InputError: for an unknown part, one that these data do not have, and a limit that is not positive.
    """
    if split not in SPLITS:
        raise unknown("part of the data", split, SPLITS)
    part = data.splits.get(split)
    if part is None:
        raise InputError(f"the data {data.name} have no {split} part; they have: {', '.join(data.splits)}")
    return part if limit is None else part.subset(positive("limit", limit))


def table(path: Path, result: Mapping[str, Any], rows: Mapping[str, str]) -> str:
    """A measurement for people to read.

    Args:
        path: the run directory.
        result: as it is written.
        rows: what was measured, in words, by label.
    """
    shown = {**rows, "seconds": f"{result['seconds']:.1f}"}
    title = f"{path} on {result['num_data']} data ({result['split']}), +- one standard error over data"
    width = max(map(len, shown))
    return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in shown.items())])


def weights_digest(model: nn.Module, guide: nn.Module) -> str:
    """SHA-256 of all weights of a pair, learned priors included: whether a measurement is of these weights."""
    return digest_of_weights(sorted(named_weights(model, guide).items()))


def device_name(device: torch.device) -> str:
    """A device in words: "cpu", or a GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _codes(sites: Mapping[str, CodeUsage], kl: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of codes; nothing of a model without them. With point masses at the codes KL is -log p(codes)."""
    bits = {name: kl[name] / (site.num_positions * math.log(2)) for name, site in sites.items()}
    stored = {name: {**site.to_dict(), "kl_bits_per_code": bits[name]} for name, site in sites.items()}
    return {"codes": stored} if stored else {}
