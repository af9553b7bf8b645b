"""A part of a pair as a graph of tensor operations, for one number of data or for any."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.errors import first_line
from pyro_vae.export.parts import NotExportable, Part
from pyro_vae.recording import NotRecordable, Recording

SIZES = (3, 5)  # numbers of data whose graphs are set beside one another
TOLERANCE = 1e-5  # relative, of a recorded graph against the eager function
_aten = torch.ops.aten


class Recorded:
    """A part's operations for one number of data, without any that write into tensors.

    Args:
        part: with its noise (:meth:`~pyro_vae.export.parts.Part.with_noise`).
        count: how many data.
        table: decompositions of operations into others.

    Attributes:
        module: the operations; its inputs are the weights and then the part's inputs, as far as they are used.
        weights: those used, in order.
        inputs: the names of those used, in order.

    Raises:
        NotExportable: if the part cannot be recorded, or depends on none of its inputs.
    """

    def __init__(self, part: Part, count: int, table: Mapping[Any, Callable] | None = None) -> None:
        examples = {**part.rows(count), **part.noise(count)}
        try:
            recording = Recording(part.programs, part, examples, differentiate=False)
            recording.check(examples, TOLERANCE)
        except NotRecordable as error:
            raise NotExportable(str(error)) from error
        weights = [t.detach() for t in (*recording.parameters, *recording.buffers)]
        with torch.no_grad():
            pure = functionalize(recording.graph, remove="mutations")
            trace = make_fx(
                pure, None if table is None else dict(table), tracing_mode="fake", _allow_non_fake_inputs=True
            )
            self.module = trace(*weights, *examples.values())
        graph = self.module.graph
        _simplify(graph)
        places, names = [node for node in graph.nodes if node.op == "placeholder"], list(examples)
        used = [i for i, node in enumerate(places) if node.users]
        self.weights = [weights[i].clone() for i in used if i < len(weights)]
        self.inputs = [names[i - len(weights)] for i in used if i >= len(weights)]
        self.examples = {name: examples[name] for name in self.inputs}
        for i, node in enumerate(places):
            if i not in used:
                graph.erase_node(node)
        self.module.recompile()
        if not self.inputs:
            raise NotExportable("what it gives depends on none of its inputs: it is the same for all data")
        drawn = [part.draws[name].site for name in self.inputs if name in part.draws]
        if drawn and part.name == "decoder":
            raise NotExportable(f"it draws at, or after, site '{drawn[0]}', which is no latent of single data")

    def places(self) -> tuple[list[fx.Node], dict[str, fx.Node]]:
        """The placeholders: of the weights, and of the inputs by name."""
        found = [node for node in self.module.graph.nodes if node.op == "placeholder"]
        count = len(self.weights)
        return found[:count], dict(zip(self.inputs, found[count:], strict=True))


class Graph(nn.Module):
    """A part's function of its inputs, ``(N, ...)`` each, for any N.

    The part is recorded for two numbers of data. What differs between the two graphs are sizes, each a linear function
    of the number of data, by which they are replaced.

    Args:
        part: with its noise (:meth:`~pyro_vae.export.parts.Part.with_noise`).

    Attributes:
        inputs: the names of those that it uses, in order.
        outputs: the names of what it gives, in order.

    Raises:
        NotExportable: as :class:`Recorded`; and if the two graphs differ in more than sizes.

    Example:
        >>> import torch, pyro_vae
        >>> from pyro_vae.export.graph import Graph
        >>> from pyro_vae.export.parts import decoder
        >>> from pyro_vae.programs.program import as_program
        >>> model = as_program(pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,)).eval())
        >>> graph = Graph(decoder(model, {"x": torch.zeros(2, 1, 8, 8)}, {}).with_noise())
        >>> graph.inputs, graph.outputs, graph(torch.zeros(4, 2))[0].shape
        (['z'], ['x.mean'], torch.Size([4, 1, 8, 8]))
    """

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.outputs = part.outputs()
        first, second = (Recorded(part, count) for count in SIZES)
        if first.inputs != second.inputs:
            raise NotExportable("it uses other inputs for other numbers of data")
        self.inputs = first.inputs
        self.module = _for_any(first, second)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, ``(N, ...)`` each, in order, of the inputs in order."""
        return tuple(self.module(*inputs))

    def export(self, rows: Sequence[Tensor]) -> ExportedProgram:
        """The graph for any number of data, as ``torch.export`` has it.

        Args:
            rows: an example of every input, ``(n, ...)`` in order.

        Raises:
            NotExportable: if torch does not see that it is for any number of data.
        """
        some = tuple(row[torch.arange(SIZES[-1] + 2) % len(row)] for row in rows)
        batch = Dim("batch")
        try:
            with torch.no_grad():
                return export(self.module, some, dynamic_shapes=tuple({0: batch} for _ in some), strict=False)
        except Exception as error:  # of whatever torch's tracing meets
            raise NotExportable(f"it cannot be exported for any number of data: {first_line(error)}") from error


