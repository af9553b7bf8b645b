"""A model that its guide runs is run once for both: the numbers of two runs, and two runs where one would not do."""

from contextlib import contextmanager
from unittest import mock

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

from pyro_vae.evaluation import ais, elbo, log_likelihood
from pyro_vae.guides import BIVAGuide, LadderGuide
from pyro_vae.guides.base import draw_top_down
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import BIVA, HierarchicalVAE
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.programs import pair as pairs
from pyro_vae.programs.handlers import KLWeighted, Scaled
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.program import as_programs, evaluation_mode, prime
from pyro_vae.recording import Recording
from pyro_vae.recording.tensors import with_tensors
from pyro_vae.training.compiled import Step

N = 6


@contextmanager
def two_runs():
    """The model is run again, as if the guide had not run it."""
    with mock.patch.object(pairs, "OneRun", lambda model: None):
        yield


class Own(PyroModule):
    """A user's hierarchy: a latent in a plate of its own, data that are masked, a factor, what is a function."""

    def __init__(self):
        super().__init__()
        self.middle, self.bottom = nn.Linear(2, 6), nn.Linear(3, 4)

    def forward(self, x=None, w=None, num_samples=1):
        kept = torch.ones(4, dtype=torch.bool) if x is None else x > -1.0
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            loc, raw = self.middle(top).chunk(2, -1)
            with pyro.plate("parts", 2, dim=-2):
                low = pyro.sample("low", dist.Normal(loc, nn.functional.softplus(raw) + 0.1).to_event(1))
            features = self.bottom(low.sum(-3, keepdim=True))  # (..., 1, batch, 4)
            pyro.deterministic("features", features, event_dim=1)
            pyro.factor("size", -0.01 * features.square().sum(-1))
            return pyro.sample("x", dist.Normal(features, 0.7).mask(kept).to_event(1), obs=x)


class OwnGuide(PyroModule):
    """A user's guide of it: by ``draw_top_down``, with a latent that it has drawn itself before."""

    def __init__(self, model):
        super().__init__()
        self.model, self.top, self.low = model, nn.Linear(4, 2), nn.Linear(4, 3)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(self.top(x), 0.5).to_event(1))

        def posterior(name, p, infer):
            return dist.Normal(0.5 * p.loc + self.low(x), p.scale)

        draw_top_down(self.model, posterior, ["top", "low"], {"x": x}, {"top": top})


def ladder(**options):
    model = HierarchicalVAE((4,), (3, 2), (8, 6), 1, likelihood=Gaussian(), **options)
    return model, LadderGuide(model, (8, 6), 1, batch_norm=options.get("batch_norm", False)), model.decoder


def biva(**options):
    model = BIVA((1, 4, 1), (3, 2, 2), (4, 4, 4), (2, 1, 2), num_blocks=1, likelihood=Gaussian(), **options)
    return model, BIVAGuide(model, num_blocks=1, **options), model.decoder


def own():
    model = Own()
    return model, OwnGuide(model), model.bottom


def function():
    """A plain function with parameters of Pyro's, and a ladder for it."""
    middle, bottom = nn.Linear(2, 3), nn.Linear(3, 4)

    def model(x=None, num_samples=1):
        noise = pyro.param("noise", torch.tensor(0.8).double(), constraint=dist.constraints.positive)
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            low = pyro.sample("low", dist.Normal(middle(top), 0.5).to_event(1))
            return pyro.sample("x", dist.Normal(bottom(low), noise).to_event(1), obs=x)

    middle.double(), bottom.double()
    return model, LadderGuide(model, (8, 6), 1), bottom


PAIRS = {"ladder": ladder, "biva": biva, "own": own, "function": function}


class Made:
    """A pair in float64, its batch, and how often what makes x of the latents has run."""

    def __init__(self, make):
        torch.manual_seed(3)
        model, guide, decoder = make()
        self.guide = guide.double()
        self.model, self.calls = model.double() if isinstance(model, nn.Module) else model, 0
        x = torch.randn(N, 4, dtype=torch.float64)
        self.batch = {"x": x.reshape(N, 1, 4, 1) if isinstance(model, BIVA) else x}
        self.programs = as_programs(self.model, self.guide)
        prime(*self.programs, self.batch)
        self.nesting = 2 if make is own else 1
        self.counter = decoder.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1

    def traces(self, k=1, model=None, guide=None, **batch):
        """Traces with the random numbers of a fixed seed, and the runs of the decoder."""
        torch.manual_seed(1)
        programs = [given or program for given, program in zip((model, guide), self.programs, strict=True)]
        self.calls = 0
        return Pair(*programs, self.nesting).traces(self.batch | batch, k), self.calls


