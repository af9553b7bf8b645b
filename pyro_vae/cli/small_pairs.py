"""Small pairs of five kinds, with data, and one training step of each: what a machine is checked by."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

import pyro
import torch
from lightning_fabric import Fabric
from torch import Tensor

from pyro_vae.data import Data, load_data
from pyro_vae.programs.pair import examine
from pyro_vae.programs.program import as_programs
from pyro_vae.recipes import read_recipe
from pyro_vae.recording import Mode
from pyro_vae.runs.config import Experiment, build, data_facts, experiment_parser, parse_config
from pyro_vae.runtime import private_seed
from pyro_vae.training import FitResult, fit
from pyro_vae.training.compiled import WARM_UP, CompiledStep, Step, Update
from pyro_vae.training.optimizer import make_optimizer, wanted

SIZES: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {  # pair: its recipe, and arguments that make it small
    "VAE": ("vae", {"model": {"latent_dim": 8, "hidden_dims": [64, 64]}, "guide": {"hidden_dims": [64, 64]}}),
    "ladder VAE": (
        "lvae",
        {
            "model": {"latent_dims": [8, 4], "hidden_dims": [64, 32]},
            "guide": {"hidden_dims": [64, 32]},
        },
    ),
    "VQ-VAE": ("vqvae", {"model": {"num_codes": 16, "code_dim": 8, "channels": 16}}),
    "conditional VAE": ("cvae", {"model": {"latent_dim": 8, "hidden_dims": [64]}, "guide": {"hidden_dims": [64]}}),
    "semi-supervised VAE": (
        "ssvae",
        {
            "model": {"latent_dim": 8, "style_dim": 4, "hidden_dims": [64], "latent_hidden_dims": [32]},
            "guide": {"hidden_dims": [64], "latent_hidden_dims": [32]},
        },
    ),
}
NUM_DATA, NUM_LABELS, BATCH = 256, 50, 64
SEED = 0
TIMED, RATE = 20, 1e-3  # steps, and their learning rate
MODES: dict[str, Mode] = {"eager": "off", "recorded": "graph", "compiled": "full"}  # how a step is run


@dataclass(frozen=True)
class Outcome:
    """What a step leaves: its loss, gradients and buffers."""

    loss: Tensor
    gradients: list[Tensor | None]
    buffers: list[Tensor]


def outcome(step: Step, loss: Tensor, gradients: Sequence[Tensor | None] | None = None) -> Outcome:
    """Of a step that has just been run; its parameters' gradients if none are given."""
    found = [p.grad for p in step.parameters() if p.requires_grad] if gradients is None else gradients
    kept = [None if g is None else g.detach().clone() for g in found]
    return Outcome(loss.detach().clone(), kept, [b.detach().clone() for b in step.buffers()])


class Case:
    """A small pair on a device, trained for an epoch."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device

    @cached_property
    def data(self) -> Data:
        """Digits; for a semi-supervised pair most labels are not known."""
        labels = NUM_LABELS if self.name.startswith("semi") else None
        return load_data("mnist5k", binarization="static", limit=NUM_DATA, num_labels=labels)

    def built(self) -> Experiment:
        """The pair with its initial weights."""
        recipe, sizes = SIZES[self.name]
        config = read_recipe(recipe)
        for part, more in sizes.items():
            config[part]["init_args"] = {**config[part].get("init_args", {}), **more}
        parsed = parse_config(experiment_parser(config), config, recipe, trust=False)
        return build(parsed, **data_facts(self.data))

    def trained(self, **options: Any) -> FitResult:
        """What ``fit`` makes of the pair in an epoch, or as the options say."""
        parts, how = self.built(), {"epochs": 1, "batch_size": BATCH, "seed": SEED, "compile": "off", **options}
        return fit(
            parts.model,
            parts.guide,
            self.data,
            objective=parts.objective,
            device=str(self.device),
            progress=False,
            **how,
        )

    @cached_property
    def batch(self) -> dict[str, Tensor]:
        """A batch of training data on the device."""
        return self.data.train.to(self.device).batch(slice(0, BATCH))

    @cached_property
    def _step(self) -> Step:
        result = self.trained()
        programs = [program.to(self.device) for program in as_programs(result.model, result.guide)]
        with private_seed(SEED, self.device):
            pair = examine(*programs, self.batch, num_data=len(self.data.train), training=True)
        step = Step(*programs, self.built().objective.on(pair))
        return step.train()

    def step(self) -> Step:
        """A training step of its own, with the weights and buffers that all start from."""
        return copy.deepcopy(self._step)

    @cached_property
    def eager(self) -> Outcome:
        """Loss, gradients and buffers of a step that is run eagerly."""
        step = self.step()
        with self.random():
            loss, _ = step(**self.batch)
            loss.backward()
        return outcome(step, loss)

    @contextmanager
    def random(self) -> Iterator[None]:
        """The same random numbers in every step that is compared."""
        with private_seed(SEED, self.device), pyro.validation_enabled(False):
            yield


def fabric_on(device: torch.device, precision: Any = "32-true") -> Fabric:
    """Lightning Fabric on one device. What it has no precision for it may train under another, which it then names."""
    devices = [device.index or 0] if device.type == "cuda" else 1
    return Fabric(accelerator=device.type, devices=devices, precision=precision)


def stepper(step: Step, device: torch.device, mode: Mode, rate: float = RATE) -> Update:
    """A step with Adam, as ``fit`` runs it."""
    fabric = fabric_on(device)
    made = make_optimizer(wanted("adam", {}, rate), step, {}, {}, device, mode)
    module, optimizer = fabric.setup(step, made.optimizer)
    gradient = CompiledStep(fabric, step, mode, differentiate=True, eager=module)
    return Update(fabric, gradient, optimizer, module)


def step_times(case: Case) -> dict[str, float]:
    """Milliseconds of a training step by how it is run, a median; on a GPU recorded ones are captured."""
    found = {}
    for name, mode in MODES.items():
        update = stepper(case.step(), case.device, mode)

        def run(update: Update = update) -> None:
            update(case.batch, [RATE])
            if case.device.type == "cuda":
                torch.cuda.synchronize(case.device)

        with case.random():
            for _ in range(WARM_UP + 2):
                run()
            times = []
            for _ in range(TIMED):
                started = time.perf_counter()
                run()
                times.append(time.perf_counter() - started)
        found[name] = 1e3 * median(times)
    return found


@contextmanager
def collected(name: str) -> Iterator[list[str]]:
    """What a logger says in a block, instead of printing it."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log, handler = logging.getLogger(name), Keep()
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate
