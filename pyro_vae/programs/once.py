"""A model that its guide runs: what it says there is told again, in place of a second run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _DIM_ALLOCATOR, Message, apply_stack, effectful
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_vae.programs.context import unwrapped


class ModelRun(Messenger):
    """Keeps the statements of a model that is run inside a guide, as they leave the model, and what is answered.

    It goes inside of whatever the guide does with them: p is kept, not what the guide draws from in its place.

    Args:
        program: the model.
        arguments: what it is called with.
        latents: names of the latent sites that the guide gives values to.
        model: what the model runs with: what the run depends on beside these, :func:`_circumstances`, and its tensors.
    """

    def __init__(
        self, program: Callable[..., Any], arguments: Mapping[str, Any], latents: Collection[str], model: nn.Module
    ) -> None:
        super().__init__()
        self.program, self.arguments, self.latents = unwrapped(program), arguments, set(latents)
        self.around, self._tensors = _circumstances(model), _tensors(model, arguments)
        self._versions: list[int] = []
        self.whole = True  # whether all that it has said so far can be told again
        self.ended = self._aside = False
        self.result: Any = None
        self._said: list[tuple[Message, Any]] = []
        self._asked: dict[int, Message] = {}

    def end(self, result: Any) -> None:
        """The model has come to its end, and returns this."""
        self.ended, self.result, self._versions = True, result, _versions(self._tensors)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A block inside of the run whose statements are not the model's."""
        self._aside = True
        try:
            yield
        finally:
            self._aside = False

    def is_of(self, program: Callable[..., Any], arguments: Mapping[str, Any], around: list[Any]) -> bool:
        """Whether a call of a program would be this run: the same program, tensors, weights, modes and plates."""
        return (
            self.ended
            and self.whole
            and self.program is unwrapped(program)
            and self.arguments.keys() == arguments.keys()
            and all(value is arguments[name] for name, value in self.arguments.items())
            and len(around) == len(self.around)
            and all(a is b for a, b in zip(around, self.around, strict=True))
            and self._versions == _versions(self._tensors)  # nothing has been written to since
        )

    def again(self) -> Any:
        """Tell the statements to the handlers that are around now; returns what the model returned.

        Raises:
            Differs: as soon as one is answered otherwise than it was.
        """
        for message, answer in self._said:
            told: Message = {**message, "infer": dict(message["infer"] or {})}  # pyright: ignore[reportAssignmentType]
            if told["type"] == "param" and getattr(told["fn"], "__func__", None) is not ParamStoreDict.get_param:
                told["fn"] = lambda *_, answer=answer, **__: answer  # a PyroModule's own, whose fn is for one call only
            apply_stack(told)
            if not site_is_subsample(told) and not _same(told["value"], answer):
                raise Differs
        return self.result

    def _process_message(self, msg: Message) -> None:
        if self._aside:
            return
        self._asked[id(msg)] = {**msg, "infer": dict(msg["infer"] or {})}
        if msg["type"] == "param":
            return
        known = msg["type"] == "sample"  # others ask what is around the model (pyro.subsample, poutine.get_mask)
        if known and site_is_subsample(msg):
            known = msg["fn"].subsample_size in (None, msg["fn"].size) and msg["value"] is None
        elif known:
            known = msg["is_observed"] or msg["name"] in self.latents  # what the model draws is the model's alone
        self.whole = self.whole and known

    def _postprocess_message(self, msg: Message) -> None:
        if self._aside:
            return
        self._said.append((self._asked.pop(id(msg)), msg["value"]))


class Differs(BaseException):
    """A statement was answered otherwise; not an Exception, which a program might catch."""


class OneRun(Messenger):
    """A handler around guide and model, under which what the guide has run of the model stands for the model's run.

    It does where the model's program is called with the same tensors, in the same modes, plates and weights; its
    statements are then told to the handlers that are around the model (:meth:`ModelRun.again`).

    Args:
        model: what the model runs with: its weights and modes are compared.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.runs, self._telling = model, list[ModelRun](), False

    @contextmanager
    def telling(self) -> Iterator[None]:
        """The block in which the model is run; before it, the guide is."""
        self._telling = True
        with self:
            yield

    def _pyro_begun_run(self, msg: Message) -> None:
        if not self._telling:
            self.runs.append(ModelRun(*msg["args"], self.model))
            msg["value"], msg["done"] = self.runs[-1], True

    def _pyro_known_run(self, msg: Message) -> None:
        if self._telling and self.runs:
            around = _circumstances(self.model)
            msg["value"] = next((run for run in self.runs if run.is_of(*msg["args"], around)), None)
            msg["done"] = True


@effectful(type="begun_run")
def begun_run(program: Callable[..., Any], arguments: Mapping[str, Any], latents: Collection[str]) -> ModelRun | None:
    """What a guide runs a model under, if somebody has use for the whole of the run; else None.

    Args:
        program: the model.
        arguments: what it is called with.
        latents: names of the latent sites that the guide gives values to.
    """
    return None


@effectful(type="known_run")
def _known_run(program: Callable[..., Any], arguments: Mapping[str, Any]) -> ModelRun | None:
    return None


def told_or_run(program: Callable[..., Any], call: Callable[..., Any], /, **arguments: Any) -> Any:
    """Run a program, unless a guide has run it already with these arguments: then what it said is told again.

    Args:
        program: module or function.
        call: how it is called.
        arguments: what with.
    """
    run = _known_run(program, arguments)
    return call(**arguments) if run is None else run.again()


def _circumstances(model: nn.Module) -> list[Any]:
    """What a run depends on beside its arguments, to be compared by identity: gradients, precision, plates, weights."""
    precision = (torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    found: list[Any] = [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *precision, *_DIM_ALLOCATOR._stack]
    for module in model.modules():
        found += [module.training, *module._parameters.values()]
    return found


def _tensors(model: nn.Module, arguments: Mapping[str, Any]) -> list[Tensor]:
    """What a run reads that may be written to in place."""
    given = (value for value in arguments.values() if isinstance(value, Tensor))
    return [tensor for tensor in (*model.parameters(), *model.buffers(), *given) if not tensor.is_inference()]


def _versions(tensors: list[Tensor]) -> list[int]:
    """How often each has been written to."""
    return [tensor._version for tensor in tensors]


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two answers are one: the same object, or made of the same parameter of the store."""
    if ours is theirs:
        return True
    roots = [getattr(value, "unconstrained", None) for value in (ours, theirs)]
    return all(map(callable, roots)) and roots[0]() is roots[1]()
