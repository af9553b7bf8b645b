"""Every kind of state that a program can keep between calls: seen when it changes, and put back."""

import collections
import functools
import itertools
import random
import types

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.recording.state import Snapshot


def counting():
    n = 0

    def count():
        nonlocal n
        n += 1
        return n

    return count


class Program(nn.Module):
    """Calls what it is told to with itself."""

    def __init__(self, act):
        super().__init__()
        self.act, self.layer = act, nn.Linear(2, 2)
        self.number, self.table, self.items, self.window = 0, {}, [0], collections.deque([0], maxlen=1)
        self.inside, self.partial = ({"n": 0},), functools.partial(dict, {"n": 0})
        self.tensor, self.numbers, self.space = torch.zeros(()), itertools.count(), types.SimpleNamespace(n=0)
        self.numpy, self.old_numpy = np.random.default_rng(0), np.random.RandomState(0)
        self.python, self.torch = random.Random(0), torch.Generator()
        self.normal = dist.Normal(torch.zeros(2), 1.0)
        self.affine = torch.distributions.AffineTransform(torch.zeros(2), 1.0)
        self.count = counting()

    def forward(self):
        self.act(self)


calls, table = 0, {"n": 0}
Holder = type("Holder", (), {"n": 0})
count_outside = counting()


def count_globally(self):
    global calls
    calls += 1


def count_in_a_global_dict(self):
    table["n"] += 1


def count_in_a_class(self):
    Holder.n += 1


def count_in_a_closure(self):
    count_outside()


STATE = {  # what changes it, and how much of it there is
    "number": (lambda s: setattr(s, "number", s.number + 1), lambda s: s.number),
    "dict": (lambda s: s.table.update(n=s.table.get("n", 0) + 1), lambda s: s.table.get("n")),
    "list": (lambda s: s.items.append(0), lambda s: len(s.items)),
    "deque": (lambda s: s.window.append(s.window[0] + 1), lambda s: s.window[0]),
    "dict in a tuple": (lambda s: s.inside[0].update(n=s.inside[0]["n"] + 1), lambda s: s.inside[0]["n"]),
    "arguments of a partial": (lambda s: s.partial.args[0].update(n=s.partial()["n"] + 1), lambda s: s.partial()["n"]),
    "tensor": (lambda s: setattr(s, "tensor", s.tensor + 1), lambda s: s.tensor.item()),
    "tensor in place": (lambda s: s.tensor.add_(1), lambda s: s.tensor.item()),
    "weight": (lambda s: s.layer.bias.data.add_(1), lambda s: s.layer.bias.sum().item()),
    "counting iterator": (lambda s: next(s.numbers), lambda s: repr(s.numbers)),
    "object": (lambda s: setattr(s.space, "n", s.space.n + 1), lambda s: s.space.n),
    "NumPy's generator": (lambda s: s.numpy.normal(), lambda s: str(s.numpy.bit_generator.state)),
    "NumPy's old generator": (lambda s: s.old_numpy.rand(), lambda s: str(s.old_numpy.get_state())),
    "Python's generator": (lambda s: s.python.random(), lambda s: s.python.getstate()),
    "torch's generator": (lambda s: torch.rand(1, generator=s.torch), lambda s: s.torch.get_state().tolist()),
    "Python's random numbers": (lambda s: random.random(), lambda s: random.getstate()),
    "NumPy's random numbers": (lambda s: np.random.rand(), lambda s: str(np.random.get_state())),
    "global": (count_globally, lambda s: calls),
    "global dict": (count_in_a_global_dict, lambda s: table["n"]),
    "class": (count_in_a_class, lambda s: Holder.n),
    "closure": (count_in_a_closure, lambda s: count_outside.__closure__[0].cell_contents),
    "closure of an attribute": (lambda s: s.count(), lambda s: s.count.__closure__[0].cell_contents),
    "distribution": (lambda s: s.normal.loc.add_(1), lambda s: s.normal.loc.tolist()),
    "transform": (lambda s: setattr(s.affine, "loc", s.affine.loc + 1), lambda s: s.affine.loc.tolist()),
}


@pytest.mark.parametrize("kind", STATE)
def test_what_changes_at_every_call_is_seen_and_put_back(kind):
    act, amount = STATE[kind]
    program = Program(act)
    program()
    before, had = Snapshot(program), amount(program)
    assert before.changed() is None
    program()
    assert before.changed() is not None
    before.restore()
    assert amount(program) == had


def test_what_does_not_change_is_not_said_to():
    program = Program(lambda s: (s.layer(torch.ones(1, 2)), s.normal.sample, [0].append(1)))
    program()
    before = Snapshot(program)
    program()
    assert before.changed() is None
