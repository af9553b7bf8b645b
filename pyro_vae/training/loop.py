"""The training loop, which signals and callbacks stop between two steps."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.data import Split
from pyro_vae.errors import CorruptFileError, InputError, Interrupted, NonFiniteLossError, ReadError
from pyro_vae.files import remove_leftovers
from pyro_vae.programs.context import X
from pyro_vae.recording import Mode
from pyro_vae.runtime import private_seed
from pyro_vae.training import checkpoint as files
from pyro_vae.training.averages import SOME, WeightEMA, norm_layers, recompute_statistics
from pyro_vae.training.batches import EpochBatches, derived_seed
from pyro_vae.training.callbacks import Callbacks
from pyro_vae.training.compiled import CompiledStep, NetworkStep, Step, Update
from pyro_vae.training.guide_updates import GuideUpdates
from pyro_vae.training.loggers import Loggers
from pyro_vae.training.lr_scheduler import Scheduler
from pyro_vae.training.metrics import append_metrics
from pyro_vae.training.optimizer import Optimization
from pyro_vae.training.schedules import Schedule, ScheduledBuffers
from pyro_vae.training.signals import Interrupts
from pyro_vae.training.state import ALL_EPOCHS, TrainingState

logger = logging.getLogger(__name__)

WINDOW = 100  # steps between looks at the loss
LOOKED_AT = 1000  # validation data, one by one, when their loss is not finite


class Trainer(TrainingState):
    """The loop over a training state.

    Args:
        fabric: devices, precision, distribution.
        step: the training step (not yet set up by Fabric).
        optimization: the optimizer over the step's parameters, and its rates.
        batches: training batches.
        validation: held-out data and the step that measures them (same programs, weight 1), or None.
        scheduler: of the learning rates, or None.
        accumulation: batches of an update.
        kl_schedule: in epochs; kl_weight: the live tensor that it sets (or None).
        scheduled: buffers of the programs that have schedules.
        epochs: how many.
        clip_norm: largest gradient norm, or None.
        ema: moving average of the weights, or None.
        patience: epochs without a better validation loss before training stops, or None.
        run: run directory, or None.
        experiment: what tells it from others.
        checkpoint_every: seconds between checkpoints.
        progress: show a bar.
        programs: model and guide.
        seed: of the validation's draws.
        mode: how steps are run: off (eagerly), graph or full.
        callbacks: that are called.
        loggers: that the epochs are sent to; settings: what they are told of the experiment.
        networks: the optimizer over the objective's own networks, or None; updates: how many of its updates there are
            in a step.
        guide_updates: of the guide alone before each step, or None.
    """

    def __init__(
        self,
        fabric: Fabric,
        step: Step,
        optimization: Optimization,
        batches: EpochBatches,
        *,
        validation: tuple[Split, Step] | None,
        scheduler: Scheduler | None,
        accumulation: int,
        kl_schedule: Schedule,
        kl_weight: Tensor | None,
        scheduled: ScheduledBuffers,
        epochs: int,
        clip_norm: float | None,
        ema: WeightEMA | None,
        patience: int | None,
        run: Path | None,
        experiment: dict[str, str],
        checkpoint_every: float,
        progress: bool,
        programs: tuple[Any, Any],
        seed: int,
        mode: Mode,
        callbacks: Callbacks,
        loggers: Loggers,
        settings: Mapping[str, Any],
        networks: Optimization | None = None,
        updates: int = 1,
        guide_updates: GuideUpdates | None = None,
    ) -> None:
        super().__init__(
            *(fabric, step, optimization, scheduler, accumulation, programs, ema, run, experiment, len(batches)),
            *(callbacks, networks),
        )
        self.loggers, self.settings = loggers, settings
        self.window: list[Tensor] = []  # rows of terms of the last steps, on the device
        self.batches, self.seed = batches, seed
        gradient = CompiledStep(fabric, step, mode, differentiate=True, eager=self.step, prepare=batches.split.finish)
        alone = None
        if networks is not None and updates > 1:
            prepare = batches.split.finish
            alone = CompiledStep(fabric, NetworkStep(step), mode, differentiate=True, prepare=prepare)
        of_networks = self.network_optimizer, alone, updates
        self.update = Update(
            fabric, gradient, self.optimizer, self.step, clip_norm, ema, accumulation > 1, *of_networks
        )
        self.guide_updates = guide_updates
        if guide_updates is not None:
            self.of_guide = Update(fabric, gradient, self.optimizer, self.step, clip_norm)
        self._remarks: set[str] = set()
        self.validation = None
        if validation is not None:
            self.validation = validation[0].fixed(), CompiledStep(fabric, validation[1], mode, differentiate=False)
        self.kl_schedule, self.kl_weight = kl_schedule, kl_weight
        self._rates: dict[str, float] = {}  # of the epoch that ends
        self.scheduled = scheduled
        self.epochs, self.patience = epochs, patience
        self.checkpoint_every, self.show = checkpoint_every, progress
        self._normalized = bool(norm_layers(step))
        self.interrupts = Interrupts()

    def train(self) -> None:
        """Run to the end, or to the next interruption.

        Raises:
            NonFiniteLossError: names the step and the site; the last checkpoint stays as it is.
            Interrupted: after a signal, when the state has been saved.
            Exception: what a callback raised, when the state has been saved.
        """
        if self._writes:
            remove_leftovers(self.run / name for name in files.FILES)
        if self.at.finished:  # a finished run, resumed
            if self.to_finish:
                self.finish(self._weights_to_use)
            return
        if self.batches.in_order and self.run:
            logger.info("the data are an iterable of batches: training is saved, and goes on, at the end of an epoch")
        started = time.monotonic() - self.at.seconds
        total = self.epochs * len(self.batches)
        bar = tqdm(total=total, initial=self.at.step, unit="step", disable=not self.show or self.fabric.global_rank > 0)
        with self.loggers.at_work(self, self.settings):
            further = nullcontext() if self.guide_updates is None else closing(self.guide_updates)
            with bar, self.interrupts, closing(self.batches), further:
                self.callbacks.call("on_fit_start", self)
                self._settle()
                while self.at.epoch < self.epochs and not self.at.finished:
                    self._epoch(bar, started)
                if not self.at.finished:
                    self._settle()
            if not self.at.finished:
                self.at.finished = ALL_EPOCHS.format(self.epochs)
            self.at.seconds = time.monotonic() - started
            self.finish(self._weights_to_use)
            if self._writes:
                self.callbacks.call("on_checkpoint", self)
            self.callbacks.call("on_fit_end", self)
            if self.callbacks.error is not None:
                raise self.callbacks.error

    def save(self) -> None:
        """Write checkpoint and weights, and tell the callbacks."""
        super().save()
        if self._writes and self.window:  # not before the first step
            self.callbacks.call("on_checkpoint", self)

    def _weights_to_use(self) -> None:
        self._restore_best()
        if self.best_weights is None:  # else they have the statistics with which they were best
            self._recompute_statistics(len(self.batches))

    def _epoch(self, bar: tqdm, started: float) -> None:
        at, count = self.at, len(self.batches)
        self.step.train()
        rows: list[Tensor] = []
        while at.index < count:
            try:
                rows.append(self._one_step(at.epoch + at.index / count))
            except ReadError:
                self._account(rows)
                if self._can_save:
                    self.save()
                raise
            except RuntimeError as error:  # torch tells of a worker that ended wherever we are
                if "DataLoader worker" not in str(error):
                    raise
                raise ReadError(f"a process that reads data ended during step {at.step + 1}: {error}") from error
            at.index += 1
            at.step += 1
            self.window = rows
            self.callbacks.call("on_step", self)
            asked = self._world == 1 and self._asked_to_end
            if self._between_updates and (len(rows) >= WINDOW or at.index == count or asked):
                self._account(rows)
                bar.update(len(rows))
                bar.set_postfix_str(f"epoch {at.epoch + 1}/{self.epochs}, {self._shown(rows[-1])}", refresh=False)
                rows = []
                at.seconds = time.monotonic() - started
                if at.index < count:
                    self._maybe_save()
                    if at.finished:
                        return
        self._finish_epoch(started)
        if not at.finished:  # else the weights to use are put in place first, and saved at the end
            self._maybe_save()

    def _shown(self, row: Tensor) -> str:
        """The loss, and what the objective names beside it."""
        told = [f"loss {row[0]:.2f}"]
        for name, pattern in self.raw_step.objective.phases.items():
            values = [row[i].item() for i, term in enumerate(self.raw_step.names) if fnmatchcase(term, pattern)]
            told += [f"{name} {sum(values):.2f}"] if values else []
        return ", ".join(told)

    def _one_step(self, epoch: float) -> Tensor:
        """Forward, backward, update; returns the row of terms, still on the device."""
        if self.kl_weight is not None:
            self.kl_weight.fill_(self.kl_schedule(epoch))
        self.scheduled.set(epoch)
        index, count = self.at.index, len(self.batches)
        first = index - index % self.accumulation
        together = range(first, min(first + self.accumulation, count))  # the batches of this update
        part = self.batches.size(index) / sum(map(self.batches.size, together))
        complete = index + 1 == together.stop
        rows = self.batches.rows(self.at.epoch, index)
        of_networks = None if self.networks is None else self.networks.rates(epoch)
        rates, model_alone = self.optimization.rates(epoch), nullcontext()
        if self.guide_updates is not None and not self.at.caught_up:
            self.at.guide_updates += self.guide_updates.before_step(self.of_guide, self.at.guide_updates, rates)
            model_alone = self.guide_updates.model_alone()
        with model_alone:
            row = self.update(rows, rates, of_networks, part, complete)
        if index + 1 == count:
            self._rates = self.optimization.recorded(self.at.epoch)
            if self.networks is not None:
                self._rates |= self.networks.recorded(self.at.epoch)
        if complete and self.scheduler is not None:
            self.scheduler.after_update()
        return row

    def _account(self, rows: list[Tensor]) -> None:
        """Fetch a window of terms (the only host synchronization), check them, add them up."""
        table = self.fabric.all_reduce(torch.stack(rows), reduce_op="mean") if self._world > 1 else torch.stack(rows)
        table = table.double().cpu()
        bad = (~table.isfinite()).nonzero()
        if len(bad):
            first = int(bad[:, 0].min())
            names = [self.raw_step.names[i] for i in bad[bad[:, 0] == first, 1].tolist()]
            site = next((n for n in names if n != "loss"), "loss")
            where = _place(site)
            value = table[first, self.raw_step.names.index(site)].item()
            if self.callbacks.error is not None:  # whose own words come first
                raise self.callbacks.error
            raise NonFiniteLossError(
                f"{where} became {value} at step {self.at.step - len(rows) + first + 1} (epoch {self.at.epoch + 1}). "
                + self._remedy()
            )
        for i, row in enumerate(table.tolist()):  # one by one: the rounding must not depend on where a window ends
            part = self.batches.size(self.at.index - len(rows) + i) / self.batches.batch_size  # 1, the last may be less
            row = [part * term for term in row]
            if self.at.sums and len(self.at.sums) != len(row):
                raise CorruptFileError(
                    f"checkpoint in {self.run}: progress has {len(self.at.sums)} sums, the objective {len(row)} terms: "
                    "train again into a new directory"
                )
            self.at.sums = [a + b for a, b in zip(self.at.sums, row, strict=True)] if self.at.sums else row

    def _finish_epoch(self, started: float) -> None:
        at = self.at
        count = sum(self.batches.size(i) for i in range(len(self.batches))) / self.batches.batch_size
        record: dict[str, Any] = {"epoch": at.epoch + 1, "step": at.step}
        record |= {f"train/{n}": s / count for n, s in zip(self.raw_step.names, at.sums, strict=True)}
        record |= {**self._rates, "kl_weight": self.kl_schedule(at.epoch)}
        record |= self.scheduled.values(at.epoch)
        loss = record["train/loss"]
        remark = self.raw_step.objective.remark({n: record[f"train/{n}"] for n in self.raw_step.names})
        if remark and remark not in self._remarks:
            self._remarks.add(remark)
            logger.warning("epoch %d: %s", at.epoch + 1, remark)
        at.epoch, at.index, at.sums = at.epoch + 1, 0, []
        if self.validation is not None:
            measured = self.validate()
            record |= {f"validation/{k}": v for k, v in measured.items()}
            loss = measured["loss"]
            self._judge(loss, record)
        if self.guide_updates is not None:
            record |= self._look_at_guide(self.guide_updates)
        if self.scheduler is not None:
            self.scheduler.after_epoch(loss)
        at.seconds = time.monotonic() - started
        record["seconds"] = round(at.seconds, 3)
        self.records.append(record)
        if self.run and self.fabric.global_rank == 0:
            append_metrics(self.run, record)
        self.loggers.epoch(self, self._averaged)
        self.callbacks.call("on_epoch", self)

    def _look_at_guide(self, guide_updates: GuideUpdates) -> dict[str, float]:
        """How often the guide was updated by itself; that ends when its latents say no more of the data than before."""
        at = self.at
        if at.caught_up:
            return {"guide_updates": at.guide_updates}
        found = guide_updates.information()
        if at.epoch >= self.kl_schedule.end:
            at.caught_up, at.information = not found > at.information, found
        if at.caught_up:
            logger.info("epoch %d: the mutual information rises no more; guide and model move together", at.epoch)
        return {"guide_updates": at.guide_updates, "mutual_information": found}

    def _judge(self, loss: float, record: dict[str, Any]) -> None:
        """Remember the best weights; stop when patience is at its end. Counts once the KL weight is final."""
        at = self.at
        if at.epoch < self.kl_schedule.end or self.patience is None:
            return
        if loss < at.best:
            at.best, at.best_epoch, record["best"] = loss, at.epoch, True
            with self._averaged():
                self.best_weights = {k: v.detach().clone() for k, v in self._weights().items()}
        elif at.epoch - at.best_epoch >= self.patience and at.best_epoch >= 0:
            at.finished = f"no better validation loss for {self.patience} epochs"

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Terms of the validation data, nats per datum, at KL weight 1, with the averaged weights if there are."""
        assert self.validation is not None
        split, measure = self.validation
        measure.step.eval()
        sums = torch.zeros((), dtype=torch.float64, device=split.device)
        seed = derived_seed(self.seed, "validation")
        with private_seed(seed, split.device), self._averaged():
            self._recompute_statistics(-(-SOME // self.batches.batch_size))
            for batch in split.batches(self.batches.batch_size):
                sums = sums + measure(batch).double() * len(batch[X])
            means = dict(zip(measure.step.names, (sums / len(split)).tolist(), strict=True))
            if not all(map(math.isfinite, means.values())):
                raise NonFiniteLossError(self._not_finite(means))
        measure.step.train()
        return means

    def _not_finite(self, means: Mapping[str, float]) -> str:
        """What is said of a validation loss that is not finite, and which of the first data alone gives it."""
        assert self.validation is not None
        split, measure = self.validation
        data = (split.batch(slice(i, i + 1)) for i in range(min(len(split), LOOKED_AT)))
        index = next(
            (i for i, datum in enumerate(data) if not bool(measure.forward(**datum)[1].isfinite().all())), None
        )
        where = "" if index is None else f"; validation datum {index} alone gives such a loss"
        names = ", ".join(f"{name} {value}" for name, value in means.items() if not math.isfinite(value))
        return f"the validation loss is not finite after epoch {self.at.epoch} ({names}){where}. " + self._remedy()

    def _recompute_statistics(self, count: int) -> None:
        """Batch norm's statistics for the weights now in place, from the first ``count`` batches of the next epoch."""
        if self._normalized:
            count = min(count, len(self.batches))
            batches = (self.batches.batch(self.at.epoch, index) for index in range(count))
            precision = self.fabric.strategy.precision
            seed = derived_seed(self.seed, "statistics")
            with private_seed(seed, self.fabric.device), precision.forward_context():
                recompute_statistics(self.model, self.guide, map(precision.convert_input, batches))
            if self._world > 1:  # all validate with those of the first process
                for buffer in self.raw_step.buffers():
                    torch.distributed.broadcast(buffer, 0)

    @property
    def _can_save(self) -> bool:
        """Whether training could go on from here: between updates; batches that come as they like, between epochs."""
        return self._between_updates and not (self.batches.in_order and self.at.index)

    def _maybe_save(self) -> None:
        self._settle()
        due = self.batches.in_order or time.monotonic() - self._saved_at >= self.checkpoint_every
        if due and self._can_save and not self.at.finished:
            self.save()
            if self._world == 1:
                self._settle()  # what callbacks have asked for by then

    def _settle(self) -> None:
        """Do what a signal, or a callback, asks for: end training, or save and raise. All processes do the same."""
        at, (number, failed, reason) = self.at, self._asked()
        if reason and self._can_save and not failed:
            at.finished, at.wanted = reason, self.epochs  # saved at the end, with the weights to use
            return
        if not (failed or number):
            return
        error = self.callbacks.error or InputError("a callback of the first process failed")
        try:
            if self._can_save:
                self.save()
        except (InputError, NonFiniteLossError) as unsaved:
            if not failed:
                raise
            error.add_note(f"the state could not be saved: {unsaved}")
        if self._world > 1:
            self.fabric.barrier()  # nobody leaves before the first process has saved
        if failed:
            raise error
        saved = ", saved" if self._can_save else f", saved as it was after epoch {at.epoch}"
        message = f"stopped at step {at.step}" + (saved if self.run else "") + f" ({signal.Signals(number).name})"
        raise Interrupted(message, number) from self.callbacks.error

    @property
    def _asked_to_end(self) -> bool:
        """Whether this process has been asked for something that :meth:`_settle` would do."""
        asked = self.interrupts.pressed or self.callbacks.error is not None
        return asked or (bool(self.callbacks.reason) and self._can_save)

    def _asked(self) -> tuple[int, bool, str]:
        """The signal that came (0: none), whether a callback failed, and why one ends training, of all processes."""
        pressed = (self.interrupts.number or signal.SIGINT) if self.interrupts.pressed else 0
        failed, reason = self.callbacks.error is not None, self.callbacks.reason
        if self._world == 1:
            return int(pressed), failed, reason
        asked = torch.tensor([float(pressed), float(failed), float(bool(reason))], device=self.fabric.device)
        number, fails, ends = self.fabric.all_reduce(asked, reduce_op="max").tolist()
        return int(number), fails > 0, str(self.fabric.broadcast(reason)) if ends else ""


def _place(term: str) -> str:
    """Of which site, or network of the objective, a term is."""
    kind, _, name = term.partition("/")
    if kind in ("network_loss", "divergence"):
        return f"the objective's {name} ({kind.replace('_', ' ')})"
    return f"site '{name}' ({kind})" if name else "the loss"
