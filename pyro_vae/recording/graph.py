"""A function of a module's tensors and a batch, recorded once as a graph of tensor operations, and checked."""

from __future__ import annotations

import copy
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import pyro
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from pyro_vae.errors import first_line, unknown
from pyro_vae.programs.handlers import LastSite, Unvalidated
from pyro_vae.recording.state import Snapshot
from pyro_vae.recording.tensors import (
    as_accumulated,
    copied,
    expanded_along,
    forget,
    laid_out,
    with_tensors,
)
from pyro_vae.runtime import same_random_state

logger = logging.getLogger(__name__)

Mode = Literal["off", "graph", "full"]  # how a function is run: as it is, as a recorded graph, as a compiled one
Compile = Literal["auto", "off", "graph", "full"]


def choose_mode(compile: str, calls: int, *, graph_from: int, full_from: int) -> Mode:
    """What ``auto`` means for so many calls.

    Recording costs some tenths of a second, the compiler 10 to 30 seconds more. The choice depends on nothing that is
    measured, so that a resumed run makes the same one.

    Raises:
        InputError: for an unknown mode.

    Example:
        >>> from pyro_vae.recording import choose_mode
        >>> choose_mode("auto", calls=500, graph_from=100, full_from=10_000)
        'graph'
    """
    if compile not in get_args(Compile):
        raise unknown("compile", compile, get_args(Compile))
    if compile != "auto":
        return cast(Mode, compile)
    return "full" if calls >= full_from else "graph" if calls >= graph_from else "off"


_LIBRARIES = (*(str(Path(m.__file__).parent) for m in (torch, pyro, np)), str(Path(__file__).parent))


def relative_error(ours: Tensor | None, theirs: Tensor | None, floor: float = 0.0) -> float:
    """|ours - theirs| / max(|theirs|, floor) in the Euclidean norm; NaN equals NaN."""
    if ours is None or theirs is None:
        return 0.0 if ours is theirs else float("inf")
    if ours.shape != theirs.shape or not torch.equal(ours.isnan(), theirs.isnan()):
        return float("inf")
    a, b = ours.double().nan_to_num(), theirs.double().nan_to_num()
    difference = (a - b).norm().item()
    return difference / max(b.norm().item(), floor, 1e-30) if difference else 0.0


def reason(error: Exception, site: str | None) -> str:
    """One line: what stood in the way, in which line of whose file, at or after which site."""
    if isinstance(error, (DataDependentOutputException, GuardOnDataDependentSymNode)):
        what = "it looks at a tensor's value"
    elif isinstance(error, DynamicOutputShapeException):
        what = "a shape depends on a tensor's values"
    elif isinstance(error, TypeError) and "FakeTensor" in str(error):
        what = "it takes a tensor's value for a number of Python's"
    else:
        what = f"{type(error).__name__}: {first_line(error)}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_LIBRARIES)]
    where = f" in `{frames[-1].line}` ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return what + where + (f", at or after site '{site}'" if site else "")


_aten = torch.ops.aten
VIEWS = {  # which have their first argument's memory
    *(_aten.alias, _aten.detach, _aten.view, _aten.expand, _aten.permute, _aten.t, _aten.transpose),
    *(_aten.unsqueeze, _aten.squeeze, _aten.slice, _aten.select),
}


def simplify(module: fx.GraphModule) -> None:
    """Take out views that are what they are views of, and operations whose results nobody uses.

    A program's handlers, plates and gradients leave many of them: a third of a small network's graph. What draws random
    numbers or writes into a tensor stays, used or not.

    Args:
        module: as ``make_fx`` leaves it, with an example of every node's value in its ``meta``.
    """
    for node in module.graph.nodes:
        source = _same_memory(node)
        if source is not None:  # results stay views, so that none is an input itself
            node.replace_all_uses_with(source, delete_user_cb=lambda user: user.op != "output")
    module.graph.eliminate_dead_code()  # which keeps what draws or writes
    module.recompile()


def for_compiler(module: fx.GraphModule) -> fx.GraphModule:
    """A recorded graph as the compiler is given it: gradients of log-sigmoids are made of the argument alone.

    The gradient of log s(x) is s(-x). torch's operation for it shares exp(-|x|) with the forward one, which the
    compiler would then write down for every number and read again: more than a second exp costs.
    """
    graph, aten = copy.deepcopy(module.graph), torch.ops.aten
    for node in list(graph.nodes):
        if node.target is aten.log_sigmoid_backward.default:
            gradient, x, _ = node.args
            with graph.inserting_before(node):
                falling = graph.call_function(aten.sigmoid.default, (graph.call_function(aten.neg.default, (x,)),))
                node.replace_all_uses_with(graph.call_function(aten.mul.Tensor, (gradient, falling)))
            graph.erase_node(node)
    return fx.GraphModule(module, graph)


