"""A recorded decoder as a list of few operations on arrays of fixed shape, for an executor of a few hundred lines."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions

from pyro_vae.export.graph import Recorded
from pyro_vae.export.parts import NotExportable, Part

aten = torch.ops.aten
SAME = {  # which change the shape alone
    *(aten.view, aten._unsafe_view, aten.reshape, aten.unsqueeze, aten.squeeze, aten.alias, aten.detach),
    *(aten.clone, aten._to_copy, aten.contiguous, aten.flatten, aten.lift_fresh_copy),
}
UNARY = {
    **{
        getattr(aten, name): name for name in ("neg", "exp", "log", "log1p", "sigmoid", "tanh", "relu", "sqrt", "rsqrt")
    },
    **{getattr(aten, name): name for name in ("abs", "erf", "sin", "cos", "reciprocal", "expm1")},
}
BINARY = {
    **{getattr(aten, name): name for name in ("add", "sub", "mul", "div", "maximum", "minimum", "pow")},
    **{getattr(aten, name): name for name in ("gt", "ge", "lt", "le", "eq", "ne")},
}
WITH_NUMBERS = {
    aten.gelu: "gelu",
    aten.elu: "elu",
    aten.leaky_relu: "leaky_relu",
    aten.clamp: "clamp",
    aten.softplus: "softplus",
}
KEPT = {
    aten.upsample_nearest2d,
    aten.softplus,
    aten.elu,
    aten.gelu,
    aten.leaky_relu,
    aten._softmax,
}  # no decompositions


@dataclass
class Plain:
    """A function of one datum's numbers as a list of operations.

    Attributes:
        steps: ``{"op", "in", "out", "shape", ...}`` in order; "in" and "out" are names of arrays, or numbers.
        constants: arrays of float32 by name.
        tables: arrays by name for each context, ``(contexts, ...)``.
        input, output: names of arrays.
        input_shape, output_shape: of one datum.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    input: str = ""
    output: str = ""
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return sum(array.size for array in (*self.constants.values(), *self.tables.values()))


def plain(part: Part, latent: str, contexts: Mapping[str, Tensor]) -> Plain:
    """A decoder as plain operations.

    What depends on weights and context alone is computed here, once for each context.

    Args:
        part: a decoder, with its noise.
        latent: the input that is left an input.
        contexts: the rows of every other input among which one is chosen, ``(contexts, ...)``.

    Raises:
        NotExportable: if it cannot be recorded; names the operation that the executor does not have.
    """
    table = {k: v for k, v in core_aten_decompositions().items() if getattr(k, "overloadpacket", k) not in KEPT}
    graph = Recorded(part, 1, table)
    if latent not in graph.inputs:
        raise NotExportable(f"what it gives does not depend on site '{latent}'")
    _, places = graph.places()
    alive, varied = (
        _reached({places[latent]}, graph.module.graph),
        _reached({place for name, place in places.items() if name != latent}, graph.module.graph),
    )
    numbers = _static_values(graph, latent, contexts)
    return _Writer(alive, varied, numbers, places[latent], graph.module.graph).made


def _reached(start: set[fx.Node], graph: fx.Graph) -> set[fx.Node]:
    """The nodes that depend on some, those included."""
    found = set(start)
    for node in graph.nodes:
        if any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


