"""Recorded steps: equal to eager ones, alive where they must be, refused where they would be wrong."""

import itertools
import logging
import random
import re
import shutil

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from pyro_vae import fit
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.programs.program import as_programs, prime
from pyro_vae.recording import NotRecordable, Recording, choose_mode
from pyro_vae.training.compiled import FULL_FROM, GRAPH_FROM, CompiledStep, Step

LOGGER = "pyro_vae.training.compiled"


def pair(seed=0, **options):
    torch.manual_seed(seed)
    model = VAE((6,), latent_dim=2, hidden_dims=[8], **options)
    return model, GaussianGuide(model, hidden_dims=[8])


def data(n=20):
    return {"x": (torch.rand(n, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()}


def step_of(model, guide, batch, objective=None, kl_weight=None):
    programs = as_programs(model, guide)
    prime(*programs, batch)
    return Step(*programs, objective or ELBO(), kl_weight)


def same(step, batch, seed=3):
    """Loss, terms and gradients of the recording and of the eager step, from the same random state."""
    recording = Recording(step, step, batch, True)
    results = []
    for run in (recording, recording.eager):
        torch.manual_seed(seed)
        outputs, gradients = run(batch)
        results.append([*outputs, *gradients])
    return results


# ------------------------------------------------------------------------------ equality
@pytest.mark.parametrize(
    "objective",
    [
        ELBO(num_particles=3),
        ELBO(analytic_kl=False),
        ELBO(free_bits=1e-2),
        ELBO(free_bits={"z": 5.0}),
        ELBO(2, free_bits=0.02, free_bits_of="datum"),
        IWAE(num_particles=4),
        IWAE(num_particles=4, gradient="dreg"),
        IWAE(num_particles=4, gradient="stl"),
    ],
    ids=lambda o: f"{type(o).__name__}-{getattr(o, 'gradient', getattr(o, 'free_bits', ''))}",
)
def test_every_objective(objective):
    ours, eager = same(step_of(*pair(), data(), objective), data())
    for a, b in zip(ours, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_random_numbers_are_fresh_and_follow_the_seed():
    step, batch = step_of(*pair(), data()), data()
    recording = Recording(step, step, batch, True)
    torch.manual_seed(1)
    first, second = recording(batch)[0][0], recording(batch)[0][0]
    torch.manual_seed(1)
    assert first != second and recording(batch)[0][0] == first


def test_recording_leaves_random_state_and_weights():
    step, batch = step_of(*pair(), data()), data()
    before, weights = torch.get_rng_state(), [p.detach().clone() for p in step.parameters()]
    Recording(step, step, batch, True).check(batch, 1e-6)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, w) and p.grad is None for p, w in zip(step.parameters(), weights, strict=True))


# ------------------------------------------------------------------------------ what stays alive
def test_weights_and_kl_weight_are_read_at_every_call():
    weight = torch.tensor(1.0)
    step, batch = step_of(*pair(), data(), kl_weight=weight), data()
    recording = Recording(step, step, batch, True)
    for value in (0.0, 0.3):
        weight.fill_(value)
        with torch.no_grad():
            for p in step.parameters():
                p.add_(0.1)
        torch.manual_seed(0)
        ours = recording(batch)[0][0]
        torch.manual_seed(0)
        torch.testing.assert_close(ours, step(**batch)[0].detach(), rtol=1e-5, atol=0)


class Normalized(nn.Module):
    """A guide with batch norm, and a buffer that it binds anew at every call."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        loc, raw = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1))


def test_buffers_move_as_they_do_eagerly():
    model, _ = pair()
    guide, batch = Normalized(), data()
    step = step_of(model, guide, batch)
    start = {k: v.clone() for k, v in step.named_buffers()}
    recording, states = Recording(step, step, batch, True), []
    for run in (recording, recording.eager):
        for name, buffer in step.named_buffers():
            buffer.copy_(start[name])
        for _ in range(3):
            run(batch)
        states.append({k: v.clone() for k, v in step.named_buffers()})
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-5, atol=1e-7)
    moved = [n for n, v in states[0].items() if not torch.equal(v, start[n])]
    assert [n.rpartition(".")[2] for n in moved] == ["mean", "running_mean", "running_var", "num_batches_tracked"]
    assert guide.encoder[1].num_batches_tracked == 3


class Recurrent(nn.Module):
    """A guide whose encoder is a GRU over the pixels."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(1, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x):
        loc, raw = self.head(self.gru(x.unsqueeze(-1))[0][:, -1]).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1))


