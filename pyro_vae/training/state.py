"""The state of a training run, and how it is saved and restored."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from pyro_vae.errors import CorruptFileError, InputError, NonFiniteLossError
from pyro_vae.training import checkpoint as files
from pyro_vae.training.averages import WeightEMA
from pyro_vae.training.callbacks import Callbacks
from pyro_vae.training.checkpoint import copy_into, load_weights, named_weights, save_weights
from pyro_vae.training.compiled import Step
from pyro_vae.training.experiment import check_same
from pyro_vae.training.lr_scheduler import Scheduler
from pyro_vae.training.metrics import read_metrics, rewrite_metrics
from pyro_vae.training.optimizer import Optimization, trained
from pyro_vae.training.saved_state import checked_state, is_torchs, like, plain

logger = logging.getLogger(__name__)

ALL_EPOCHS = "all {} epochs"  # why training ended
MOST = 2**53  # of epochs and steps
MACHINE = ("pyro_vae", "torch", "device")  # of an experiment: may change while it is gone on with


@dataclass
class Progress:
    """How far training has come; with weights, optimizer and random state, all that resuming needs."""

    epoch: int = 0
    index: int = 0  # next batch of the epoch
    step: int = 0
    sums: list[float] = field(default_factory=list)  # of the epoch's terms so far; a smaller batch counts less
    best: float = math.inf  # validation loss, nats
    best_epoch: int = -1
    seconds: float = 0.0
    finished: str = ""  # why training ended, if it did
    wanted: int = 0  # epochs that were to be done, if a callback ended training
    guide_updates: int = 0  # of the guide alone, in all
    information: float = -math.inf  # mutual information of the epoch before, nats
    caught_up: bool = False  # whether the guide is not updated by itself any more


def goes_on(progress: Mapping[str, Any], epochs: int) -> bool:
    """Whether a training that had come to its end is gone on with if so many epochs are wanted.

    Args:
        progress: of a checkpoint, :class:`Progress` as a dict.
        epochs: wanted; more than there were to be when it ended.
    """
    epoch, finished, wanted = progress.get("epoch"), progress.get("finished"), progress.get("wanted", 0)
    if not finished or type(epoch) is not int or type(wanted) is not int:
        return False
    return epochs > wanted if wanted else finished == ALL_EPOCHS.format(epoch) and epochs > epoch


class TrainingState:
    """Programs, optimizer, averages, random state and progress of a run, and its directory.

    Args:
        fabric: devices, precision, distribution.
        step: the training step (not yet set up by Fabric).
        optimization: the optimizer over the step's parameters, and its rates.
        scheduler: of the learning rates, or None.
        accumulation: batches of an update; what is saved is saved between two.
        programs: model and guide.
        ema: moving average of the weights, or None.
        run: run directory, or None.
        experiment: what tells it from others (:mod:`pyro_vae.training.experiment`), and the machine.
        num_batches: of an epoch.
        callbacks: whose states are saved.
        networks: the optimizer over the objective's own networks; None: there are none that are trained.
    """

    def __init__(
        self,
        fabric: Fabric,
        step: Step,
        optimization: Optimization,
        scheduler: Scheduler | None,
        accumulation: int,
        programs: tuple[Any, Any],
        ema: WeightEMA | None,
        run: Path | None,
        experiment: dict[str, str],
        num_batches: int,
        callbacks: Callbacks,
        networks: Optimization | None = None,
    ) -> None:
        self.num_batches, self.accumulation, self.callbacks = num_batches, accumulation, callbacks
        self.optimization, self.scheduler = optimization, scheduler
        self.fabric, self.raw_step, self.ema, self.run = fabric, step, ema, run
        self.experiment = experiment
        self.model, self.guide = programs
        self.networks = networks
        self._trained_networks = {name: each for name, each in step.networks.items() if trained(each)}  # at first
        both = [each.optimizer for each in (optimization, networks) if each is not None]
        self.step, self.optimizer, *others = fabric.setup(step, *both)
        self.network_optimizer = others[0] if others else None
        self.at = Progress()
        self.to_finish = False  # whether training had ended, and its weights are to be saved again
        self.best_weights: dict[str, Tensor] | None = None
        self.records: list[dict[str, Any]] = []
        self._saved_at = time.monotonic()

    def start(self) -> None:
        """Leave a readable run directory before the first step."""
        if self.run is not None and self.fabric.global_rank == 0:
            rewrite_metrics(self.run, [])
        self.save()

    def _remedy(self) -> str:
        kept = f"The last good checkpoint in {self.run} is unchanged. " if self.run else ""
        return kept + "Try a smaller learning rate, gradient clipping (clip_norm), or a lower bound on scales"

    def _check_weights(self) -> None:
        """A step's loss may be finite and its gradient not: such weights must not replace good ones on disk."""
        for name, value in self.raw_step.named_parameters():
            if not bool(value.isfinite().all()):
                raise NonFiniteLossError(
                    f"the gradient, and with it weight '{name}', became NaN or infinite at or shortly before step "
                    f"{self.at.step} (epoch {self.at.epoch + 1}), while the loss was finite. " + self._remedy()
                )

    @property
    def _between_updates(self) -> bool:
        return self.at.index % self.accumulation == 0 or self.at.index == self.num_batches

    @property
    def _world(self) -> int:
        return self.fabric.world_size

    def _weights(self) -> dict[str, Tensor]:
        return named_weights(self.model, self.guide)

    def _averaged(self) -> Any:
        return self.ema.applied() if self.ema is not None else nullcontext()

    @torch.no_grad()
    def _restore_best(self) -> None:
        """Leave in the programs the weights that are to be used: best, else averaged, else last."""
        if self.best_weights is not None:
            copy_into(self._weights(), self.best_weights, "best weights")
        elif self.ema is not None:
            torch._foreach_copy_(self.ema.source, self.ema.average)

    @torch.no_grad()
    def save(self) -> None:
        """Write checkpoint and weights to the run directory, if there is one.

        Raises:
            NonFiniteLossError: if a weight is NaN or infinite; nothing is written then.
            InputError: if a file cannot be written; the one before it stays.
        """
        self._saved_at = time.monotonic()
        if not self._writes:
            return
        self._check_weights()
        files.save_checkpoint(self.run, self.state())
        if self.best_weights is not None:
            kept = {k: v.clone() for k, v in self._weights().items()}
            copy_into(self._weights(), self.best_weights, "best weights")
            save_weights(self.run / files.WEIGHTS, self.model, self.guide, experiment=self._told())
            copy_into(self._weights(), kept, "current weights")
            return
        with self._averaged():
            save_weights(self.run / files.WEIGHTS, self.model, self.guide, experiment=self._told())

    @torch.no_grad()
    def finish(self, put_in_place: Callable[[], None]) -> None:
        """Leave in the programs the weights to use, and save them and, of how training ended, the checkpoint.

        Args:
            put_in_place: puts the weights to use into the programs.
        """
        last = None
        if self._writes:
            last = {**self.state(), "weights": {name: value.clone() for name, value in self._weights().items()}}
        put_in_place()
        self._check_weights()
        if last is not None:
            save_weights(self.run / files.WEIGHTS, self.model, self.guide, experiment=self._told())
            files.save_checkpoint(self.run, last)

    def _told(self) -> dict[str, str]:
        """The experiment, without the machine."""
        return {name: value for name, value in self.experiment.items() if name not in MACHINE}

    @property
    def _writes(self) -> bool:
        return self.run is not None and self.fabric.global_rank == 0

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs, in tensors and plain values."""
        cuda = torch.cuda.get_rng_state(self.fabric.device) if self.fabric.device.type == "cuda" else None
        return {
            "experiment": self.experiment,
            "progress": vars(self.at),
            "weights": {name: value.contiguous() for name, value in self._weights().items()},
            "optimizer": plain(self.optimizer.state_dict(), "optimizer"),
            "lr_scheduler": None if self.scheduler is None else self.scheduler.state(),
            "ema": self.ema.state() if self.ema is not None else None,
            "best_weights": self.best_weights,
            "averages": {name: self.raw_step.averages.of(name) for name in self.raw_step.averages.keys},
            "rng": {"cpu": torch.get_rng_state(), "cuda": cuda},
            "precision": self.fabric.strategy.precision.state_dict(),  # of the gradient scaler (16-mixed)
            "names": self.raw_step.names,
            "callbacks": self.callbacks.state(),
            **({} if self.networks is None else {"networks": self._state_of_networks()}),
        }

    def _state_of_networks(self) -> dict[str, Any]:
        weights = {name: value.contiguous() for name, value in self._network_weights().items()}
        return {"weights": weights, "optimizer": plain(self.network_optimizer.state_dict(), "optimizer of networks")}

    def _network_weights(self) -> dict[str, Tensor]:
        """Parameters and buffers of the objective's own networks, but for those that were frozen from the start."""
        return {
            f"{name}.{key}": value
            for name, network in self._trained_networks.items()
            for key, value in network.state_dict(keep_vars=True).items()
        }

    def _restore_optimizer(self, optimization: Optimization, state: dict[str, Any], source: str) -> None:
        """Moments and counts from the checkpoint, each checked; the optimizer's options stay as they are here.

        Numbers among them are the checkpoint's where the optimizer or a scheduler sets them, and nobody else.
        """
        optimizer = optimization.optimizer
        own = optimizer.state_dict()
        groups, saved_groups = own["param_groups"], state["param_groups"]
        if [g["params"] for g in groups] != [g["params"] for g in saved_groups]:
            raise InputError(
                f"{source} was saved with another optimizer, other trained weights or other groups of them"
            )
        states = checked_state(optimizer, state)
        safe = {"state": dict(enumerate(states)), "param_groups": groups}
        if not is_torchs(optimizer):  # which may keep more
            safe |= {k: like(own[k], state[k], f"optimizer.{k}") for k in own.keys() - safe.keys()}
        mine, before = [dict(group) for group in optimizer.param_groups], dict(optimizer.state)
        optimizer.load_state_dict(safe)
        moving = optimization.schedule is None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter, of in zip(parameters, states, strict=True):
            if of or parameter in before:  # as it was saved: load_state_dict has brought it to the parameter's type
                optimizer.state[parameter] = of or before[parameter]
        for group, options, saved in zip(optimizer.param_groups, mine, saved_groups, strict=True):
            group.clear()
            group.update(options)
            for name, value in options.items() if moving else ():
                if _is_number(value) or (isinstance(value, list | tuple) and all(map(_is_number, value))):
                    restored = like(value, saved[name], name)
                    group[name] = value.copy_(restored) if isinstance(value, Tensor) else restored

    def restore(self, state: dict[str, Any], source: str, epochs: int) -> None:
        """Continue from a saved state; what the log holds beyond it is dropped when all else is in place.

        A run that was trained to its end stays as it is, unless more epochs are wanted than it had.

        Raises:
            CorruptFileError: if the state is not one that training saved, or a finished run lacks its weights.
            InputError: if it belongs to another experiment, model, guide, optimizer or averaging.
        """
        try:
            self._restore(state, source, epochs)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise CorruptFileError(f"{source} is not one that pyro_vae's training saved ({error!r})"[:400]) from error
        if not self.at.finished and self.fabric.global_rank == 0:
            self.callbacks.restore(state.get("callbacks", []), source)
        if self._writes:
            if files.DAMAGED in state:  # else the next save would put it in the place of the one that is whole
                (self.run / files.CHECKPOINT).unlink()
            records = [r for r in read_metrics(self.run) if r["epoch"] <= self.at.epoch]
            rewrite_metrics(self.run, records)
            self.records = records

    def _restore_networks(self, state: dict[str, Any], source: str) -> None:
        """Weights and optimizer of the objective's own networks."""
        if (self.networks is None) != (state.get("networks") is None):
            had = "without" if self.networks is not None else "with"
            raise InputError(f"{source} was saved {had} trained networks of the objective; resume the same way")
        if self.networks is not None:
            copy_into(self._network_weights(), state["networks"]["weights"], f"{source}, networks of the objective")
            self._restore_optimizer(self.networks, state["networks"]["optimizer"], source)

    @torch.no_grad()
    def _restore(self, state: dict[str, Any], source: str, epochs: int) -> None:
        begun = state.get("experiment")  # older checkpoints have none
        if begun is None:
            logger.warning("%s is of an older version: whether it is the same experiment is not known", source)
        else:
            self._check_experiment(begun, source)
        at = _progress(state["progress"], source, self.num_batches)
        if at.index % self.accumulation:
            raise CorruptFileError(f"{source} is of a moment within an update, where training saves none")
        if epochs < at.epoch:
            raise InputError(f"{source} is of epoch {at.epoch} already, and epochs is {epochs}: it cannot be fewer")
        if at.finished and not goes_on(vars(at), epochs):
            try:
                self.at = at
                if self.run is not None:
                    load_weights(self.run / files.WEIGHTS, self.model, self.guide)
                self._restore_networks(state, source)
                return
            except CorruptFileError as error:
                if "weights" not in state:
                    raise
                logger.warning("%s: they are made again from the checkpoint", error)
                self.to_finish = True
        if "weights" not in state:
            raise InputError(f"{source} is of a finished run of an older version, which cannot be trained further")
        device = self.fabric.device
        copy_into(self._weights(), state["weights"], source)
        self._restore_optimizer(self.optimization, state["optimizer"], source)
        self._restore_networks(state, source)
        if (self.scheduler is None) != (state.get("lr_scheduler") is None):
            had = "without" if self.scheduler is not None else "with"
            raise InputError(f"{source} was saved {had} lr_scheduler; resume the same way")
        if self.scheduler is not None:
            self.scheduler.restore(state["lr_scheduler"])
        if (self.ema is None) != (state["ema"] is None):
            had = "without" if state["ema"] is None else "with"
            raise InputError(f"{source} was saved {had} ema_decay; resume the same way")
        if self.ema is not None:
            self.ema.restore([t.to(device) for t in state["ema"]])
        averages = self.raw_step.averages
        copy_into({name: averages.of(name) for name in averages.keys}, state.get("averages", {}), source)
        best = state["best_weights"]
        self.best_weights = None if best is None else {k: v.to(device) for k, v in best.items()}
        self.fabric.strategy.precision.load_state_dict(state.get("precision", {}))
        if not all(isinstance(name, str) for name in state["names"]):
            raise TypeError("the names of terms are texts")
        self.raw_step.names = list(state["names"])
        torch.set_rng_state(state["rng"]["cpu"])
        if state["rng"]["cuda"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(state["rng"]["cuda"], device)
        self.at = at
        if not self.to_finish:
            at.finished, at.wanted = "", 0

    def _check_experiment(self, begun: dict[str, str], source: str) -> None:
        """The same experiment, or one in which only the machine or this package's version is another."""
        before, now = dict(begun), dict(self.experiment)
        for name in MACHINE:
            was, is_ = before.pop(name, None), now.pop(name, None)
            if was != is_:
                logger.warning(
                    "%s was saved with %s %s, and is gone on with %s: results may differ", source, name, was, is_
                )
        check_same(before, now, source)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) or (isinstance(value, Tensor) and not value.dim())