class _Kept(fx.Interpreter):
    """An interpreter that keeps every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = value = super().run_node(n)
        return value


def _static_values(graph: Recorded, latent: str, contexts: Mapping[str, Tensor]) -> list[dict[fx.Node, Any]]:
    """The values of all nodes, for each context; one, if there is none."""
    count = len(next(iter(contexts.values()))) if contexts else 1
    found = []
    for i in range(count):
        rows = [graph.examples[n] if n == latent else contexts[n][i : i + 1] for n in graph.inputs]
        interpreter = _Kept(graph.module)
        with torch.no_grad():
            interpreter.run(*graph.weights, *rows)
        found.append(interpreter.values)
    return found


class _Writer:
    """Writes the steps of a graph."""

    def __init__(
        self, alive: set[fx.Node], varied: set[fx.Node], numbers: Sequence[Mapping[fx.Node, Any]], source: fx.Node,
        graph: fx.Graph,
    ) -> None:  # fmt: skip
        self.alive, self.varied, self.numbers, self.made = alive, varied, numbers, Plain()
        self.made.input, self.made.input_shape = source.name, tuple(numbers[0][source].shape[1:])
        for node in graph.nodes:
            if node.op == "output":
                result = node.args[0][0]
                self.made.output, self.made.output_shape = self.name(result), tuple(numbers[0][result].shape[1:])
            elif node.op == "call_function" and node in alive:
                self.write(node)

    def name(self, value: Any) -> str | float:
        """The name of a node's array, which is kept if it depends on no latent; or a number."""
        if not isinstance(value, fx.Node):
            return float(value)
        if value not in self.alive and value.name not in self.made.constants and value.name not in self.made.tables:
            if value in self.varied and len(self.numbers) > 1:
                self.made.tables[value.name] = np.stack([_array(each[value]) for each in self.numbers])
            else:
                self.made.constants[value.name] = _array(self.numbers[0][value])
        return value.name

    def add(self, node: fx.Node, op: str, sources: Sequence[Any], **more: Any) -> None:
        """One step."""
        shape = list(self.numbers[0][node].shape)
        self.made.steps.append(
            {"op": op, "in": [self.name(s) for s in sources], "out": node.name, "shape": shape, **more}
        )

    def write(self, node: fx.Node) -> None:
        """The step of a node.

        Raises:
            NotExportable: for an operation that there is no step for.
        """
        if node.target is operator.getitem:
            self.write_item(node)
            return
        packet = getattr(node.target, "overloadpacket", None)
        first = node.args[0] if node.args else None
        value = self.numbers[0][node]
        scaled = node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("rounding_mode") is not None
        if packet in LATER:
            return  # with its items
        if packet in SAME:
            self.add(node, "reshape", [first])
        elif packet in UNARY:
            self.add(node, UNARY[packet], [first])
        elif packet in BINARY and not scaled:
            self.add(node, BINARY[packet], node.args[:2])
        elif packet in WITH_NUMBERS:
            self.add(node, WITH_NUMBERS[packet], [first], with_=_numbers_of(node))
        elif packet in WRITERS:
            WRITERS[packet](self, node, value)
        else:
            what = str(packet or node.target).removeprefix("aten.")
            raise NotExportable(f"it has the operation '{what}', which the page's executor does not have")

    def write_item(self, node: fx.Node) -> None:
        """One of several results of an operation."""
        args: Any = node.args
        of, place = args
        given: Any = of.args
        packet = getattr(of.target, "overloadpacket", None)
        if packet in (aten.split_with_sizes, aten.split, aten.chunk):
            dim: Any = given[2] if len(given) > 2 else of.kwargs.get("dim", 0)
            before = sum(self.numbers[0][of][i].shape[dim] for i in range(place))
            dim %= self.numbers[0][node].dim()
            self.add(node, "slice", [given[0]], dim=dim, start=before, step=1)
        elif packet in NORMS and place == 0:
            NORMS[packet](self, node, of)
        else:
            raise NotExportable(f"it has the operation '{packet}', which the page's executor does not have")


def _array(value: Tensor) -> np.ndarray:
    return value.detach().to(torch.float32).numpy()


