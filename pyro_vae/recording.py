"""A function of a module's tensors and a batch, recorded once as a graph of tensor operations."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.errors import unknown
from pyro_vae.recording_guards import python_state, reason, relative_error

Outputs = tuple[Tensor, ...]
Mode = Literal["off", "graph", "full"]  # how a function is run: as it is, as a recorded graph, as a compiled one
Compile = Literal["auto", "off", "graph", "full"]

logger = logging.getLogger(__name__)


def choose_mode(compile: str, calls: int, *, graph_from: int, full_from: int) -> Mode:
    """What ``auto`` means for so many calls.

    Recording costs some tenths of a second, the compiler 10 to 30 seconds more. The choice depends on nothing that is
    measured, so that a resumed run makes the same one.

    Raises:
        InputError: for an unknown mode.
    """
    if compile not in get_args(Compile):
        raise unknown("compile", compile, get_args(Compile))
    if compile != "auto":
        return cast(Mode, compile)
    return "full" if calls >= full_from else "graph" if calls >= graph_from else "off"


class NotRecordable(Exception):
    """Why a function cannot be recorded: what, where and after which site, for a log line."""


class Recording:
    """``function(**batch)``, and with it the gradient of its first output, as a graph.

    The graph shares the module's parameters and buffers: it reads their present values at every call and updates
    buffers in place (batch-norm statistics, codebooks). Random numbers are drawn anew from torch's generators, in the
    function's own order. Python is run once: numbers and branches are those of the recording. A branch on a tensor's
    value is refused, and so is a Python number that the function changes.

    Args:
        module: owner of all parameters and buffers that the function uses.
        function: from a batch to tensors.
        batch: an example; other shapes need another recording.
        differentiate: record the gradient of the first output, a scalar, with respect to the trainable parameters.

    Raises:
        NotRecordable: if it cannot be recorded.
    """

    def __init__(
        self, module: nn.Module, function: Callable[..., Outputs], batch: Mapping[str, Tensor], differentiate: bool
    ) -> None:
        self.module, self.function, self.differentiate = module, function, differentiate
        self.keys = list(batch)
        self.parameters = list(module.parameters())
        self.buffers = list(module.buffers())
        self.trained = [p for p in self.parameters if p.requires_grad] if differentiate else []
        hooked = [n for n, p in module.named_parameters() if p._backward_hooks or p._post_accumulate_grad_hooks]
        if differentiate and hooked:
            raise NotRecordable(f"parameter '{hooked[0]}' has a gradient hook, which a graph would not call")
        self._has_gradient: list[bool] = []
        watch = _LastSite()
        try:
            with watch:
                traced = make_fx(self._flat, tracing_mode="fake", _allow_non_fake_inputs=True)
                self.graph = traced(*self._inputs(batch))
        except Exception as error:
            raise NotRecordable(reason(error, watch.name)) from error
        self._run: Callable[..., Any] = self.graph

    def __call__(self, batch: Mapping[str, Tensor]) -> tuple[Outputs, list[Tensor | None]]:
        """The outputs for a batch of the recorded shape, detached, and the gradient of each trained parameter."""
        with torch.no_grad():
            results = self._run(*self._inputs(batch))
        count = len(results) - sum(self._has_gradient)
        gradients = iter(results[count:])
        return tuple(results[:count]), [next(gradients) if has else None for has in self._has_gradient]

    def compile(self, batch: Mapping[str, Tensor], tolerance: float) -> str:
        """Hand the graph to torch's compiler, and check what it made like the graph itself.

        Random numbers stay those of the eager operations. A compiler that is missing, fails, or makes something else
        leaves the graph as it is, and one line in the log says so.

        Returns:
            a note on the time it took ("" if it failed).
        """
        started = time.monotonic()
        self._run = torch.compile(self.graph, dynamic=False, options={"fallback_random": True})
        try:
            self.check(batch, tolerance)
        except Exception as error:
            self._run = self.graph
            line = (str(error).strip().splitlines() or [""])[0]
            logger.warning("not compiled, the recorded graph is used: %s: %s", type(error).__name__, line)
            return ""
        return f", compiled in {time.monotonic() - started:.0f} s"

    def eager(self, batch: Mapping[str, Tensor]) -> tuple[Outputs, list[Tensor | None]]:
        """What a call gives, computed by the function itself."""
        if not self.differentiate:
            with torch.no_grad():
                return tuple(self.function(**batch)), []
        outputs = self.function(**batch)
        gradients = torch.autograd.grad(outputs[0], self.trained, allow_unused=True)
        return tuple(o.detach() for o in outputs), list(gradients)

    def check(self, batch: Mapping[str, Tensor], tolerance: float) -> None:
        """Compare with the function itself on a batch, from the same random state and buffers, which are put back.

        Args:
            batch: of the recorded shape.
            tolerance: relative error allowed.

        Raises:
            NotRecordable: if a result differs, or the function changes Python state that a graph cannot.
        """
        kept = [b.clone() for b in self.buffers]
        python = python_state(self.module)
        results = []
        for run in (self.eager, self):
            with _same_random_state(batch):
                outputs, gradients = run(batch)
            results.append([*outputs, *gradients, *(b.clone() for b in self.buffers)])
            with torch.no_grad():
                for buffer, value in zip(self.buffers, kept, strict=True):
                    buffer.copy_(value)
            if run == self.eager:
                changed = [k for k, v in python_state(self.module).items() if python.get(k, v) != v]
                if changed:
                    raise NotRecordable(f"it changes {changed[0]} at every call, which a graph would not")
        owners = {id(t): n for n, t in (*self.module.named_parameters(), *self.module.named_buffers())}
        count = len(results[0]) - len(self._has_gradient) - len(self.buffers)
        names = ["the loss" if i == 0 and self.differentiate else f"output {i}" for i in range(count)]
        names += [f"the gradient of '{owners[id(p)]}'" for p in self.trained]
        names += [f"buffer '{owners[id(b)]}'" for b in self.buffers]
        for name, ours, theirs in zip(names, *results, strict=True):
            error = relative_error(ours, theirs)
            if not error <= tolerance:
                raise NotRecordable(f"{name} of its graph differs from the eager one, relatively by {error:.2g}")

    def _inputs(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        return [*self.parameters, *self.buffers, *(batch[k] for k in self.keys)]

    def _flat(self, *inputs: Tensor) -> list[Tensor]:
        """The function with every tensor that it uses as an argument; the gradient after the outputs."""
        n = len(self.parameters)
        leaves = [
            t.detach().requires_grad_(self.differentiate and p.requires_grad)
            for t, p in zip(inputs[:n], self.parameters, strict=True)
        ]
        buffers = inputs[n : n + len(self.buffers)]
        replaced = {id(t): r for t, r in zip((*self.parameters, *self.buffers), (*leaves, *buffers), strict=True)}
        batch = dict(zip(self.keys, inputs[n + len(self.buffers) :], strict=True))
        grad = torch.set_grad_enabled(self.differentiate)
        with grad, pyro.validation_enabled(False), _replaced(self.module, replaced):  # validation looks at values
            outputs = tuple(self.function(**batch))
        results = [o.detach() for o in outputs]
        self._has_gradient = []
        if self.differentiate:
            wanted = [t for t in leaves if t.requires_grad]
            gradients = torch.autograd.grad(outputs[0], wanted, allow_unused=True)
            self._has_gradient = [g is not None for g in gradients]
            results += [g for g in gradients if g is not None]
        return results


class _LastSite(Messenger):
    name: str | None = None

    def _pyro_sample(self, msg: Message) -> None:
        self.name = msg["name"]


@contextmanager
def _replaced(module: nn.Module, tensors: Mapping[int, Tensor]) -> Iterator[None]:
    """Other tensors in place of a module's own; a buffer that is bound anew inside is written into its old place."""
    own = [
        (store, name, value)
        for m in module.modules()
        for store in (m._parameters, m._buffers)
        for name, value in store.items()
        if value is not None
    ]
    recurrent = [(m, m._flat_weights) for m in module.modules() if isinstance(m, nn.RNNBase)]
    try:
        for store, name, value in own:
            store[name] = tensors[id(value)]  # type: ignore[assignment]
        for m, _ in recurrent:
            m._flat_weights = [m._parameters[n] for n in m._flat_weights_names]
        yield
        with torch.no_grad():
            for store, name, value in own:
                if store[name] is not tensors[id(value)]:
                    tensors[id(value)].copy_(store[name])  # type: ignore[arg-type]
    finally:
        for store, name, value in own:
            store[name] = value
        for m, weights in recurrent:
            m._flat_weights = weights


@contextmanager
def _same_random_state(batch: Mapping[str, Tensor]) -> Iterator[None]:
    devices = sorted({v.device.index for v in batch.values() if v.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        yield
