"""A model that its guide runs is run once for both: the numbers of two runs."""

from unittest import mock

import pytest
import torch
from once_pairs import PAIRS, Made, N, biva, close, close_traces, gradients, ladder, two_runs
from pyro import poutine
from torch import nn

from pyro_vae.evaluation import ais, elbo, log_likelihood
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.programs.handlers import KLWeighted, Scaled
from pyro_vae.programs.pair import Pair
from pyro_vae.recording import Recording
from pyro_vae.training.compiled import Step


@pytest.fixture(params=PAIRS)
def made(request):
    return Made(PAIRS[request.param])


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