def test_a_recurrent_guide():
    ours, eager = same(step_of(pair()[0], Recurrent(), data()), data())
    for a, b in zip(ours, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


# ------------------------------------------------------------------------------ what is refused
def wrapped(guide, before):
    """The guide, with something done first."""

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.guide, self.count, self.log = guide, 0, {}
            self.before, self.tensor, self.generator = before, torch.zeros(()), np.random.default_rng(0)
            self.numbers = itertools.count()

        def forward(self, x):
            before(self, x)
            return self.guide(x)

    return Guide()


def branch(self, x):
    if x.mean() > 0.5:
        x.mul(2)


def count(self, x):
    self.count += 1


def draw(self, x):
    random.random()


def draw_numpy(self, x):
    np.random.rand()


calls = 0


def count_globally(self, x):
    global calls
    calls += 1


def count_in_a_dict(self, x):
    self.log["n"] = self.log.get("n", 0) + 1


def collect(self, x):
    self.log.setdefault("means", []).append(x.mean())


def follow(self, x):
    self.tensor = 0.9 * self.tensor + 0.1 * x.mean()


def change_a_weight(self, x):
    self.guide.encoder.mlp.out.bias.data.add_(0.001)


def draw_privately(self, x):
    self.generator.normal()


def clamp_weights(self, x):
    weight = self.guide.encoder.mlp.out.weight
    weight.data = weight.data.clamp(-0.3, 0.3)


def iterate(self, x):
    next(self.numbers)


def freeze(self, x):
    self.guide.eval()


class Counter:
    n = 0


def count_in_a_class(self, x):
    Counter.n += 1


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (clamp_weights, "guide.program.guide.encoder.mlp.out.weight"),
        (iterate, "guide.program.numbers"),
        (freeze, "the mode of a module"),
        (count_in_a_class, "Counter.n"),
        (count_globally, "calls, which count_globally"),
        (count_in_a_dict, r"guide.program.log\['n'\]"),
        (collect, r"len\(guide.program.log\['means'\]\)"),
        (follow, "guide.program.tensor at every call"),
        (change_a_weight, "guide.program.guide.encoder.mlp.out.bias"),
        (draw_privately, "guide.program.generator"),
        (branch, r"looks at a tensor's value in `if x.mean\(\) > 0.5:` \(test_recording.py:\d+\)"),
        (lambda self, x: range(int(x.sum())), r"looks at a tensor's value in `\(lambda"),
        (count, "changes guide.program.count at every call"),
        (draw, "state of Python's random numbers"),
        (draw_numpy, "state of NumPy's random numbers"),
    ],
)
def test_a_graph_that_would_be_wrong_is_refused_and_training_runs_eagerly(before, reason, caplog):
    model, guide = pair()
    with caplog.at_level(logging.INFO, LOGGER):
        result = fit(model, wrapped(guide, before), data(), epochs=2, batch_size=10, compile="graph", progress=False)
    lines = [r.getMessage() for r in caplog.records if "run eagerly" in r.getMessage()]
    assert len(lines) == 1
    assert result.steps == 4
    assert re.search(reason, lines[0]), lines[0]


def test_a_number_taken_from_a_tensor_stays_alive():
    """``.item()`` without a branch is an operation of the graph like others, not a constant."""
    model, guide = pair()

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.guide = guide

        def forward(self, x):
            return self.guide(x * x.mean().item() + x[x > 0.5].sum())

    step, batch = step_of(model, Guide(), data()), data()
    recording = Recording(step, step, batch, True)
    for other in (batch, {"x": 1 - batch["x"]}):
        recording.check(other, 1e-5)


@pytest.mark.parametrize(
    "before", [count_in_a_dict, follow, change_a_weight, clamp_weights, draw_privately, collect, iterate, freeze]
)
def test_what_was_tried_leaves_no_trace(before):
    """Refused programs train exactly as if nobody had tried to record them."""
    results = []
    for mode in ("graph", "off"):
        model, guide = pair()
        guide = wrapped(guide, before)
        fit(model, guide, data(), epochs=2, batch_size=10, seed=1, compile=mode, progress=False)
        values = [guide.log.get("n"), next(guide.numbers), guide.generator.normal(), guide.tensor]
        values += guide.log.get("means", [])
        results.append([*(torch.as_tensor(v or 0.0) for v in values), *(p.detach() for p in guide.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


class Layouts(nn.Module):
    """A guide whose gradients come out transposed, expanded from one number, and shared by two parameters."""

    def __init__(self):
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(8, 6)), nn.Linear(8, 4)
        self.a, self.b = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x):
        h = torch.einsum("bi,oi->bo", x, self.weight) + (self.a + self.b)
        loc, raw = self.head(h.tanh()).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1))
            pyro.factor("small", (-0.01 * self.weight.sum()).expand(len(x)), has_rsample=True)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.05}, {"optimizer": "sgd", "learning_rate": 0.01}])