@pytest.fixture(params=PAIRS)
def made(request):
    return Made(PAIRS[request.param])


def gradients(loss, programs):
    parameters = {id(p): p for program in programs for p in program.parameters()}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return [torch.zeros(()) if g is None else g for g in found]


def close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def close_traces(ours, theirs):
    """Sites, their distributions and values, plates, scales and masks."""
    assert [n for n in ours.nodes if ours.nodes[n]["type"] != "param"] == [
        n for n in theirs.nodes if theirs.nodes[n]["type"] != "param"
    ]
    for name, site in ours.nodes.items():
        if site["type"] != "sample":
            continue
        other = theirs.nodes[name]
        for key in ("is_observed", "cond_indep_stack", "args", "kwargs"):
            assert site[key] == other[key], (name, key)
        assert site["infer"].keys() == other["infer"].keys()
        assert type(site["fn"]) is type(other["fn"]) and site["fn"].shape() == other["fn"].shape()
        torch.testing.assert_close(site["value"], other["value"])
        for key in ("scale", "mask"):
            a, b = ((torch.as_tensor(s[key]) if s[key] is not None else None) for s in (site, other))
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)
        torch.testing.assert_close(site["fn"].log_prob(site["value"]), other["fn"].log_prob(other["value"]))


# ------------------------------------------------------------------------------------- the same numbers
@pytest.mark.parametrize("k", [1, 3])
def test_traces_are_those_of_two_runs(made, k):
    pair, runs = made.traces(k)
    assert runs == 1
    with two_runs():
        other, _ = made.traces(k)
    close_traces(pair.model, other.model)
    close_traces(pair.guide, other.guide)
    assert all(pair.model.nodes[n]["value"] is q["value"] for n, (q, _) in pair.latent().items())
    assert "x" not in pair.guide.nodes


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3, analytic_kl=False), IWAE(3)])
def test_loss_and_gradients_are_those_of_two_runs(made, objective):
    weight = torch.tensor(0.3, dtype=torch.float64)
    weighted = [KLWeighted(p, weight, of_guide) for p, of_guide in zip(made.programs, (False, True), strict=True)]
    found = []
    for block in (mock.MagicMock(), two_runs()):
        with block:
            torch.manual_seed(2)
            loss = objective.on(Pair(*made.programs, made.nesting)).terms(*weighted, **made.batch).loss
            found.append([loss, *gradients(loss, made.programs)])
    close(*found)


def test_a_recorded_step_is_the_eager_one_of_two_runs(made):
    objective = ELBO(2).on(Pair(*made.programs, made.nesting))
    step, found = Step(*made.programs, objective), []
    made.counter.remove()  # a graph would not count
    recording = Recording(step, step, made.batch, differentiate=True)
    torch.manual_seed(2)
    (loss, _), ours = recording(made.batch)
    found.append([loss, *ours])
    with two_runs():
        torch.manual_seed(2)
        loss, _ = step(**made.batch)
        trained = [p for p in step.parameters() if p.requires_grad]
        theirs = torch.autograd.grad(loss, trained, allow_unused=True)
        found.append([loss, *(torch.zeros_like(p) if g is None else g for p, g in zip(trained, theirs, strict=True))])
    found[0] = [torch.zeros_like(b) if a is None else a for a, b in zip(*found, strict=True)]
    close(*found)


@pytest.mark.slow
@pytest.mark.parametrize("make", [ladder, biva])
def test_a_compiled_step_is_the_eager_one_of_two_runs(make):
    made = Made(make)
    made.counter.remove()
    step = Step(*made.programs, ELBO().on(Pair(*made.programs)))
    recording = Recording(step, step, made.batch, differentiate=True)
    assert "compiled" in recording.compile(made.batch, 1e-6)
    with two_runs():
        recording.check(made.batch, 1e-6)


