"""Schedulers of the learning rate with torch's interface: by name, by class, or as the user's function makes them."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae.errors import InputError, unknown, why_not
from pyro_vae.training.saved_state import is_torchs, like, plain

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    SchedulerLike = str | Callable[[Optimizer], Any]
else:  # all that a configuration can say, which is derived from signatures
    SchedulerLike = str

Interval = Literal["epoch", "step"]
OF_FUNCTIONS = ("LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler")  # or of other schedulers


@functools.cache
def schedulers() -> dict[str, type[LRScheduler]]:
    """Torch's schedulers that can be named, ``"CosineAnnealingLR"``: those that numbers and texts alone describe."""
    found = {name: getattr(lr_scheduler, name) for name in sorted(lr_scheduler.__all__)}
    return {
        name: cls
        for name, cls in found.items()
        if cls is not LRScheduler and issubclass(cls, LRScheduler) and name not in OF_FUNCTIONS
    }


def find_scheduler(name: str) -> type[LRScheduler]:
    """A scheduler's class by its name in ``torch.optim.lr_scheduler``, or its path.

    Raises:
        InputError: if there is none of this name, or it cannot be described by numbers and texts.
    """
    short = name.removeprefix("torch.optim.lr_scheduler.")
    if short in OF_FUNCTIONS:
        raise InputError(
            f"lr_scheduler {short} is made of functions or of other schedulers, which no text describes: give fit a "
            "function optimizer -> scheduler"
        )
    if short not in schedulers():
        raise unknown("lr_scheduler", name, schedulers())
    return schedulers()[short]


class Scheduler:
    """A scheduler of an optimizer's learning rates, and when it is moved on.

    Args:
        made_by: a name, a class or a function ``optimizer -> scheduler``.
        options: further arguments of a class.
        interval: after every epoch, or after every update of the weights ("step").
        optimizer: whose groups it sets.
        validated: whether there is a validation loss for those that look at one.

    Raises:
        InputError: for what is no scheduler, or options that it refuses.
    """

    def __init__(
        self, made_by: Any, options: Mapping[str, Any], interval: Interval, optimizer: Optimizer, validated: bool
    ) -> None:
        if interval not in ("epoch", "step"):
            raise unknown("lr_scheduler_interval", interval, ("epoch", "step"))
        cls = find_scheduler(made_by) if isinstance(made_by, str) else made_by
        if isinstance(cls, LRScheduler) or not callable(cls):
            raise InputError(
                "lr_scheduler must be a name (CosineAnnealingLR, ReduceLROnPlateau, …), a class of "
                "torch.optim.lr_scheduler or a function optimizer -> scheduler, got an object of type "
                f"{type(cls).__name__}"
            )
        self.name = getattr(cls, "__name__", type(cls).__name__)
        try:
            self.scheduler = cls(optimizer, **options)
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError) as error:
            raise InputError(f"lr_scheduler {self.name} refuses its options {dict(options)}: {error}") from error
        step = getattr(self.scheduler, "step", None)
        if not callable(step) or not hasattr(self.scheduler, "state_dict"):
            raise InputError(
                f"lr_scheduler {self.name} gave {type(self.scheduler).__name__}, where a scheduler with step "
                "and state_dict is right"
            )
        if getattr(self.scheduler, "optimizer", optimizer) is not optimizer:
            raise InputError(
                f"lr_scheduler {self.name} gave a scheduler of another optimizer, and no rate of this one would move: "
                "make it of the optimizer that it is given"
            )
        needed = [p for p in inspect.signature(step).parameters.values() if p.default is p.empty]
        self.needs_loss = any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in needed)
        self.interval = interval
        begun = self.state()  # could it be saved?
        self._words = dict(options) if isinstance(made_by, str) else begun
        if self.needs_loss and interval == "step":
            raise InputError(
                f"lr_scheduler {self.name} looks at the loss of an epoch: leave lr_scheduler_interval at 'epoch'"
            )
        if self.needs_loss and not validated:
            logger.warning("%s looks at the training loss: there are no validation data", self.name)

    def after_update(self) -> None:
        """Move on, if it does so after every update."""
        if self.interval == "step":
            self._move()

    def after_epoch(self, loss: float) -> None:
        """Move on, if it does so after every epoch, by the epoch's loss where it looks at one (nats per datum)."""
        if self.interval == "epoch":
            self._move(*([loss] if self.needs_loss else []))

    def _move(self, *loss: float) -> None:
        try:
            self.scheduler.step(*loss)
        except ValueError as error:  # OneCycleLR, past its total_steps
            raise InputError(f"lr_scheduler {self.name}: {why_not(error)}") from error

    def described(self) -> dict[str, Any]:
        """Its class, with its options or what it began with."""

        def words(value: Any) -> Any:
            return float(value) if isinstance(value, Tensor) and not value.dim() else value

        began = {k: [*map(words, v)] if isinstance(v, list) else words(v) for k, v in self._words.items()}
        return {"class": type(self.scheduler).__qualname__, "with": began}

    def state(self) -> dict[str, Any]:
        """What it goes on with, in plain values."""
        return plain(self.scheduler.state_dict(), f"lr_scheduler {self.name}: state")

    def restore(self, saved: Any) -> None:
        """Take over a saved state.

        Raises:
            TypeError, RuntimeError: if it is not one of such a scheduler.
        """
        own = self.scheduler.state_dict()
        if is_torchs(self.scheduler):
            self.scheduler.load_state_dict(like(own, saved, self.name))
            return
        added = [name for name in saved if name not in own and hasattr(self.scheduler, name)]
        if added or "optimizer" in saved:
            raise TypeError(f"{self.name} keeps no {[*added, 'optimizer'][0]}")
        self.scheduler.load_state_dict({name: plain(value, self.name) for name, value in saved.items()})