def _numbers_of(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operation but for its first, by name, with their defaults."""
    schema = node.target._schema.arguments[1:]
    given = dict(zip((a.name for a in schema), node.args[1:], strict=False)) | dict(node.kwargs)
    return {a.name: given.get(a.name, a.default_value) for a in schema}


def _permute(writer: _Writer, node: fx.Node, value: Tensor) -> None:
    rank = value.dim()
    dims = list(range(rank))
    args: Any = node.args
    packet = node.target.overloadpacket
    if packet is aten.permute:
        dims = [d % rank for d in args[1]]
    else:
        a, b = (0, rank - 1) if packet is aten.t else (d % rank for d in args[1:3])
        dims[a], dims[b] = dims[b], dims[a]
    writer.add(node, "permute", node.args[:1], dims=dims)


def _slice(writer: _Writer, node: fx.Node, value: Tensor) -> None:
    told, source = _numbers_of(node), writer.numbers[0][node.args[0]]
    dim = told["dim"] % source.dim()
    if node.target.overloadpacket is aten.select:
        writer.add(node, "slice", node.args[:1], dim=dim, start=told["index"] % source.shape[dim], step=1, of=1)
        return
    start = told["start"] or 0
    start = max(start + source.shape[dim], 0) if start < 0 else min(start, source.shape[dim])
    writer.add(node, "slice", node.args[:1], dim=dim, start=start, step=told["step"])


def _cat(writer: _Writer, node: fx.Node, value: Tensor) -> None:
    args: Any = node.args
    dim = (args[1] if len(args) > 1 else node.kwargs.get("dim", 0)) % value.dim()
    writer.add(node, "cat", args[0], dim=dim)


def _matmul(writer: _Writer, node: fx.Node, value: Tensor) -> None:
    """One matrix product, or several; added to something or not."""
    if node.target.overloadpacket is aten.addmm:
        if node.kwargs.get("beta", 1) != 1 or node.kwargs.get("alpha", 1) != 1:
            raise NotExportable("it has the operation 'addmm' with factors, which the page's executor does not have")
        writer.add(node, "matmul", [*node.args[1:3], node.args[0]])
    else:
        writer.add(node, "matmul", node.args[:2])


def _convolution(writer: _Writer, node: fx.Node, value: Tensor) -> None:
    told = _numbers_of(node)
    if value.dim() != 4:
        raise NotExportable("it has a convolution of other than two dimensions, which the page does not have")
    how = {name: told[name] for name in ("stride", "padding", "dilation", "transposed", "groups")}
    writer.add(node, "convolution", [a for a in node.args[:3] if a is not None], **how)


def _reduce(writer: _Writer, node: fx.Node, value: Tensor) -> None:
    rank = writer.numbers[0][node.args[0]].dim()
    dims: Any = node.args[1] if len(node.args) > 1 else list(range(rank))
    dims = [d % rank for d in ([dims] if isinstance(dims, int) else dims or range(rank))]
    writer.add(node, node.target.overloadpacket.__name__.split(".")[-1], node.args[:1], dims=dims)


def _softmax(writer: _Writer, node: fx.Node, value: Tensor) -> None:
    writer.add(node, "softmax", node.args[:1], dim=node.args[1] % value.dim())


def _upsample(writer: _Writer, node: fx.Node, value: Tensor) -> None:
    source = writer.numbers[0][node.args[0]]
    if value.shape[2] % source.shape[2] or value.shape[3] % source.shape[3]:
        raise NotExportable("it enlarges by no whole factor, which the page's executor does not")
    writer.add(node, "upsample", node.args[:1])


def _expand(writer: _Writer, node: fx.Node, value: Tensor) -> None:
    writer.add(node, "expand", node.args[:1])


def _where(writer: _Writer, node: fx.Node, value: Tensor) -> None:
    writer.add(node, "where", node.args[:3])


def _batch_norm(writer: _Writer, node: fx.Node, of: fx.Node) -> None:
    """One factor and one number to be added for each channel; the present mean and variance are those of training."""
    if of.target is aten.native_batch_norm.default and of.args[5]:
        raise NotExportable("it normalizes by the batch, of which there is none in the page")
    weight, bias, mean, variance = (writer.numbers[0][a] if isinstance(a, fx.Node) else None for a in of.args[1:5])
    factor = (variance.double() + of.args[-1]).rsqrt()
    factor = factor if weight is None else factor * weight.double()
    shift = -mean.double() * factor + (0 if bias is None else bias.double())
    shape = (1, -1, *(1,) * (writer.numbers[0][node].dim() - 2))
    names = [f"{node.name}_factor", f"{node.name}_shift"]
    for name, array in zip(names, (factor, shift), strict=True):
        writer.made.constants[name] = _array(array.reshape(shape))
    step = {"op": "affine", "in": [writer.name(of.args[0]), *names], "out": node.name}
    writer.made.steps.append({**step, "shape": list(writer.numbers[0][node].shape)})


def _group_norm(writer: _Writer, node: fx.Node, of: fx.Node) -> None:
    x, weight, bias, _, _, _, groups, eps = of.args
    writer.add(node, "group_norm", [a for a in (x, weight, bias) if a is not None], groups=groups, eps=eps)


def _layer_norm(writer: _Writer, node: fx.Node, of: fx.Node) -> None:
    x, shape, weight, bias, eps = of.args
    writer.add(node, "layer_norm", [a for a in (x, weight, bias) if a is not None], dims=len(shape), eps=eps)


WRITERS: dict[Any, Callable[[_Writer, fx.Node, Tensor], None]] = {
    **dict.fromkeys((aten.permute, aten.transpose, aten.t), _permute),
    **dict.fromkeys((aten.slice, aten.select), _slice),
    **dict.fromkeys((aten.mm, aten.bmm, aten.addmm), _matmul),
    **dict.fromkeys((aten.sum, aten.mean, aten.amax), _reduce),
    aten.cat: _cat,
    aten.convolution: _convolution,
    aten._softmax: _softmax,
    aten.upsample_nearest2d: _upsample,
    aten.expand: _expand,
    aten.where: _where,
}
NORMS: dict[Any, Callable[[_Writer, fx.Node, fx.Node], None]] = {
    aten._native_batch_norm_legit_no_training: _batch_norm,
    aten.native_batch_norm: _batch_norm,
    aten.native_group_norm: _group_norm,
    aten.native_layer_norm: _layer_norm,
}
LATER = {*NORMS, aten.split_with_sizes, aten.split, aten.chunk}
