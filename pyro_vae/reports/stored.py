"""What a report reads of a run: measurements, the course of training, and the commands that make it again."""

from __future__ import annotations

import json
import platform
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from torch import nn

from pyro_vae.data import Data, Split, as_data
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import read_yaml
from pyro_vae.recipes import read_recipe
from pyro_vae.runs.config import experiment_parser, parse_config
from pyro_vae.runs.directory import CONFIG, SUMMARY
from pyro_vae.runs.known import foreign_names
from pyro_vae.runs.learned_priors import PRIORS, parse_prior_config
from pyro_vae.runs.measurements import SPLITS, read_json
from pyro_vae.runs.run import FIRST, HEAD, Run, load
from pyro_vae.runs.sections import flattened
from pyro_vae.training.checkpoint import CHECKPOINT
from pyro_vae.training.metrics import METRICS, read_metrics

NUMBER = int | float | None
OBJECTS = ("kl", "reconstruction", "metrics", "rows")
EVALUATION = {
    **dict.fromkeys(("num_particles", "num_data", "seed"), int),
    **dict.fromkeys(("log_likelihood", "standard_error", "elbo", "elbo_standard_error", "bits_per_dim"), NUMBER),
    **dict.fromkeys(("nats_per_token", "perplexity", "elbo_nats_per_token", "elbo_perplexity"), NUMBER),
    **dict.fromkeys(("effective_sample_size", "pareto_k_max", "pareto_k_above"), NUMBER),
    **{"kl": [NUMBER], "reconstruction": [NUMBER], "given": [str], "bits_of": str, "density_of": str},
    **dict.fromkeys(("density", "bits_density"), bool | None),
    "metrics": [dict],
}
SUMMARIZED = {"seconds": NUMBER, "epochs": NUMBER}
MEASUREMENTS = re.compile(r"(ais|bidirectional|gap)(-\w+)?\.json")


def stored_evaluations(path: Path) -> dict[str, dict[str, Any]]:
    """What ``pyro-vae evaluate`` has left, by part of the data.

    Raises:
        CorruptFileError: if a file is damaged, or lacks the log-likelihood.
    """
    found = {}
    for split in SPLITS:
        file = path / f"evaluation-{split}.json"
        if file.is_file():
            found[split] = read_json(file)
            for key in ("log_likelihood", "standard_error", "num_particles", "num_data"):
                if key not in found[split]:
                    raise CorruptFileError(f"{file} has no '{key}': measure again, with pyro-vae evaluate {path}")
            found[split].setdefault("split", split)
            _check_kinds(found[split], EVALUATION | {"warnings": [str]}, file)
            for entry in found[split].get("metrics", {}).values():
                _check_kinds(entry, {"rows": [str]}, file)
    return found