def _progress(saved: dict[str, Any], source: str, num_batches: int) -> Progress:
    """Progress as it was saved.

    Args:
        saved: from a checkpoint.
        source: what the checkpoint is called.
        num_batches: of an epoch.

    Raises:
        CorruptFileError: names what is not of its type, or out of its range.
    """
    at = Progress(**saved)

    def counts(value: Any, least: int = 0, most: float = math.inf) -> bool:
        return type(value) is int and least <= value <= min(most, MOST)

    def finite(value: Any) -> bool:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max

    right = {
        "epoch": counts(at.epoch),
        "index": counts(at.index, most=num_batches - 1),
        "step": counts(at.step),
        "sums": isinstance(at.sums, list) and all(map(finite, at.sums)) and bool(at.sums) == bool(at.index),
        "best": at.best == math.inf or finite(at.best),
        "best_epoch": counts(at.best_epoch, -1),
        "seconds": finite(at.seconds) and at.seconds >= 0,
        "finished": isinstance(at.finished, str),
        "wanted": counts(at.wanted),
        "guide_updates": counts(at.guide_updates),
        "information": at.information == -math.inf or finite(at.information),
        "caught_up": isinstance(at.caught_up, bool),
    }
    for name, is_right in right.items():
        if not is_right:
            value, usual = str(getattr(at, name)), getattr(Progress(), name)
            raise CorruptFileError(f"{source}: progress has {name} = {value[:80]}, where {usual!r} or so is right")
    return at
