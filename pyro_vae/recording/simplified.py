"""A recorded graph without the operations that do nothing."""

from __future__ import annotations

import torch
from torch import Tensor, fx

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
