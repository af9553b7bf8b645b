"""Optimizers: by name, by class or as the user made them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae.errors import InputError, unknown
from pyro_vae.recording import Mode
from pyro_vae.training.muon import Muon
from pyro_vae.training.param_groups import Group, check_options, grouped, names_of, some_of, with_matrices_apart
from pyro_vae.training.saved_state import is_torchs, state_after_a_step
from pyro_vae.training.schedules import Constant, Schedule, as_schedule

if TYPE_CHECKING:
    OptimizerLike = str | Callable[[Iterable[Any]], Optimizer] | Optimizer
else:  # all that a configuration can say, which is derived from signatures
    OptimizerLike = str

SHORT: dict[str, type[Optimizer]] = {
    **{"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax, "sgd": torch.optim.SGD},
    "muon": Muon,
}
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
REFUSED = {
    torch.optim.LBFGS: "evaluates the loss several times a step, and training draws other numbers each time",
    torch.optim.SparseAdam: "takes sparse gradients, and those of the programs are dense",
}
DEFAULT_RATE = 1e-3


@functools.cache
def optimizers() -> dict[str, type[Optimizer]]:
    """Torch's optimizers that can be named, ``"RAdam"``, but for those that cannot train a pair of programs."""
    found = {name: cls for name, cls in vars(torch.optim).items() if inspect.isclass(cls)}
    own = {name: cls for name, cls in sorted(found.items()) if issubclass(cls, Optimizer) and is_torchs(cls)}
    return {name: cls for name, cls in own.items() if cls not in {Optimizer, *REFUSED}}


def find_optimizer(name: str) -> type[Optimizer]:
    """An optimizer's class by its short name, its name in ``torch.optim``, or its path.

    Raises:
        InputError: if there is none of this name, or it cannot train a pair of programs.
    """
    known = {**SHORT, **optimizers()}
    short = name.removeprefix("torch.optim.")
    refused = next((cls for cls in REFUSED if cls.__name__ == short), None)
    if refused is not None:
        raise InputError(f"optimizer {short} {REFUSED[refused]}: take another, such as Adam or RAdam")
    if short not in known or (short != name and short in SHORT):
        raise unknown("optimizer", name, known)
    return known[short]


@dataclass
class Wanted:
    """An optimizer that is to be made: of a class with options, or by a function of one's own.

    Attributes:
        cls: the class, or None.
        options: of the class.
        make: gives the optimizer of parameters or groups of them, or is one; of no class alone.
        rate: the schedule of the learning rate; None: the rates that the optimizer has.
        words: what it is called, in another process too.
        scheduled: whether a scheduler of torch's interface sets the rates.
    """

    cls: type[Optimizer] | None
    options: dict[str, Any]
    make: Any
    rate: Schedule | None
    words: str
    scheduled: bool


def wanted(
    optimizer: Any, options: Mapping[str, Any], rate: float | Schedule | None, scheduled: bool = False
) -> Wanted:
    """What an optimizer is to be made of, checked before anything is built.

    Args:
        optimizer: a name, a class, a ``functools.partial`` of one, a function, or an instance.
        options: further arguments of a class.
        rate: the learning rate; None: 1e-3, or the optimizer's own.
        scheduled: whether a scheduler of torch's interface sets the rates.

    Raises:
        InputError: for what is no optimizer, and for rates or options that are said twice.
    """
    if scheduled and isinstance(rate, Schedule) and not isinstance(rate, Constant):
        raise InputError(
            f"learning_rate is a schedule ({type(rate).__name__}) and lr_scheduler is given too, and both would set "
            "the rate: give learning_rate a number, or drop lr_scheduler"
        )
    keywords: dict[str, Any] = {}
    is_partial = isinstance(optimizer, functools.partial) and inspect.isclass(optimizer.func) and not optimizer.args
    if is_partial:
        optimizer, keywords = optimizer.func, dict(optimizer.keywords)
    if isinstance(optimizer, str):
        optimizer = find_optimizer(optimizer)
    if inspect.isclass(optimizer) and issubclass(optimizer, Optimizer):
        twice = [*(keywords.keys() & options.keys()), *(["lr"] if "lr" in keywords and rate is not None else [])]
        if twice:
            raise InputError(f"optimizer {optimizer.__name__}: {twice[0]} is said twice, in the partial and to fit")
        own = keywords.pop("lr", DEFAULT_RATE)
        short = next((name for name, cls in SHORT.items() if cls is optimizer), optimizer.__name__)
        words = short if optimizer in optimizers().values() else f"{optimizer.__module__}.{optimizer.__qualname__}"
        schedule = as_schedule(own if rate is None else rate)
        return Wanted(optimizer, {**options, **keywords}, None, schedule, words, scheduled)
    if not callable(optimizer) and not isinstance(optimizer, Optimizer):
        raise InputError(
            f"optimizer must be a name ({', '.join(SHORT)}, RAdam, …), a class of torch.optim, a function of "
            f"parameters that gives an optimizer, or an optimizer, got {type(optimizer).__name__}"
        )
    if options or rate is not None:
        which = "optimizer_options are" if options else "learning_rate is"
        raise InputError(
            f"{which} for an optimizer by name or class; one that a function makes, or that is made already, has its "
            "own: say them there, and change rates by lr_scheduler"
        )
    kind = type(optimizer).__name__ if isinstance(optimizer, Optimizer) else getattr(optimizer, "__qualname__", "")
    return Wanted(None, {}, optimizer, None, kind or type(optimizer).__name__, scheduled)