@pytest.mark.parametrize("make", [*PAIRS.values(), lambda: ladder(batch_norm=True)])
def test_evaluation_gives_the_numbers_of_two_runs(make):
    made, found = Made(make), []
    for block in (mock.MagicMock(), two_runs()):
        with block:
            arguments = (made.model, made.guide, made.batch)
            results = [log_likelihood(*arguments, num_particles=7), elbo(*arguments, num_particles=2)]
            results.append(ais(*arguments, num_temperatures=5, num_leapfrog=2, num_chains=2))
            found.append([result.per_datum for result in results])
    close(*found)


def test_batch_statistics_move_once_a_step():
    made = Made(lambda: ladder(batch_norm=True))
    norms = [m for m in made.model.modules() if isinstance(m, nn.BatchNorm1d)]
    before = [m.num_batches_tracked.item() for m in norms]
    made.traces()
    assert norms and [m.num_batches_tracked.item() - b for m, b in zip(norms, before, strict=True)] == [1] * len(norms)


def test_one_run_draws_dropout_once():
    made, calls = Made(lambda: biva(dropout=0.5)), []
    for module in made.model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda module, *_: calls.append(module))
    made.traces()
    assert calls and len(calls) == len(set(calls))


# ------------------------------------------------------------------------------------- handlers around
def test_handlers_around_the_model_see_its_statements(made):
    model = made.programs[0]
    mask, lowest = torch.arange(N) < 4, dict.fromkeys(("z1", "z1_td", "low"), 2.0)

    class Around(nn.Module):
        def __init__(self, handler):
            super().__init__()
            self.model, self.handler = model, handler

        def forward(self, **batch):
            with self.handler():
                return self.model(**batch)

    for handler in (lambda: poutine.scale(scale=0.3), lambda: poutine.mask(mask=mask), lambda: Scaled(lowest)):
        pair, runs = made.traces(2, model=Around(handler))
        assert runs == 1
        with two_runs():
            other, _ = made.traces(2, model=Around(handler))
        close_traces(pair.model, other.model)
        plain, _ = made.traces(2)
        ours, theirs = (pair_of.model.copy().log_prob_sum() for pair_of in (pair, plain))
        assert not torch.equal(ours, theirs)


def test_draws_of_the_guide_that_are_replaced_are_the_models_as_well(made):
    pair, _ = made.traces(2)
    guide = poutine.replay(made.programs[1], trace=pair.guide)
    again, runs = made.traces(2, guide=guide)
    assert runs == 1
    for name, (q, p) in again.latent().items():
        assert q["value"] is pair.guide.nodes[name]["value"] is p["value"]


# ------------------------------------------------------------------------------------- where it takes two
class Wrapped(nn.Module):
    """A program inside of a function."""

    def __init__(self, program, run):
        super().__init__()
        self.program, self.run = program, run

    def forward(self, **batch):
        return self.run(self.program, batch)


def conditioned(program, batch):
    return poutine.condition(program, data={"x": batch["x"] + 1})(**batch)


def without_gradients(program, batch):
    with torch.no_grad():
        return program(**batch)


def with_held_weights(program, batch):
    held = {id(p): p.detach() for p in program.parameters()} | {id(b): b for b in program.buffers()}
    with with_tensors(program, held):
        return program(**batch)


def in_evaluation_mode(program, batch):
    with evaluation_mode(program):
        return program(**batch)


def of_other_data(program, batch):
    return program(**{name: value + 0.1 for name, value in batch.items()})


def in_a_plate(program, batch):
    with pyro.plate("outer", 2, dim=-3):
        return program(**batch)


CASES = {
    "model, conditioned": (conditioned, None),
    "model, of other data": (of_other_data, None),
    "model, in a plate": (in_a_plate, None),
    "guide, without gradients": (None, without_gradients),
    "guide, with held weights": (None, with_held_weights),
    "guide, in evaluation mode": (None, in_evaluation_mode),
    "guide, of other data": (None, of_other_data),
}