def metric_rows(evaluation: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """What the metrics of an evaluation say, by metric and label."""
    every = evaluation.get("metrics", {}).items()
    return {(name, k): v.replace("+-", "±") for name, entry in every for k, v in entry.get("rows", {}).items()}


def _check_kinds(values: Mapping[str, Any], kinds: Mapping[str, Any], file: Path) -> None:
    """Check that the entries of a JSON object, where they are there, are what a page takes them for.

    Args:
        values: the object.
        kinds: of its entries, by name; that of the values in a list or an object is said as ``[kind]``.
        file: where it is from.

    Raises:
        CorruptFileError: names the file and the entry.
    """
    for key, kind in kinds.items():
        value = values.get(key)
        inner = list(value.values() if isinstance(value, dict) else value) if isinstance(value, dict | list) else []
        whole = (dict if key in OBJECTS else list) if isinstance(kind, list) else kind
        each = kind[0] if isinstance(kind, list) else object
        if key in values and not (isinstance(value, whole) and all(isinstance(one, each) for one in inner)):
            raise CorruptFileError(f"{file}: '{key}' is not what was saved there; remove the file, or measure again")


def stored_measurements(path: Path) -> dict[str, dict[str, Any]]:
    """Other measurements, by the file's name without ``.json``: annealed importance sampling, bidirectional, gap."""
    files = sorted(file for file in path.glob("*.json") if MEASUREMENTS.fullmatch(file.name))
    return {file.stem: read_json(file) for file in files}


@dataclass
class Training:
    """The course of a training, as its directory tells it.

    Attributes:
        records: the lines of ``metrics.jsonl``.
        summary: what was written at its end; None if it did not come to one.
        resumable: whether there is a checkpoint to go on from.
        configured: how many epochs it was to have; None if that is not known.
    """

    records: list[dict[str, Any]]
    summary: dict[str, Any] | None
    resumable: bool
    configured: int | None = None

    @classmethod
    def of(cls, path: Path, configured: int | None = None) -> Training:
        """Read a directory."""
        file = path / SUMMARY
        summary = read_json(file) if file.is_file() else None
        _check_kinds(summary or {}, SUMMARIZED, file)
        records = read_metrics(path)
        _check_kinds(records[-1] if records else {}, SUMMARIZED, path / METRICS)
        return cls(records, summary, (path / CHECKPOINT).is_file(), configured)

    @property
    def minutes(self) -> float | None:
        """Of training, as far as it came."""
        last = self.records[-1].get("seconds") if self.records else None
        seconds = self.summary.get("seconds", last) if self.summary else last
        return None if seconds is None else seconds / 60

    def to_dict(self) -> dict[str, Any]:
        """What is said of it."""
        last = self.records[-1] if self.records else {}
        end = dict(self.summary or {})
        best = next((r["epoch"] for r in reversed(self.records) if r.get("best")), None)
        return {
            "finished": self.summary is not None,
            "epochs": end.get("epochs", last.get("epoch", 0)),
            "configured_epochs": self.configured,
            "steps": end.get("steps", last.get("step")),
            "best_epoch": end.get("best_epoch", best),
            "minutes": self.minutes,
            "stopped": end.get("stopped"),
            "train_loss": last.get("train/loss"),
            "validation_loss": last.get("validation/loss"),
        }

    def warnings(self, path: Path) -> list[str]:
        """What a reader of the run's numbers should know of it; nothing of a training that came to its end."""
        if self.summary is not None:
            return []
        if not self.records:
            return [
                "No training is recorded here: the weights are what was saved at the start, perhaps the initial ones."
            ]
        done = f"{self.records[-1]['epoch']} epochs" + (f" of {self.configured}" if self.configured else "")
        on = f" Go on with: pyro-vae resume {path}" if self.resumable else ""
        return [f"Training has not come to its end: {done} are recorded. All here is of the weights saved last.{on}"]


@dataclass
class TrainedPair:
    """A trained pair, from a configured run or from Python.

    Attributes:
        path: the run directory.
        model, guide: the programs with their weights.
        data: the dataset.
        run: the configured run, None of a pair that was trained from Python (``fit(..., out=path)``).
        config: its configuration as it was written; empty without one.
        training: how it was trained.
    """

    path: Path
    model: Any
    guide: Any
    data: Data
    run: Run | None
    config: dict[str, Any]
    training: Training

    @classmethod
    def of(
        cls,
        run: Run | str | Path,
        model: Callable[..., Any] | None = None,
        guide: Callable[..., Any] | None = None,
        data: Data | Split | None = None,
        *,
        trust: bool = False,
    ) -> TrainedPair:
        """The subject of a run directory; or of programs and data of one's own, trained into it from Python.

        Raises:
            InputError: if it is no run directory, or some of model, guide and data are given and others not.
        """
        given = [part is not None for part in (model, guide, data)]
        if any(given) and not all(given):
            raise InputError("a run that was trained from Python needs model, guide and data, all three")
        path = run.path if isinstance(run, Run) else Path(run)
        if model is not None and guide is not None and data is not None:
            model, guide = load(path, model=model, guide=guide)
            return cls(path, model, guide, as_data(data), None, {}, Training.of(path))
        run = run if isinstance(run, Run) else Run(path, trust=trust)
        config = read_yaml(path / CONFIG)
        training = Training.of(path, run.config.fit.epochs)
        return cls(path, *run.programs(), run.data(), run, config, training)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.resolve().name

    def parameters(self) -> dict[str, int]:
        """How many numbers are trained: in the model, beside them in the guide, and in all."""
        model = sum(p.numel() for p in self.model.parameters())
        every = sum(p.numel() for p in nn.ModuleList([self.model, self.guide]).parameters())
        return {"model": model, "guide": every - model, "all": every}

    def described_data(self) -> str:
        """The dataset in one line."""
        return "; ".join((self.data.description or self.data.name).splitlines())

    def classes(self) -> dict[str, str]:
        """What model, guide and objective are, by the configuration, else by the programs' names."""
        if not self.config:
            return {"model": _name(self.model), "guide": _name(self.guide)}
        sections = {name: self.config.get(name) for name in ("model", "guide", "objective")}
        return {name: s["class_path"] for name, s in sections.items() if isinstance(s, dict) and "class_path" in s}

    def other_trainings(self) -> dict[str, Training]:
        """Of pairs trained before it, and of priors learned for it."""
        folders = {f"{FIRST} (trained before)": self.path / FIRST}
        folders |= {f"prior of {p.name}": p for p in sorted((self.path / PRIORS).glob("*")) if p.is_dir()}
        return {n: Training.of(f, _configured_epochs(f)) for n, f in folders.items() if (f / CONFIG).is_file()}


def made() -> dict[str, Any]:
    """When and where a page is made, to the minute, and with which versions of what its numbers depend on."""
    from pyro_vae import __version__

    found = {"pyro_vae": __version__, "torch": torch.__version__}
    for name in ("pyro-ppl", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return {
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{platform.system()} {platform.machine()}, threads: {torch.get_num_threads()}{gpu}",
        "versions": found | {"python": platform.python_version()},
    }


def _configured_epochs(folder: Path) -> int | None:
    fit = read_yaml(folder / CONFIG).get("fit")
    return fit.get("epochs") if isinstance(fit, dict) else None


def _name(program: Any) -> str:
    inner = getattr(program, "program", program)
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{named.__module__}.{named.__qualname__}"


def train_command(run: Run) -> str:
    """How the run was trained: its recipe, and the options in which it differs from that."""
    if run.model_of is not None:
        words = ["pyro-vae", "refit-guide", run.model_of["run"], "--out", f"{run.path}-again", *trusted(run)]
        return f"{shlex.join(words)}    # with the options of guide, objective and fit of the configuration below"
    base = ["pyro-vae", "train", run.recipe, "--out", f"{run.path}-again", *trusted(run)]
    try:
        recipe = read_recipe(run.recipe)
        parsed = parse_config(experiment_parser(recipe), recipe, run.recipe)
    except (InputError, ImportError):
        return f"{shlex.join(base)}    # the recipe is not here; the configuration is below"
    return shlex.join([*base, *_options(parsed, run.config.as_dict())])


def prior_commands(run: Run) -> list[str]:
    """How the priors of a run were learned, by their recipes and the options in which they differ from those."""
    lines = []
    for file in sorted((run.path / PRIORS).glob(f"*/{CONFIG}")):
        config = read_yaml(file)
        name = str(config.get("recipe"))
        words = ["pyro-vae", "train-prior", f"{run.path}-again", name, "--site", file.parent.name]
        try:
            usual = parse_prior_config(read_recipe(name), name)
        except (InputError, ImportError):
            lines.append(f"{shlex.join(words)}    # the recipe is not here: see {file}")
            continue
        own = {
            section: config[section] for section in ("prior", "text", "fit", "conditional", "seed") if section in config
        }
        lines.append(shlex.join([*words, *_options(usual, own), *trusted(run)]))
    return lines


def _options(usual: Namespace, own: Mapping[str, Any]) -> list[str]:
    """The options that make a configuration of the usual one; a class is said before its arguments."""
    flat, ours = (flattened(yaml.safe_load(json.dumps(c, default=str))) for c in (usual.as_dict(), own))
    differs = {name for name, value in ours.items() if name not in flat or flat[name] != value}
    of_other_classes = tuple(name.removesuffix("class_path") for name in differs if name.endswith(".class_path"))
    options = [(name, value) for name, value in ours.items() if name in differs or name.startswith(of_other_classes)]
    options.sort(key=lambda option: not option[0].endswith(".class_path"))
    return [f"--{name.removesuffix('.class_path')}={_spelled(value)}" for name, value in options]


def evaluate_command(run: Run, evaluation: Mapping[str, Any], whole: int | None) -> str:
    """How an evaluation is repeated; ``whole``: how many data the part has."""
    words = ["pyro-vae", "evaluate", str(run.path), "--split", str(evaluation.get("split", "test"))]
    words += ["--particles", str(evaluation["num_particles"]), "--seed", str(evaluation.get("seed", 0))]
    if whole is not None and evaluation["num_data"] != whole:
        words += ["--limit", str(evaluation["num_data"])]
    return shlex.join(words + trusted(run))


def page_command(command: str, directories: list[str], options: Mapping[str, Any], trust: list[str]) -> str:
    """How a page is made again; options that are None are left out."""
    said = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["pyro-vae", command, *directories, *said, *trust])


def trusted(run: Run) -> list[str]:
    """The option that lets foreign code run, where the configuration names any."""
    config = read_yaml(run.path / CONFIG)
    facts = ("version", *HEAD)
    foreign = foreign_names({name: value for name, value in config.items() if name not in facts})
    return ["--trust"] if foreign else []


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
