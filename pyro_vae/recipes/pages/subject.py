"""What a page is about: a pair of programs, its data, and the directory that they were trained in."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_vae.data import Data, Split, as_data
from pyro_vae.errors import InputError
from pyro_vae.recipes.catalogue import read_yaml
from pyro_vae.recipes.directory import CONFIG
from pyro_vae.recipes.learned_priors import PRIORS
from pyro_vae.recipes.pages.stored import Training
from pyro_vae.recipes.run import FIRST, Run, load


@dataclass
class Subject:
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
    ) -> Subject:
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


def versions() -> dict[str, str]:
    """Of the package and of what its numbers depend on."""
    from pyro_vae import __version__

    found = {"pyro_vae": __version__, "torch": torch.__version__}
    for name in ("pyro-ppl", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found | {"python": platform.python_version()}


def machine() -> str:
    """Where this is run: the processor's kind, and the GPU if there is one."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.system()} {platform.machine()}, threads: {torch.get_num_threads()}{gpu}"


def now() -> str:
    """The time, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _configured_epochs(folder: Path) -> int | None:
    fit = read_yaml(folder / CONFIG).get("fit")
    return fit.get("epochs") if isinstance(fit, dict) else None


def _name(program: Any) -> str:
    inner = getattr(program, "program", program)
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{named.__module__}.{named.__qualname__}"