def test_gradients_have_the_layout_that_optimizers_rely_on(options):
    states = []
    for mode in ("graph", "off"):
        model, _ = pair()
        torch.manual_seed(1)
        guide = Layouts()
        fit(model, guide, data(), epochs=5, batch_size=10, seed=1, compile=mode, progress=False, **options)
        states.append(guide.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-5, atol=1e-6)


def test_a_buffer_bound_anew_in_training():
    states = []
    for mode in ("graph", "off"):
        model, _ = pair()
        torch.manual_seed(1)
        guide = Normalized()
        fit(model, guide, data(25), epochs=4, batch_size=10, seed=1, compile=mode, progress=False)
        states.append(guide.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-5)
    assert states[0]["mean"].any()


def test_a_layer_that_cannot_be_recorded_runs_eagerly(caplog):
    class Guide(Recurrent):
        def __init__(self):
            super().__init__()
            self.gru = nn.LSTM(1, 5, batch_first=True)

    result = fit(pair()[0], Guide(), data(), epochs=2, batch_size=10, compile="graph", progress=False)
    assert result.steps == 4
    assert len([r for r in caplog.records if r.name == LOGGER and r.levelno == logging.WARNING]) <= 1


class Initialized(nn.Module):
    """A guide that is centred by its first batch (as weight norm with data-dependent initialization is)."""

    def __init__(self, kind):
        super().__init__()
        self.guide, self.done = pair()[1], False
        if kind == "buffer":
            self.register_buffer("shift", torch.zeros(6))
        else:
            self.shift = nn.Parameter(torch.zeros(6))

    def forward(self, x):
        if self.training and not self.done:
            self.shift.data.copy_(-x.mean(0))
            self.done = True
        return self.guide(x + self.shift)


@pytest.mark.parametrize("kind", ["buffer", "parameter"])
def test_initialization_by_the_first_batch(kind):
    states = []
    for mode in ("graph", "off"):
        model, _ = pair()
        guide = Initialized(kind)
        fit(model, guide, data(25), epochs=4, batch_size=10, seed=1, compile=mode, progress=False)
        states.append(guide.state_dict())
    assert states[0]["shift"].abs().min() > 0.1
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-5)


def test_a_cache_by_batch_size_is_no_state():
    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.guide, self.cache = pair()[1], {}

        def forward(self, x):
            ones = self.cache.setdefault(len(x), torch.ones(len(x), 1))
            return self.guide(x * ones)

    model, _ = pair()
    guide = Guide()
    step, batch = step_of(model, guide, data()), data()
    Recording(step, step, batch, True).check(batch, 1e-6)
    Recording(step, step, data(7), True).check(data(7), 1e-6)
    assert all(type(t) is torch.Tensor for t in guide.cache.values())


def test_the_site_after_which_it_failed_is_named():
    model, guide = pair()

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x=None, num_samples=1):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                if z.sum() > 0:
                    z = -z
                pyro.sample("x", dist.Bernoulli(logits=model.decoder(z)).to_event(1), obs=x)

    step, batch = step_of(Model(), guide, data()), data()
    with pytest.raises(NotRecordable, match=r"if z.sum\(\) > 0.*after site 'z'"):
        Recording(step, step, batch, True)


def test_a_gradient_hook_is_refused():
    step, batch = step_of(*pair(), data()), data()
    next(step.parameters()).register_hook(lambda g: 2 * g)
    with pytest.raises(NotRecordable, match="gradient hook"):
        Recording(step, step, batch, True)


def test_a_difference_from_the_eager_step_is_refused():
    step, batch = step_of(*pair(), data()), data()
    recording = Recording(step, step, batch, True)
    recording.check(batch, 1e-6)
    node = next(n for n in recording.graph.graph.nodes if "tanh.default" in str(n.target))
    node.target = torch.ops.aten.sigmoid.default
    recording.graph.recompile()
    with pytest.raises(NotRecordable, match="the loss of its graph differs"):
        recording.check(batch, 1e-6)