def trained(module: nn.Module) -> bool:
    """Whether a module has a parameter with a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


@dataclass
class Optimization:
    """An optimizer, and what the learning rate of each of its groups is.

    Attributes:
        optimizer: itself.
        schedule: of the learning rate; None: what the optimizer's groups say is left as it is.
        labels: of the groups, in metrics.
        own: rate of each group where the schedule is at its largest; None: the schedule's.
    """

    optimizer: Optimizer
    schedule: Schedule | None
    labels: list[str]
    own: list[float | None]

    def __post_init__(self) -> None:
        self._largest = 0.0 if self.schedule is None else self.schedule.largest()

    def following(self, schedule: Schedule | None, rate: float) -> Optimization:
        """The same optimizer of an objective's networks, its rate following a schedule as those of ``param_groups`` do.

        Args:
            schedule: the pair's; None, or one that is always 0: the rate is constant.
            rate: where the schedule is at its largest.
        """
        schedule = self.schedule if schedule is None or not schedule.largest() > 0 else schedule
        return Optimization(self.optimizer, schedule, ["learning_rate/networks"], [rate])

    def rates(self, epoch: float) -> list[float] | None:
        """The rate of each group at a time in epochs; None: nobody sets them."""
        if self.schedule is None:
            return None
        now = self.schedule(epoch)
        return [now if own is None else own * (now / self._largest) for own in self.own]

    def recorded(self, epoch: float) -> dict[str, float]:
        """The rates by their labels: those of a time, or those that the groups have now."""
        rates = self.rates(epoch) or [group.get("lr") for group in self.optimizer.param_groups]
        return {label: float(rate) for label, rate in zip(self.labels, rates, strict=True) if rate is not None}

    def described(self) -> dict[str, Any]:
        """Class and options of all groups, in words."""
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        plain = [{k: float(v) if isinstance(v, Tensor) else v for k, v in group.items()} for group in groups]
        return {"class": type(self.optimizer).__qualname__, "groups": plain}


def make_optimizer(
    of: Wanted,
    step: nn.Module,
    weights: Mapping[str, Tensor],
    patterns: Mapping[str, Mapping[str, Any]],
    device: torch.device,
    mode: Mode = "off",
) -> Optimization:
    """An optimizer over a step's parameters: fused where it can be, ready for capture on a GPU.

    Args:
        of: what it is to be made of.
        step: whose parameters that are not frozen are trained.
        weights: model's and guide's, by name.
        patterns: of parameters' names, with the options of these parameters.
        device: of the parameters.
        mode: how steps are run.

    Raises:
        InputError: for options that it refuses, patterns that match nothing, parameters that are not those trained, or
            nothing to train.
    """
    named = names_of(step, weights)
    if not named:
        raise InputError(
            "neither the model nor the guide has a parameter to train: plain functions must refer to their "
            "modules by name, or use pyro.param"
        )
    parts = grouped(named, patterns)
    if of.cls is Muon and "orthogonal" not in of.options:  # which would be said of all
        parts = with_matrices_apart(parts, step)
    own: list[float | None] = [None] * len(parts)
    if of.cls is not None:
        made, own = _of_class(of, of.cls, parts, device, mode)
    else:
        made = _of_function(of, parts, patterns)
    _check_parameters(made, named)
    if of.cls not in SHORT.values():
        state_after_a_step(made)  # can it take one?
    labels = [part.pattern or "" for part in parts]
    if len(made.param_groups) != len(labels):
        labels = [str(i) for i in range(len(made.param_groups))]
        own = [None for _ in labels]
    labels = ["learning_rate" + (f"/{label}" if i and label else "") for i, label in enumerate(labels)]
    return Optimization(made, None if of.scheduled else of.rate, labels, own)


def _of_class(
    of: Wanted,
    cls: type[Optimizer],
    parts: list[Group],
    device: torch.device,
    mode: Mode,
) -> tuple[Optimizer, list[float | None]]:
    """An optimizer of a class, and the rates that its groups have of their own."""
    if cls in REFUSED:
        raise InputError(f"optimizer {cls.__name__} {REFUSED[cls]}: take another, such as Adam or RAdam")
    assert of.rate is not None
    accepted = inspect.signature(cls).parameters
    if "lr" not in accepted and not any(each.kind is each.VAR_KEYWORD for each in accepted.values()):
        raise InputError(f"optimizer '{of.words}' takes no lr: give a function of parameters that makes one")
    first, largest = of.rate(0.0), of.rate.largest()
    extra: dict[str, Any] = {"fused": True} if cls in FUSED and "fused" not in of.options else {}
    captured = mode != "off" and device.type == "cuda" and (cls is torch.optim.SGD or "capturable" in accepted)
    if captured and "capturable" in accepted:
        extra["capturable"] = True
    extra |= _checked(of.words, accepted, of.options)
    known = _made(of, cls, [p for part in parts for p in part.members], first, extra).defaults
    groups, own = [], []
    for part in parts:
        pattern, members, said = part.pattern, part.members, dict(part.options)
        mine = said.pop("lr", None)
        check_options(pattern, said, known)
        if mine is not None and (isinstance(mine, bool) or not isinstance(mine, int | float) or not largest > 0):
            raise InputError(
                f"param_groups '{pattern}': lr is a number, its rate where learning_rate is at its largest; got "
                f"{mine!r} and a largest learning_rate of {largest}"
            )
        said = _checked(f"{of.words}', param_groups '{pattern}", accepted, said)
        rate = first if mine is None else float(mine) if of.rate(0.0) == largest else mine * (first / largest)
        if said or mine is not None:  # its options are looked at by its constructor alone
            _made(of, cls, members, rate, {**extra, **said})
        lr = torch.tensor(rate, device=device) if captured else rate  # a captured step reads it from its place
        groups.append({"params": members, "lr": lr, **said})
        own.append(None if mine is None else float(mine))
    lr = torch.tensor(first, device=device) if captured else first
    return _made(of, cls, groups, lr, extra), own


def _checked(words: str, accepted: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with tuples where the optimizer has them by default, and true or false where it has one of these."""
    made = dict(options)
    for name, value in options.items():
        default = accepted[name].default if name in accepted else None
        if (isinstance(default, bool) or name in ("foreach", "fused")) and not isinstance(value, bool | None):
            raise InputError(f"optimizer '{words}': {name} must be true or false, got {value!r}"[:300])
        if isinstance(default, tuple) and isinstance(value, list):
            made[name] = tuple(value)
    return made