def _same_memory(node: fx.Node) -> fx.Node | None:
    """The first of those that a node is a view of, or a view of a view of, which has its very geometry."""
    geometry, found = _geometry(node), None
    while _is_view(node):
        node = node.args[0]  # type: ignore[assignment]
        if _geometry(node) == geometry:
            found = node
    return found


def _is_view(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "overloadpacket", None) in VIEWS


def _geometry(node: fx.Node) -> tuple | None:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return None
    return value.shape, value.stride(), value.storage_offset(), value.dtype, value.device


Outputs = tuple[Tensor, ...]
KINKS = 2e-2  # relative error of a compiled gradient: where a unit's input rounds to the other side of a ReLU's kink,
# one datum's part of the gradient differs wholly; a miscompiled gradient is off by far more


class NotRecordable(Exception):
    """Why a function cannot be recorded: what, where and after which site, for a log line."""


class Recording:
    """``function(**batch)``, and with it the gradient of its first output, as a graph.

    The graph shares the module's parameters and buffers: it reads their present values at every call and updates
    buffers in place (batch-norm statistics, codebooks). Random numbers are drawn anew from torch's generators, in the
    function's own order. Python is run once: numbers and branches are those of the recording. A branch on a tensor's
    value is refused, and so is a function that changes anything but buffers: a counter, a list, a weight, a generator
    of Python's (:class:`~pyro_vae.recording.state.Snapshot`).

    Args:
        module: owner of all parameters and buffers that the function uses.
        function: from a batch to tensors.
        batch: an example; other shapes need another recording. Other memory layouts do not: a batch is brought to
            that of the recording; but what is expanded in the example must be so in every batch.
        differentiate: record the gradient of the first output, a scalar, with respect to the trainable parameters.

    Raises:
        NotRecordable: if it cannot be recorded.

    Example:
        >>> import torch
        >>> from pyro_vae.recording import Recording
        >>> layer = torch.nn.Linear(3, 2)
        >>> recording = Recording(layer, lambda x: (layer(x).square().mean(),), {"x": torch.ones(5, 3)}, True)
        >>> (loss,), gradients = recording({"x": torch.zeros(5, 3)})
        >>> loss.shape, [gradient.shape for gradient in gradients]
        (torch.Size([]), [torch.Size([2, 3]), torch.Size([2])])
    """

    def __init__(
        self, module: nn.Module, function: Callable[..., Outputs], batch: Mapping[str, Tensor], differentiate: bool
    ) -> None:
        self.module, self.function, self.differentiate = module, function, differentiate
        self.keys = list(batch)
        self._expanded = {name: expanded_along(value) for name, value in batch.items()}
        self._has_gradient: list[bool] = []
        before = Snapshot(module)
        self._take_tensors()
        self._refuse_changes(before, batch)
        self._take_tensors()  # the first call may have made some
        watch, present = LastSite(), Snapshot(module, keep=False)
        for transform in present.transforms:
            forget(transform)
        try:
            with watch:
                traced = make_fx(self._flat, tracing_mode="fake", _allow_non_fake_inputs=True)
                self.graph = traced(*self._inputs(batch))
                simplify(self.graph)
        except Exception as error:
            before.restore()
            raise NotRecordable(reason(error, watch.name)) from error
        finally:
            present.restore_objects()  # caches without numbers are not to stay
        self._run: Callable[..., Any] = self.graph

    def _take_tensors(self) -> None:
        self.parameters, self.buffers = list(self.module.parameters()), list(self.module.buffers())
        self.trained = [p for p in self.parameters if p.requires_grad] if self.differentiate else []
        owned = (*self.module.named_parameters(), *self.module.named_buffers())
        self._owners = {id(tensor): name for name, tensor in owned}
        hooked = [p for p in self.trained if p._backward_hooks or p._post_accumulate_grad_hooks]
        if hooked:
            name = self._owners[id(hooked[0])]
            raise NotRecordable(f"parameter '{name}' has a gradient hook, which a graph would not call")

    @torch.no_grad()
    def _refuse_changes(self, before: Snapshot, batch: Mapping[str, Tensor]) -> None:
        """Run the function twice: what the second call changes, every call does.

        What only the first call changes (caches, initialization by the first batch) stays, as in eager training. Of the
        buffers, those that every call changes are put back: the graph changes them.
        """

        def run() -> list[Tensor]:
            with same_random_state(*(v.device for v in batch.values())), torch.enable_grad():
                self.eager(copied(batch))
            return [b.clone() for b in self._present_buffers()]

        modes = [m.training for m in self.module.modules()]
        start, first = [b.clone() for b in self.buffers], run()
        between = Snapshot(self.module)
        second = run()
        changed = between.changed()
        if changed is None and modes != [m.training for m in self.module.modules()]:
            changed = "the mode of a module (train, eval)"
        if changed is not None:
            before.restore()
            raise NotRecordable(f"it changes {changed} at every call, which a graph would not")
        before.rebind_buffers()
        for buffer, *values in zip(self.buffers, start, first, second, strict=True):
            buffer.copy_(values[1] if torch.equal(values[1], values[2]) else values[0])

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
        self._run = torch.compile(for_compiler(self.graph), dynamic=False, options={"fallback_random": True})
        try:
            self.check(batch, tolerance, max(tolerance, KINKS) if tolerance > 1e-6 else tolerance)
        except Exception as error:
            self._run = self.graph
            cause = error.__cause__ or error
            name, line = type(cause).__name__, first_line(cause)
            logger.warning("not compiled, the recorded graph is used: %s: %s", name, line)
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

    def check(self, batch: Mapping[str, Tensor], tolerance: float, for_gradients: float | None = None) -> None:
        """Compare with the function itself on a batch, from the same random state and buffers, which are put back.

        Args:
            batch: of the recorded shape.
            tolerance: relative error allowed.
            for_gradients: of gradients; the same if not given.

        Raises:
            NotRecordable: if a result differs, or the graph fails.
        """
        before = Snapshot(self.module)
        results = []
        for run in (self.eager, self):
            try:
                with same_random_state(*(v.device for v in batch.values())):
                    outputs, gradients = run(copied(batch))
                buffers = [b.clone() for b in self._present_buffers()]
            except Exception as error:
                if run == self.eager:
                    raise
                raise NotRecordable(f"its graph fails: {reason(error, None)}") from error
            finally:
                before.restore()
            results.append((outputs, gradients, buffers))
        try:
            self._compare(*results, tolerance, tolerance if for_gradients is None else for_gradients)
        except (RuntimeError, TypeError, ValueError) as error:
            raise NotRecordable(f"its graph's results cannot be compared: {reason(error, None)}") from error

    def _compare(self, eager: Any, graph: Any, tolerance: float, for_gradients: float) -> None:
        """Outputs, gradients and buffers; a gradient's error is relative to no less than 1% of the whole gradient."""
        names = ["the loss" if i == 0 and self.differentiate else f"output {i}" for i in range(len(eager[0]))]
        names += [f"the gradient of '{self._owners[id(p)]}'" for p in self.trained]
        names += [f"buffer '{self._owners[id(b)]}'" for b in self.buffers]
        ours, theirs = ([value for part in results for value in part] for results in (graph, eager))
        if len(ours) != len(theirs):
            raise NotRecordable("its graph has another number of results than the function")
        norms = [g.double().norm() for g in eager[1] if g is not None and not g.is_sparse]
        whole = torch.stack(norms).nan_to_num().norm().item() if norms else 0.0
        for i, (name, a, b) in enumerate(zip(names, ours, theirs, strict=True)):
            is_gradient = len(eager[0]) <= i < len(eager[0]) + len(eager[1])
            error = relative_error(a, b, 1e-2 * whole if is_gradient else 0.0)
            if not error <= (for_gradients if is_gradient else tolerance):
                raise NotRecordable(f"{name} of its graph differs from the eager one, relatively by {error:.2g}")
        for parameter, gradient in zip(self.trained, graph[1], strict=True):
            if gradient is not None and gradient.stride() != parameter.stride():
                raise NotRecordable(f"the gradient of '{self._owners[id(parameter)]}' has another layout than it")

    def _present_buffers(self) -> list[Tensor]:
        """The values of the buffers where the module has them now: a program may bind them anew."""
        present = dict(self.module.named_buffers())
        return [present[self._owners[id(b)]] for b in self.buffers]

    def _inputs(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        return [*self.parameters, *self.buffers, *(laid_out(batch[k], self._expanded[k]) for k in self.keys)]

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
        grad, unvalidated = torch.set_grad_enabled(self.differentiate), pyro.validation_enabled(False)
        with grad, unvalidated, Unvalidated(), with_tensors(self.module, replaced):  # validation looks at values
            outputs = tuple(self.function(**batch))
        results = [o.detach() for o in outputs]
        self._has_gradient = []
        if self.differentiate:
            wanted = [t for t in leaves if t.requires_grad]
            gradients = torch.autograd.grad(outputs[0], wanted, allow_unused=True)
            self._has_gradient = [g is not None for g in gradients]
            results += as_accumulated(gradients, wanted, inputs)
        return results
