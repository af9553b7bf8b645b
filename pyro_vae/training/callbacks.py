"""Callbacks: objects of the user's own that training calls at its steps, epochs and checkpoints."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import nn

from pyro_vae.errors import CorruptFileError, InputError, unknown, why_not
from pyro_vae.runtime import same_random_state
from pyro_vae.training.schedules import owner

if TYPE_CHECKING:
    from pyro_vae.training.loop import Trainer

logger = logging.getLogger(__name__)

HOOKS = ("on_fit_start", "on_step", "on_epoch", "on_checkpoint", "on_fit_end")
DEEPEST, MOST = 40, 100_000  # nesting and entries of a callback's state
PLAIN = (type(None), bool, int, float, str)


class TrainingView:
    """What a callback sees of a training, as it is when it is read; nothing in it can be set.

    Args:
        trainer: the training.

    Example:
        >>> import torch, pyro_vae
        >>> class Watching:
        ...     def on_epoch(self, state):
        ...         print(state.epoch, state.step, len(state.terms["loss"]), state.record["train/loss"] > 0)
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> options = {"epochs": 2, "batch_size": 10, "device": "cpu", "progress": False}
        >>> _ = pyro_vae.fit(model, guide, torch.ones(20, 1, 8, 8), callbacks=[Watching()], **options)
        1 2 2 True
        2 4 2 True
    """

    __slots__ = ("_trainer",)

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    @property
    def model(self) -> nn.Module:
        """The model as it is trained, with the weights of the last step (not their moving average)."""
        return owner(self._trainer.model)

    @property
    def guide(self) -> nn.Module:
        """The guide, likewise."""
        return owner(self._trainer.guide)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self._trainer.at.epoch

    @property
    def step(self) -> int:
        """Steps done."""
        return self._trainer.at.step

    @property
    def terms(self) -> dict[str, list[float]]:
        """The terms of the last steps by name, nats per datum, a value for each step; the last is the last step's.

        Of at most 100 steps, those since the loop last looked at its loss itself. To read them waits for the device. Of
        several processes they are the first one's, of its part of the batch.
        """
        rows = self._trainer.window
        columns = torch.stack(rows).double().cpu().T.tolist() if rows else []
        return dict(zip(self._trainer.raw_step.names, columns, strict=False))

    @property
    def record(self) -> dict[str, Any]:
        """What ``metrics.jsonl`` holds of the last epoch that is done; empty before that."""
        return dict(self._trainer.records[-1]) if self._trainer.records else {}

    @property
    def records(self) -> list[dict[str, Any]]:
        """The same of all epochs."""
        return [dict(record) for record in self._trainer.records]

    @property
    def run(self) -> Path | None:
        """The run directory, if there is one."""
        return self._trainer.run

    @property
    def seed(self) -> int:
        """The seed that ``fit`` was given."""
        return self._trainer.seed

    def stop(self, reason: str) -> None:
        """End training after this step; the reason is told as ``stopped``. The first of several counts.

        Several processes end with the next look at the loss, at most 100 steps later; an iterable of batches, which
        cannot be gone on with in its middle, with its epoch.
        """
        if not isinstance(reason, str) or not reason:
            raise InputError(f"stop needs a reason in words, got {reason!r}")
        self._trainer.callbacks.reason = self._trainer.callbacks.reason or reason


class Callback:
    """What ``fit(callbacks=[...])`` calls; every method is empty here. An object with some of them need not inherit.

    Each method gets a :class:`TrainingView`. Random numbers that it draws from torch, and modes (``train()``,
    ``eval()``) that it changes, are put back, so that to look changes no number; what it writes into weights stays. An
    error that it raises ends training when the state has been saved. Of several processes the first alone calls. One
    with ``state_dict()``, of plain values (None, bool, int, float, str, and lists, tuples and dicts of them), and
    ``load_state_dict(state)`` is saved in checkpoints and taken up by a resume.

    Example:
        >>> import torch, pyro_vae
        >>> class Target(pyro_vae.training.Callback):
        ...     def on_epoch(self, state):
        ...         if state.record["train/loss"] < 100:
        ...             state.stop("good enough")
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = torch.ones(20, 1, 8, 8)
        >>> pyro_vae.fit(model, guide, x, epochs=9, callbacks=[Target()], device="cpu", progress=False).stopped
        'good enough'
    """

    def on_fit_start(self, state: TrainingView) -> None:
        """Before the first step, of a resumed training too; never of one that had ended."""

    def on_step(self, state: TrainingView) -> None:
        """After a step."""

    def on_epoch(self, state: TrainingView) -> None:
        """After an epoch and its validation, when its record is written."""

    def on_checkpoint(self, state: TrainingView) -> None:
        """After a checkpoint was written, also at the end and when training is interrupted."""

    def on_fit_end(self, state: TrainingView) -> None:
        """When training has come to its end, the weights to use are in place and all is saved; not if interrupted."""


class Callbacks:
    """Those of a training: whom to call, and what they ask for.

    Args:
        callbacks: as ``fit`` was given them.

    Attributes:
        reason: why training is to be stopped, empty if it is not.
        error: the first that one of them raised; after it none is called.

    Raises:
        InputError: for what is no callback.
    """

    def __init__(self, callbacks: Sequence[Any] | None = None) -> None:
        if callbacks is not None and not isinstance(callbacks, list | tuple):
            raise InputError(f"callbacks must be a list of objects, got {type(callbacks).__name__}: [callback]")
        self.all = list(callbacks or [])
        for callback in self.all:
            _check(callback)
        self.reason, self.error = "", None
        self._hooks = {name: [h for c in self.all if (h := _hook(c, name)) is not None] for name in HOOKS}
        self._validating = pyro.distributions.util.is_validation_enabled()  # as it is outside of training
        self._modules: list[nn.Module] | None = None
        self._untrained: dict[str, nn.Parameter] | None = None  # those that were frozen when training began

    def call(self, name: str, trainer: Trainer) -> None:
        """Call one method of all of them; what they raise is kept as :attr:`error`, for when the state is saved."""
        if not self._hooks[name] or self.error is not None or trainer.fabric.global_rank > 0:
            return
        if self._modules is None or name != "on_step":
            self._modules = [m for program in (trainer.model, trainer.guide) for m in program.modules()]
        view = TrainingView(trainer)
        for hook in self._hooks[name]:
            try:
                with undisturbed(self._modules, trainer.fabric.device, self._validating), torch.enable_grad():
                    hook(view)
            except Exception as error:
                self.error = self.error or error
        if self._untrained is None:
            trained = {id(parameter) for parameter in trainer.update.gradient.trained}
            named = trainer.raw_step.named_parameters()
            self._untrained = {name: each for name, each in named if id(each) not in trained}
        thawed = next((name for name, each in self._untrained.items() if each.requires_grad), None)
        if thawed is not None and self.error is None:
            self.error = InputError(
                f"a callback has unfrozen '{thawed}', which the optimizer does not have: begin with it trained, and "
                "freeze it in on_fit_start"
            )

    def state(self) -> list[dict[str, Any]]:
        """What a checkpoint holds of them.

        Raises:
            InputError: names the callback whose state is not of plain values.
        """
        return [
            {"name": _name(each), "state": _plain(each.state_dict(), _name(each)) if _has_state(each) else None}
            for each in self.all
        ]

    def restore(self, saved: Any, source: str) -> None:
        """Take up what a checkpoint holds; the log says whose state is without a callback, and which begins anew.

        Args:
            saved: from :meth:`state`.
            source: what the checkpoint is called.

        Raises:
            CorruptFileError: if it is not that.
            InputError: if a callback refuses its state.
        """
        if not isinstance(saved, list) or not all(isinstance(s, dict) and {"name", "state"} <= s.keys() for s in saved):
            raise CorruptFileError(f"{source}: callbacks are not as training saves them")
        waiting = [each for each in saved if each["state"] is not None]
        for callback in filter(_has_state, self.all):
            found = next((each for each in waiting if each["name"] == _name(callback)), None)
            if found is None:
                logger.warning("%s has no state of callback %s, which begins anew", source, _name(callback))
                continue
            waiting.remove(found)
            try:
                callback.load_state_dict(found["state"])
            except Exception as error:
                message = f"{source}: callback {_name(callback)} does not take up its state: {why_not(error)}"
                raise InputError(message) from error
        for each in waiting:
            logger.warning("%s holds the state of callback %s, which is not there now", source, each["name"])


@contextmanager
def undisturbed(modules: Sequence[nn.Module], device: torch.device, validating: bool = True) -> Iterator[None]:
    """A block after which random states and the modules' modes are what they were before.

    Args:
        modules: all of them, one by one.
        device: whose random state is kept beside the CPU's.
        validating: whether Pyro validates inside.
    """
    modes = [module.training for module in modules]
    with same_random_state(device), pyro.validation_enabled(validating):
        try:
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                if module.training != mode:  # to set it takes a module longer
                    module.training = mode


def _name(callback: Any) -> str:
    return type(callback).__qualname__


def _hook(callback: Any, name: str) -> Any:
    """A method of a callback; None if it has none, or the empty one."""
    found = getattr(callback, name, None)
    empty = getattr(found, "__func__", found) is getattr(Callback, name)
    return found if callable(found) and not empty else None


def _has_state(callback: Any) -> bool:
    return callable(getattr(callback, "state_dict", None))


def _check(callback: Any) -> None:
    if inspect.isclass(callback):
        raise InputError(f"callbacks: {callback.__name__} is a class: give an object of it, {callback.__name__}()")
    if not isinstance(callback, Callback) and not any(callable(getattr(callback, name, None)) for name in HOOKS):
        raise InputError(f"callbacks: {_name(callback)} has none of the methods {', '.join(HOOKS)}")
    if isinstance(callback, Callback):
        for name in dir(callback):
            if name.startswith("on_") and name not in HOOKS and callable(getattr(callback, name)):
                raise unknown(f"method of callback {_name(callback)},", name, HOOKS)
    if _has_state(callback) and not callable(getattr(callback, "load_state_dict", None)):
        raise InputError(f"callbacks: {_name(callback)} has state_dict and no load_state_dict, which a resume needs")


def _plain(state: Any, name: str) -> Any:
    """A copy of a state of plain values, which is read again without running code."""
    count = 0

    def copy(value: Any, at: str, depth: int) -> Any:
        nonlocal count
        count += 1
        if depth > DEEPEST or count > MOST:
            raise InputError(f"{at} is nested deeper than {DEEPEST} levels, or has over {MOST:,} entries")
        if type(value) in PLAIN:
            return value
        if type(value) in (list, tuple):
            return type(value)(copy(each, f"{at}[{i}]", depth + 1) for i, each in enumerate(value))
        if type(value) is dict and all(type(key) in (str, int) for key in value):
            return {key: copy(each, f"{at}[{key!r}]", depth + 1) for key, each in value.items()}
        kind = "dict with keys other than str and int" if type(value) is dict else type(value).__name__
        raise InputError(
            f"{at} is a {kind}; the state of a callback is of plain values: None, bool, int, float, str, and lists, "
            "tuples and dicts of them (a tensor: .tolist())"
        )

    return copy(state, f"callback {name}: state_dict()", 0)