def _made(of: Wanted, cls: type[Optimizer], parameters: list[Any], rate: Any, options: Mapping[str, Any]) -> Optimizer:
    try:
        return cls(parameters, lr=rate, **options)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        shown = {name: value for name, value in options.items() if name not in ("fused", "capturable")}
        raise InputError(
            f"optimizer '{of.words}' refuses its options {shown} at rate {float(rate)}: {error}"
        ) from error


def _of_function(
    of: Wanted,
    parts: list[Group],
    patterns: Mapping[str, Mapping[str, Any]],
) -> Optimizer:
    """The optimizer that a function gives, or that is there."""
    if isinstance(of.make, Optimizer):
        if patterns:
            raise InputError(f"param_groups: the {of.words} that is given has groups already; say their options there")
        made = of.make
    else:
        groups: list[Any] = [{"params": part.members, **part.options} for part in parts]
        made = of.make(groups if patterns else [p for part in parts for p in part.members])
    if not isinstance(made, Optimizer):
        raise InputError(f"optimizer: '{of.words}' gave {type(made).__name__}, where a torch.optim.Optimizer is right")
    refused = next((cls for cls in REFUSED if isinstance(made, cls)), None)
    if refused is not None:
        raise InputError(f"optimizer {refused.__name__} {REFUSED[refused]}: take another, such as Adam or RAdam")
    of_parameter = {id(p): group for group in made.param_groups for p in group["params"]}
    for part in parts if patterns else ():
        said = part.options
        check_options(part.pattern, {name: value for name, value in said.items() if name != "lr"}, made.defaults)
        if any(of_parameter.get(id(p), {}).get(name) != value for p in part.members for name, value in said.items()):
            raise InputError(
                f"param_groups '{part.pattern}': the optimizer that '{of.words}' gave has not these options: it is "
                "given a list of groups, [{'params': [...], 'lr': ...}, ...], which it must hand on"
            )
    return made


def _check_parameters(optimizer: Optimizer, named: Mapping[str, nn.Parameter]) -> None:
    """Check that an optimizer has exactly the parameters that are trained.

    Raises:
        InputError: names what it lacks, or the shape of what it has beyond.
    """
    has = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in named.items() if id(p) not in has]
    trained = {id(p) for p in named.values()}
    beyond = [tuple(p.shape) for key, p in has.items() if key not in trained]
    kind = type(optimizer).__name__
    if missing:
        raise InputError(
            f"optimizer: the {kind} that is given lacks {some_of(missing)}, which would not be "
            "trained: give a function of parameters (functools.partial), or freeze them by requires_grad_(False)"
        )
    if beyond:
        raise InputError(
            f"optimizer: the {kind} that is given has {len(beyond)} parameters that are frozen, or neither the model's "
            f"nor the guide's (the first of shape {beyond[0]}): give it exactly those that are trained"
        )