def _simplify(graph: fx.Graph) -> None:
    """Without copies over tensors, splits into one piece, and what nobody uses."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is _aten.copy.default:  # what writes into tensors has been made such a copy
            _replace(graph, node, node.args[1])
        elif node.target is operator.getitem and _is_split(node.args[0]):
            of = node.args[0]
            if len(of.meta["val"]) == 1:
                node.replace_all_uses_with(of.args[0])
        elif node.target is _aten.cat.default and len(node.args[0]) == 1:
            node.replace_all_uses_with(node.args[0][0])
    graph.eliminate_dead_code()


def _is_split(node: fx.Node) -> bool:
    return node.target in (_aten.split.Tensor, _aten.split_with_sizes.default, _aten.chunk.default)


def _replace(graph: fx.Graph, node: fx.Node, source: fx.Node) -> None:
    value = node.meta["val"]
    with graph.inserting_before(node):
        for same, target, how in (
            (source.meta["val"].dtype == value.dtype, _aten._to_copy.default, {"dtype": value.dtype}),
            (source.meta["val"].shape == value.shape, _aten.expand.default, None),
        ):
            if not same:
                args = (source,) if how else (source, list(value.shape))
                source = graph.call_function(target, args, how or {})
                source.meta["val"] = value
    node.replace_all_uses_with(source)


def _for_any(first: Recorded, second: Recorded) -> fx.GraphModule:
    """One graph of two, for any number of data; its weights are attributes."""
    nodes = [list(each.module.graph.nodes) for each in (first, second)]
    if [(n.op, str(n.target)) for n in nodes[0] if n.op != "placeholder"] != [
        (n.op, str(n.target)) for n in nodes[1] if n.op != "placeholder"
    ]:
        raise NotExportable("it does other things for other numbers of data")
    root, graph, made = nn.Module(), fx.Graph(), dict[fx.Node, fx.Node]()
    places, given = first.places()
    for i, weight in enumerate(first.weights):
        root.register_buffer(f"weight_{i}", weight)
    for name, node in given.items():
        made[node] = graph.placeholder("".join(c if c.isalnum() else "_" for c in f"input_{name}"))
    for i, node in enumerate(places):  # after the inputs
        made[node] = graph.get_attr(f"weight_{i}")
    size = graph.call_function(_aten.sym_size.int, (made[next(iter(given.values()))], 0))

    def both(a: Any, b: Any) -> Any:
        if isinstance(a, fx.Node):
            return made[a]
        if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
            return type(a)(both(x, y) for x, y in zip(a, b, strict=True))
        if a == b and type(a) is type(b):
            return a
        slope, rest = divmod(b - a, SIZES[1] - SIZES[0]) if type(a) is type(b) is int else (0, 1)
        if rest:
            raise NotExportable("a number in it depends on the number of data, and is no size")
        scaled = size if slope == 1 else graph.call_function(operator.mul, (size, slope))
        start = a - slope * SIZES[0]
        return graph.call_function(operator.add, (scaled, start)) if start else scaled

    for a, b in zip(*([n for n in each if n.op != "placeholder"] for each in nodes), strict=True):
        if a.op == "get_attr":
            constants = [getattr(each.module, str(n.target)) for each, n in ((first, a), (second, b))]
            if constants[0].shape != constants[1].shape or not torch.equal(*constants):
                raise NotExportable("a tensor in it is another one for another number of data")
            name = f"constant_{len(made)}"
            root.register_buffer(name, constants[0].detach().clone())
            made[a] = graph.get_attr(name)
        elif a.op == "output":
            graph.output(tuple(both(a.args[0], b.args[0])))
        else:
            if sorted(a.kwargs) != sorted(b.kwargs):
                raise NotExportable("it does other things for other numbers of data")
            kwargs = {key: both(value, b.kwargs[key]) for key, value in a.kwargs.items()}
            made[a] = graph.call_function(a.target, both(tuple(a.args), tuple(b.args)), kwargs)
    graph.eliminate_dead_code()
    return fx.GraphModule(root, graph)
