"""A model that its guide runs is run again where that would be another run."""

from unittest import mock

import pyro
import pyro.distributions as dist
import pytest
import torch
from once_pairs import PAIRS, Made, N, Own, OwnGuide, close, close_traces, gradients, ladder, two_runs
from pyro import poutine
from torch import nn

from pyro_vae.guides.base import draw_top_down, gaussian
from pyro_vae.objectives import IWAE
from pyro_vae.programs.handlers import penalty
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.program import as_programs, evaluation_mode
from pyro_vae.recording.tensors import with_tensors


@pytest.fixture(params=PAIRS)
def made(request):
    return Made(PAIRS[request.param])


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


@pytest.mark.parametrize("which", ["parameters", "buffers"])
def test_what_was_written_to_since_is_another_run(which):
    """A guide that changes the model's weights or state in place after it has run the model."""

    def writes(program, batch):
        program(**batch)
        model = program.program.model
        written = {"parameters": model.parameters(), "buffers": model.buffers()}[which]
        with torch.no_grad():
            for tensor in written:
                tensor.add_(1)

    found = []
    for block in (mock.MagicMock(), two_runs()):
        made = Made(lambda: ladder(batch_norm=True))
        for program in made.programs:
            program.eval()
        with block, torch.no_grad():
            pair, runs = made.traces(1, None, Wrapped(made.programs[1], writes))
        found.append(pair.model.log_prob_sum())
    assert runs == 1 and found[0] == found[1]


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
    """Inside of the guide the model draws indices of its own, when it is replayed those that the guide has."""

    class Guide(OwnGuide):
        def forward(self, x):
            with pyro.plate("data", len(x), 3, dim=-1) as index:
                top = pyro.sample("top", dist.Normal(self.top(x[index]), 0.5).to_event(1))

            def posterior(name, p, infer):
                p = gaussian(name, p)
                return dist.Normal(p.loc + 0.1, p.scale)

            draw_top_down(self.model, posterior, ["top", "low"], {"x": x}, {"top": top})

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
                p = gaussian(name, p)
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


@pytest.mark.parametrize("kind", ["factor", "penalty", "observed", "auxiliary", "deterministic"])
def test_what_the_posterior_says_is_the_guides(kind):
    """A statement inside the function that gives q is made while the model runs, and is none of the model's."""

    class Guide(OwnGuide):
        def forward(self, x):
            def posterior(name, p, infer):
                if kind == "factor":
                    pyro.factor(f"more_{name}", x.sum(-1), has_rsample=True)
                elif kind == "penalty":
                    penalty(f"more_{name}", x.sum(-1))
                elif kind == "deterministic":
                    pyro.deterministic(f"more_{name}", x.sum(-1))
                else:
                    own = {"obs": x.sum(-1)} if kind == "observed" else {"infer": {"is_auxiliary": True}}
                    pyro.sample(f"more_{name}", dist.Normal(torch.zeros(()).double(), 1.0), **own)
                return dist.Normal(torch.zeros(p.event_shape).double(), 0.5)

            draw_top_down(self.model, posterior, ["z2", "z1"], {"x": x})

    def make():
        model, _, decoder = ladder()
        return model, Guide(model), decoder

    made = Made(make)
    pair, runs = made.traces(3)
    with two_runs():
        other, _ = made.traces(3)
    close_traces(pair.model, other.model)
    close_traces(pair.guide, other.guide)
    alone = poutine.trace(made.programs[1]).get_trace(**made.batch)
    said = {n for n, site in pair.guide.nodes.items() if site["type"] == "sample"}
    assert runs == 1 and said == {"z2", "z1", "more_z2", "more_z1"} == said & alone.nodes.keys()
    assert not {"more_z2", "more_z1"} & pair.model.nodes.keys()


def test_programs_that_are_used_alone_do_not_run_on():
    made = Made(ladder)
    made.calls = 0
    with poutine.block():
        poutine.trace(made.programs[1]).get_trace(**made.batch)
    assert made.calls == 0