@pytest.mark.parametrize("case", CASES)
def test_where_anything_differs_the_model_is_run(made, case):
    wrapped = [
        None if run is None else Wrapped(program, run) for program, run in zip(made.programs, CASES[case], strict=True)
    ]
    pair, runs = made.traces(1, *wrapped)
    assert runs == 2
    with two_runs():
        other, runs = made.traces(1, *wrapped)
    assert runs == 1
    close_traces(pair.model, other.model)
    close_traces(pair.guide, other.guide)
    found = []
    for traces in (pair, other):
        density = traces.model.copy().log_prob_sum()
        found.append([density, *gradients(density, made.programs)])
    close(*found)


@pytest.mark.parametrize("gradient", ["dreg", "stl"])
def test_a_rewritten_trace_is_run(made, gradient):
    if made.nesting > 1:
        pytest.skip("a guide that draws in a plate of the model's own")
    found = []
    for block in (mock.MagicMock(), two_runs()):
        with block:
            torch.manual_seed(2)
            made.calls = 0
            loss = IWAE(3, gradient).on(Pair(*made.programs)).terms(*made.programs, **made.batch).loss
            assert made.calls == 1  # what is drawn twice is the guide, without the decoder
            found.append([loss, *gradients(loss, made.programs)])
    close(*found)


def test_a_model_around_the_one_that_the_guide_runs_is_another_program():
    """What its wrapper does to it (here: all that it says counts half) is not known from the guide's run."""
    made = Made(ladder)

    class Half(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x=None, num_samples=1):
            with poutine.scale(scale=0.5):
                return self.inner(x, num_samples=num_samples)

    made.programs = as_programs(Half(made.model), made.guide)
    pair, runs = made.traces()
    assert runs == 2 and pair.model.nodes["z1"]["scale"] == 0.5


class Subsampled(Own):
    """Its plate draws three of the data."""

    def forward(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), 3, dim=-1) as index:
            top = pyro.sample("top", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            loc, raw = self.middle(top).chunk(2, -1)
            low = pyro.sample("low", dist.Normal(loc, nn.functional.softplus(raw) + 0.1).to_event(1))
            return pyro.sample("x", dist.Normal(self.bottom(low), 0.7).to_event(1), obs=x[index])


def test_a_subsampled_plate_is_run_twice():
    class Guide(OwnGuide):
        def forward(self, x):
            draw_top_down(
                self.model, lambda name, p, infer: dist.Normal(p.loc + 0.1, p.scale), ["top", "low"], {"x": x}
            )

    def make():
        model = Subsampled()
        return model, Guide(model), model.bottom

    made = Made(make)
    pair, runs = made.traces()
    assert runs == 1 and pair.size == 3
    with two_runs():
        other, _ = made.traces()
    close_traces(pair.model, other.model)


def test_a_model_that_draws_something_of_its_own_is_run_twice():
    """Missing parts of x, say: they are the model's, and the guide does not draw them for it."""

    class Drawing(Own):
        def forward(self, x=None, num_samples=1):
            with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
                top = pyro.sample("top", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
                low = pyro.sample("low", dist.Normal(self.middle(top)[..., :3], 1.0).to_event(1))
                noise = pyro.sample("noise", dist.Normal(0.0, 1.0)).unsqueeze(-1)
                return pyro.sample("x", dist.Normal(self.bottom(low) + noise, 0.7).to_event(1), obs=x)

    class Guide(OwnGuide):
        def forward(self, x):
            def posterior(name, p, infer):
                return dist.Normal(p.loc + 0.1, p.scale)

            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("noise", dist.Normal(0.5, 1.0))
            draw_top_down(self.model, posterior, ["top", "low"], {"x": x}, {})

    def make():
        model = Drawing()
        return model, Guide(model), model.bottom

    made = Made(make)
    pair, runs = made.traces()
    assert runs == 1
    assert pair.model.nodes["noise"]["value"] is pair.guide.nodes["noise"]["value"]


def test_an_error_of_the_models_is_told_by_the_model():
    made = Made(ladder)

    def fails(*_):
        raise ValueError("no such data")

    made.model.decoder.register_forward_pre_hook(fails)
    with pytest.raises(ValueError, match="no such data"):
        made.traces()
    assert poutine.trace(made.programs[1]).get_trace(**made.batch).nodes["z1"]["value"].shape == (N, 3)


def test_programs_that_are_used_alone_do_not_run_on():
    made = Made(ladder)
    made.calls = 0
    with poutine.block():
        poutine.trace(made.programs[1]).get_trace(**made.batch)
    assert made.calls == 0
