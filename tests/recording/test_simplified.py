"""Recorded graphs without operations that do nothing: fewer nodes, the same results, the same random numbers."""

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.recording.graph import for_compiler, simplify


def recorded(function, *inputs):
    """The graph as it is recorded, and simplified."""
    graphs = [make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs) for _ in range(2)]
    simplify(graphs[1])
    return graphs


def targets(graph):
    return [str(node.target.overloadpacket) for node in graph.graph.nodes if node.op == "call_function"]


def test_views_that_change_nothing_are_taken_out():
    def function(x, w):
        x = torch.ops.aten.alias(x)
        x = x.view(3, 4).expand(3, 4).permute(0, 1)
        return [(x @ w.t().t()).tanh(), x.reshape(4, 3).sum(0), x.t().unsqueeze(0).squeeze(0).t() + 1]

    x, w = torch.randn(3, 4), torch.randn(4, 5)
    before, after = recorded(function, x, w)
    assert len(targets(after)) == 5 < len(targets(before)) and "aten.view" in targets(after)  # (4, 3) is another shape
    for a, b in zip(before(x, w), after(x, w), strict=True):
        assert torch.equal(a, b)


def test_views_of_another_geometry_stay():
    def function(x):
        square = x.t()  # the same shape, other strides
        return [square * 1.0, x[:, 1:3].contiguous(), torch.select(x, 0, 1) + x.expand(2, 3, 3).sum()]

    x = torch.arange(9.0).reshape(3, 3)
    before, after = recorded(function, x)
    for a, b in zip(before(x), after(x), strict=True):
        assert torch.equal(a, b)
    assert {"aten.t", "aten.slice", "aten.select", "aten.expand"} <= set(targets(after))


def test_what_nobody_uses_goes_unless_it_draws_or_writes():
    buffer = torch.zeros(3)

    def function(x, buffer):
        torch.arange(7) + 1
        torch.rand(5)  # moves the generator
        buffer.view(3).add_(x)
        return [torch.rand(2) + x.sum()]

    before, after = recorded(function, torch.ones(3), buffer)
    assert "aten.arange" in targets(before) and "aten.arange" not in targets(after)
    assert targets(after).count("aten.rand") == 2
    results = []
    for graph in (before, after):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            results.append((graph(torch.ones(3), held := torch.zeros(3))[0], held, torch.get_rng_state()))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(results[1][1], torch.ones(3))


def test_no_result_is_an_input_itself():
    _, after = recorded(lambda x: [torch.ops.aten.alias(x), x.view(2, 2)], torch.zeros(2, 2))
    x = nn.Parameter(torch.ones(2, 2))
    with torch.no_grad():
        results = after(x)
    assert all(result is not x and torch.equal(result, x) for result in results)


def test_the_compiler_is_given_gradients_of_log_sigmoids_that_share_nothing():
    def function(x):
        y = nn.functional.logsigmoid(x)
        return [y.sum(), *torch.autograd.grad((y * x).sum(), x)]

    x = torch.tensor([-200.0, -30.0, -1.0, 0.0, 2.0, 30.0, 200.0], dtype=torch.float64, requires_grad=True)
    before, _ = recorded(function, x)
    after = for_compiler(before)
    backward = torch.ops.aten.log_sigmoid_backward.default
    assert [backward in [node.target for node in graph.graph.nodes] for graph in (before, after)] == [True, False]
    for a, b in zip(before(x), after(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
