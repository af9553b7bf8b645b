"""Train a model and its guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader

from pyro_vae.data import Data, DataLike, as_data
from pyro_vae.data.split import split_digest
from pyro_vae.errors import InputError, positive
from pyro_vae.files import locked
from pyro_vae.objectives.base import Objective
from pyro_vae.objectives.evidence_bound import ELBO
from pyro_vae.programs.checks import check_data, data_type, two_unlike
from pyro_vae.programs.inside import check_connected
from pyro_vae.programs.pair import examine
from pyro_vae.programs.program import as_programs, prime, real_type
from pyro_vae.programs.session import named
from pyro_vae.recording import Compile, choose_mode, forget
from pyro_vae.recording.state import Snapshot
from pyro_vae.runtime import check_seed, keep_freed_memory, private_seed
from pyro_vae.training.aggressive import Aggressive
from pyro_vae.training.averages import WeightEMA, check_batches
from pyro_vae.training.batches import EpochBatches, derived_seed
from pyro_vae.training.callbacks import Callbacks
from pyro_vae.training.checkpoint import check_directory, load_checkpoint, named_weights
from pyro_vae.training.compiled import FULL_FROM, GRAPH_FROM, Step
from pyro_vae.training.data_init import awaits_data, give_data, initialize_from_data, number_of_data
from pyro_vae.training.devices import make_fabric
from pyro_vae.training.experiment import described as in_words
from pyro_vae.training.experiment import state_digest
from pyro_vae.training.guide_updates import GuideUpdates, check_aggressive
from pyro_vae.training.loggers import LoggerLike, Loggers
from pyro_vae.training.loop import Trainer
from pyro_vae.training.lr_scheduler import Interval, Scheduler, SchedulerLike
from pyro_vae.training.optimizer import OptimizerLike, make_optimizer, trained, wanted
from pyro_vae.training.schedules import Constant, Schedule, ScheduledBuffers, as_schedule, owner, warn_of_long
from pyro_vae.training.trainable import check_trainable

Options = dict[str, bool | int | float | str | list[int | float] | None]


@dataclass
class FitResult:
    """What training returns.

    Attributes:
        model, guide: the trained programs, ready for evaluation (wrapped, if they were plain functions).
        records: one dict per epoch, as in ``metrics.jsonl``; nats per datum.
        epochs, steps: how many were done; best_epoch: the one whose weights were kept (None: the last).
        seconds: training time, over all resumed parts.
        stopped: why training ended.
        networks: the objective's own networks, as they were trained last, by name; empty, if it has none.
    """

    model: nn.Module
    guide: nn.Module
    records: list[dict[str, Any]]
    epochs: int
    steps: int
    best_epoch: int | None
    seconds: float
    stopped: str
    networks: nn.ModuleDict = field(default_factory=nn.ModuleDict)


def fit(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: DataLike,
    *,
    objective: Objective | None = None,
    epochs: int = 100,
    batch_size: int | None = None,
    length_buckets: int | None = None,
    optimizer: OptimizerLike = "adam",
    optimizer_options: Options | None = None,
    param_groups: dict[str, Options] | None = None,
    learning_rate: float | Schedule | None = None,
    lr_scheduler: SchedulerLike | None = None,
    lr_scheduler_options: Options | None = None,
    lr_scheduler_interval: Interval = "epoch",
    grad_accumulation: int = 1,
    aggressive: Aggressive | None = None,
    kl_weight: float | Schedule = 1.0,
    schedules: dict[str, float | Schedule] | None = None,
    clip_norm: float | None = None,
    ema_decay: float | None = None,
    patience: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    described: Mapping[str, str] | None = None,
    checkpoint_every: float = 30.0,
    device: str = "auto",
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true",
    num_devices: int = 1,
    num_nodes: int = 1,
    num_workers: int = 0,
    compile: Compile = "auto",
    progress: bool = True,
    callbacks: Sequence[Any] | None = None,
    logger: LoggerLike = None,
    log_images_every: int | None = None,
) -> FitResult:
    """Fit a Pyro model and guide to data by stochastic variational inference.

    The programs are trained in place; their parameters belong to their modules, not to Pyro's global store, and
    the global random state is left as it was. Training data in memory stay on the device; others are read ahead.

    Args:
        model, guide: Pyro programs with per-datum sites in ``pyro.plate("data", len(x), dim=-1)``; modules or plain
            functions. Each is given the batch's entries that it has arguments for.
        data: what :func:`~pyro_vae.data.as_data` takes: tensors, arrays (also mapped from files), a dataset, a
            ``DataLoader``, an iterable of batches, or a dict of them by part. With a validation part
            (:class:`~pyro_vae.data.Data`), it is measured after each epoch. Of a dict of tensors the entry x may have
            the name of the data argument, if all others have arguments of their own names.
        objective: what is minimized; :class:`~pyro_vae.objectives.ELBO` with one particle if not given.
        epochs: passes over the training data.
        batch_size: data in a step (over all devices together); None: 100, or a ``DataLoader``'s own. An iterable of
            batches has its own.
        length_buckets: batches sorted by length together (50). The data of a batch are then of like length, and
            sequences are computed no further than its longest. Lengths are the data's entry ``lengths``, or of
            tokens those before the first 0. None: batches are random.
        optimizer: adam, adamw, sgd, RAdam, … of ``torch.optim``. In Python also a class, a function
            ``parameters -> optimizer`` (``functools.partial``), or an optimizer of exactly the parameters trained.
        optimizer_options: further arguments of it (``eps``, ``betas``, ``weight_decay``, …).
        param_groups: options of weights by patterns of their names. ``{"guide.*": {"lr": 3e-4}}``; the first pattern
            that matches counts. ``lr`` is their rate where ``learning_rate`` is at its largest; schedules scale all
            alike. Names are those of the weights' file.
        learning_rate: a number, or a schedule in epochs. None: 1e-3, or an optimizer's own.
        lr_scheduler: one of ``torch.optim.lr_scheduler``. In Python also a function ``optimizer -> scheduler``. One
            that looks at a loss is given the validation's (without validation data the training's), nats per datum.
        lr_scheduler_options: further arguments of it.
        lr_scheduler_interval: when it moves on. "step": after every update of the weights.
        grad_accumulation: batches of an update. The gradient is the mean over all their data; steps count batches.
        aggressive: the guide's updates before the model's. They are against a collapse of the posterior; None: both
            are updated together.
        kl_weight: of KL terms in training, or a schedule. (Warm-up: ``Linear(0, 1, 10)``.)
        schedules: values that buffers are set to before every step, by name. Numbers or schedules,
            ``{"guide.temperature": Cosine(1.0, 1 / 16, 30)}``, of any 0-dimensional buffer of the model or the guide.
        clip_norm: the gradient's largest norm.
        ema_decay: keep a moving average of the weights, validate with it and return it.
        patience: stop when validation has not improved for so many epochs. The best epoch's weights are returned;
            epochs before the end of the KL schedule do not count.
        seed: of order, binarization and noise.
        out: directory for checkpoints, metrics and weights; one that holds a run already is refused. One training at a
            time has it.
        resume: go on from the last checkpoint in ``out``, to the very result of an uninterrupted run. The experiment
            must be the one that was begun: the same data and arguments but for ``epochs`` (which may become more, also
            when training had ended), ``checkpoint_every``, ``compile``, ``progress``, ``num_devices``,
            ``num_nodes``, ``num_workers`` and ``device``.
        described: what else tells this experiment from others, by name; another description is refused at a resume.
        checkpoint_every: seconds between checkpoints.
        device: "auto", "cpu", "cuda", …
        precision: Lightning Fabric's names.
        num_devices: data-parallel processes, each with its part of every batch. The result is that of one process up
            to rounding, if every batch is a multiple of their number. (Free bits are compared with the mean KL of
            each process's part, batch norm takes the statistics of it, and divergences of batches compare its data.)
        num_nodes: machines with ``num_devices`` processes each. The same command is started on all of them, by torchrun
            or SLURM.
        num_workers: processes that read a map-style dataset ahead of training. 0: it is read between the steps, or a
            ``DataLoader``'s own number.
        compile: how steps are run. "off": eagerly, Pyro's handlers at every step; "graph": recorded once as a graph of
            tensor operations; "full": recorded and compiled; "auto": by the number of steps (off below 200, full from
            20,000 on). What cannot be recorded runs eagerly, and the log says
            why. The recorded programs' Python is not run again: numbers that you change from outside between steps
            must be tensors (buffers).
        progress: show a bar with the time left.
        callbacks: objects with some of the methods of :class:`~pyro_vae.training.Callback`, called at steps, epochs and
            checkpoints; they can end training.
        logger: csv, tensorboard, or both, by name. They get every epoch's numbers, in ``out/logs``; or an object with
            the interface of Lightning Fabric's loggers, or a list. One that fails is left out from then on.
        log_images_every: epochs between pictures for loggers. Reconstructions and samples, for those that take them.

    Raises:
        InputError: for arguments out of range, data out of a likelihood's support, sites that do not match; for a
            resume of another experiment, or of a run that has lost its checkpoints.
        NonFiniteLossError: if the loss becomes NaN or infinite; names the step and the site.
        CorruptFileError: if the checkpoints to resume from are damaged.
        Interrupted: (a KeyboardInterrupt) after Ctrl-C, SIGTERM or SIGUSR1, when the state is saved.

    Example:
        >>> import torch, pyro_vae
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> result = pyro_vae.fit(model, guide, x, epochs=2, batch_size=10, device="cpu", progress=False)
        >>> result.epochs, result.steps
        (2, 4)
    """
    batch_size = batch_size if batch_size is not None else _size_of_batches(data)
    data = _with_workers(as_data(named(data, model), num_workers), num_workers)
    for split in data.splits.values():
        split.numbered = ()  # these are the numbers that the programs learn
    objective = objective if objective is not None else ELBO()
    positive("grad_accumulation", grad_accumulation)
    of_optimizer = wanted(optimizer, optimizer_options or {}, learning_rate, lr_scheduler is not None)
    check_seed(seed)
    _check(epochs, patience, data, objective, resume, out)
    if lr_scheduler is None and (lr_scheduler_options or lr_scheduler_interval != "epoch"):
        raise InputError("lr_scheduler_options and lr_scheduler_interval are of lr_scheduler, and there is none")
    called = Callbacks(callbacks)
    loggers = Loggers(data, logger, None if out is None else Path(out), resume, log_images_every)
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm must be positive, got {clip_norm}")
    kl_schedule = as_schedule(kl_weight)
    of_buffers = {name: as_schedule(value) for name, value in (schedules or {}).items()}
    warn_of_long({"the KL weight": kl_schedule, **of_buffers}, epochs)
    settings = {
        "seed": seed,
        "batch_size": batch_size,
        "optimizer": of_optimizer.words,
        "optimizer_options": of_optimizer.options,
        "learning_rate": of_optimizer.rate,
        "kl_weight": kl_schedule,
        "schedules": of_buffers,
        "clip_norm": clip_norm,
        "ema_decay": ema_decay,
        "patience": patience,
        "precision": precision,
        "objective": objective,
        **({"param_groups": param_groups} if param_groups else {}),  # older runs say nothing of these
        **({"grad_accumulation": grad_accumulation} if grad_accumulation > 1 else {}),
        **({"length_buckets": length_buckets} if length_buckets is not None else {}),
        **({"aggressive": aggressive} if aggressive is not None else {}),
    }
    fabric = make_fabric(device, precision, num_devices, num_nodes)
    if fabric.world_size > 1:
        fabric.launch()
    programs = [p.to(fabric.device) for p in as_programs(model, guide)]
    check_connected(*programs)
    if real_type(*programs) == torch.float64 and precision != "64-true":
        raise InputError(
            f"the programs have float64 parameters, and precision is '{precision}': train them with "
            "precision='64-true', or make them float32 first (.float())"
        )
    real = data_type(*programs, data.train, fabric.device)  # before training begins
    train = data.train.to(fabric.device, real)
    batches = EpochBatches(train, batch_size, seed, fabric.global_rank, fabric.world_size, length_buckets)
    mode = choose_mode(compile, epochs * len(batches), graph_from=GRAPH_FROM, full_from=FULL_FROM)
    traces = check_data(*programs, train)
    keep_freed_memory()
    run = None if out is None else Path(out)
    alone = locked(run) if run is not None and fabric.global_rank == 0 else nullcontext()
    with alone, private_seed(derived_seed(seed, "noise"), fabric.device):
        prime(*programs, batches.batch(0, 0))
        first = train.batch(slice(0, 2))
        how = {"num_data": len(train), "training": True, "traces": traces, "unlike": two_unlike(train)}
        pair = examine(*programs, first, **how)
        check_trainable(pair, first)
        objective = objective.prepare(pair, train)
        objective.networks.to(fabric.device)
        scheduled = ScheduledBuffers(*programs, of_buffers)
        scheduled.set(0.0)
        if run is not None and fabric.global_rank == 0:
            check_directory(run, resume)  # once more, now that nobody else is at work in it
            loggers.check_free()
        saved = load_checkpoint(run) if resume and run is not None else None
        if saved is None:
            give_data(*programs, train, batch_size, seed)
        if saved is None and awaits_data(*programs):
            initialize_from_data(*programs, EpochBatches(train, number_of_data(train), seed).batch(0, 0))
        weighted = not (isinstance(kl_schedule, Constant) and kl_schedule.value == 1.0)
        kept = torch.float64 if precision == "64-true" else torch.float32  # so that Fabric keeps this very tensor
        weight = torch.ones((), device=fabric.device, dtype=kept) if weighted else None
        step = Step(*programs, objective, weight, fabric.global_rank, fabric.world_size)
        check_batches(step, batches, objective.fewest_data, 0 if data.validation is None else len(data.validation))
        validation = None
        if data.validation is not None:
            held_out = data.validation.to(fabric.device, real)
            check_data(*programs, held_out)
            objective.check_held_out(held_out)
            validation = held_out, Step(*programs, objective.for_validation())
        if precision == "64-true":
            step.double()  # before the averages are made
        weights, groups = named_weights(*programs), param_groups or {}
        optimization = make_optimizer(of_optimizer, step.programs, weights, groups, fabric.device, mode)
        networks, own = None, objective.network_training
        if trained(objective.networks):
            if grad_accumulation > 1 and own.updates > 1:
                raise InputError("grad_accumulation is for objectives whose networks have one update in a step")
            of_networks = wanted(own.optimizer, dict(own.options), own.learning_rate)
            networks = make_optimizer(of_networks, step.networks, {}, {}, fabric.device, mode)
            networks = networks.following(optimization.schedule, own.learning_rate)
        guide_updates = None
        if aggressive is not None:
            check_aggressive(validation is not None, fabric.world_size, grad_accumulation, networks is not None)
            further = EpochBatches(train, batch_size, derived_seed(seed, "guide"), length_buckets=length_buckets)
            guide_updates = GuideUpdates(aggressive, programs, further, validation[0], seed)
        scheduler = None
        if lr_scheduler is not None:
            scheduler = Scheduler(
                *(lr_scheduler, lr_scheduler_options or {}, lr_scheduler_interval, optimization.optimizer),
                validated=validation is not None,
            )
            settings |= {"lr_scheduler": scheduler.described(), "lr_scheduler_interval": lr_scheduler_interval}
        if of_optimizer.cls is None:
            settings["optimizer's groups"] = optimization.described()
        frozen = {name: each for name, each in objective.networks.items() if not trained(each)}
        if frozen:
            state = {name: dict(each.state_dict()) for name, each in sorted(frozen.items())}
            settings["the objective's frozen networks"] = state_digest(state)
        told = {**(described or {}), **settings, "epochs": epochs}.items()
        experiment = {} if run is None else _experiment(data, fabric, described or {}, settings)
        trainer = Trainer(
            fabric,
            step,
            optimization,
            batches,
            validation=validation,
            scheduler=scheduler,
            accumulation=grad_accumulation,
            kl_schedule=kl_schedule,
            kl_weight=weight,
            scheduled=scheduled,
            epochs=epochs,
            clip_norm=clip_norm,
            ema=None if ema_decay is None else WeightEMA(step.programs, ema_decay),
            patience=patience,
            run=run,
            experiment=experiment,
            checkpoint_every=checkpoint_every,
            progress=progress,
            programs=programs,
            seed=seed,
            mode=mode,
            callbacks=called,
            loggers=loggers,
            settings={name: each if isinstance(each, int | float | str) else in_words(each) for name, each in told},
            networks=networks,
            updates=own.updates,
            guide_updates=guide_updates,
        )
        if saved is not None:
            trainer.restore(saved, f"checkpoint in {out}", epochs)
        else:
            trainer.start()
        with pyro.validation_enabled(False):  # checked above, once; inside a step it would synchronize
            trainer.train()
    at = trainer.at
    for transform in Snapshot(step, keep=False).transforms:
        forget(transform)  # what flows keep of the last batch hangs on its graph, which no copy could be made of
    for program in programs:
        program.eval()
    return FitResult(
        *(owner(p) for p in programs),
        trainer.records,
        at.epoch,
        at.step,
        at.best_epoch if at.best_epoch >= 0 else None,
        at.seconds,
        at.finished,
        objective.networks.eval(),
    )


def _check(
    epochs: int, patience: int | None, data: Data, objective: Objective, resume: bool, out: str | Path | None
) -> None:
    if epochs < 1:
        raise InputError(f"epochs must be a positive integer, got {epochs}")
    if patience is not None and patience < 1:
        raise InputError(f"patience must be a positive integer, got {patience}")
    if patience is not None and data.validation is None:
        raise InputError(
            "patience needs validation data: give a Data with a validation split, or no patience (--fit.patience null)"
        )
    if not isinstance(objective, Objective):
        raise InputError(
            f"objective must be one of pyro_vae.training's (ELBO(), IWAE(), …), got {type(objective).__name__}; "
            "Pyro's own objectives train with pyro.infer.SVI"
        )
    if resume and out is None:
        raise InputError("resume needs out, the directory of the run to go on with")
    if out is not None:
        check_directory(Path(out), resume)


def _size_of_batches(data: Any) -> int:
    """A loader's own, of a dict the training part's; else 100."""
    data = data.get("train") if isinstance(data, Mapping) else data
    return (data.batch_size if isinstance(data, DataLoader) else None) or 100


def _with_workers(data: Data, count: int) -> Data:
    if count < 0:
        raise InputError(f"num_workers must be 0 or a positive integer, got {count}")
    return replace(data, **{part: split.with_workers(count) for part, split in data.splits.items()}) if count else data


def _experiment(data: Data, fabric: Fabric, more: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, str]:
    """What tells this experiment from others, and the machine that it runs on."""
    from pyro_vae import __version__

    validation = None if data.validation is None else split_digest(data.validation)
    return {
        **{name: str(value) for name, value in more.items()},
        **{name: in_words(value) for name, value in settings.items()},
        "training data": split_digest(data.train),
        "validation data": str(validation),
        "pyro_vae": __version__,
        "torch": str(torch.__version__),
        "device": fabric.device.type,
    }