# ------------------------------------------------------------------------------ in training
def history(compile, **options):
    model, guide = pair()
    result = fit(
        model, guide, Split(data(25)), epochs=4, batch_size=10, seed=2, compile=compile, progress=False, **options
    )
    return [r["train/loss"] for r in result.records], torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 0.1, "ema_decay": 0.9, "objective": ELBO(num_particles=2, free_bits=0.01)},
        {"precision": "64-true"},
        {"precision": "bf16-mixed"},
        {"optimizer": "adamax"},
    ],
    ids=lambda o: "-".join(o) or "plain",
)
def test_training_on_graphs_is_training(options, caplog):
    """A last batch of another size is among the batches."""
    with caplog.at_level(logging.INFO, LOGGER):
        recorded = history("graph", **options)
    assert [r.levelno for r in caplog.records if r.name == LOGGER] == [logging.INFO] * 2  # one for each shape
    eager = history("off", **options)
    rough = options.get("precision") == "bf16-mixed"
    tolerance = {"rtol": 2e-2, "atol": 2e-3} if rough else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(torch.tensor(recorded[0]), torch.tensor(eager[0]), **tolerance)
    torch.testing.assert_close(recorded[1], eager[1], **tolerance)


def test_gradient_scaling_runs_eagerly(monkeypatch, caplog):
    fabric = Fabric(accelerator="cpu", devices=1)
    monkeypatch.setattr(fabric.strategy.precision, "precision", "16-mixed")
    compiled = CompiledStep(fabric, step_of(*pair(), data()), "graph", differentiate=True)
    assert compiled.recording(data()) is None and "16-mixed" in caplog.text


def test_a_score_function_estimator_is_recorded(caplog):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.randn(3, 6))

        def forward(self, x=None, num_samples=1):
            with pyro.plate("data", num_samples if x is None else len(x)):
                k = pyro.sample("k", dist.Categorical(logits=torch.zeros(3)))
                return pyro.sample("x", dist.Bernoulli(logits=self.logits[k]).to_event(1), obs=x)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("k", dist.Categorical(logits=self.linear(x)))

    torch.manual_seed(0)
    options = {"epochs": 30, "batch_size": 20, "learning_rate": 0.05, "compile": "graph", "progress": False}
    with caplog.at_level(logging.INFO, LOGGER):
        result = fit(Model(), Guide(), data(), **options)
    assert result.records[-1]["train/loss"] < result.records[0]["train/loss"]
    lines = [r.getMessage() for r in caplog.records if r.name == LOGGER]
    assert lines and all("training step recorded" in line for line in lines)


@pytest.mark.parametrize(("steps", "mode"), [(199, "off"), (200, "graph"), (19_999, "graph"), (20_000, "full")])
def test_auto_goes_by_the_number_of_steps(steps, mode):
    limits = {"graph_from": GRAPH_FROM, "full_from": FULL_FROM}
    assert choose_mode("auto", steps, **limits) == mode and choose_mode("off", steps, **limits) == "off"


@pytest.mark.skipif(shutil.which("c++") is None, reason="the compiler of torch needs a C++ compiler")
@pytest.mark.slow
def test_compiled_training_is_training(caplog):
    """The first shape of batch is compiled, the last batch of an epoch runs as a graph."""
    with caplog.at_level(logging.INFO, LOGGER):
        compiled = history("full")
    lines = [r.getMessage() for r in caplog.records if r.name == LOGGER]
    assert ["compiled in" in line for line in lines] == [True, False], lines
    eager = history("off")
    torch.testing.assert_close(torch.tensor(compiled[0]), torch.tensor(eager[0]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(compiled[1], eager[1], rtol=1e-4, atol=1e-5)


def test_a_compiler_that_fails_leaves_the_graph(monkeypatch, caplog):
    def failing(*args, **kwargs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", lambda *a, **k: failing)
    losses, _ = history("full")
    assert losses == history("graph")[0]
    assert "not compiled, the recorded graph is used: RuntimeError: no compiler here" in caplog.text


def test_an_unknown_mode_is_refused():
    with pytest.raises(InputError, match=r"compile.*grpah.*graph"):
        fit(*pair(), data(), compile="grpah", progress=False)
