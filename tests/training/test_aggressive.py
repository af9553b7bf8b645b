"""Updates of the guide alone: which weights move when, against a loop by hand; what is refused; a collapse less."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import ELBO
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError, NotApplicable
from pyro_vae.evaluation import mutual_information
from pyro_vae.guides import EmptyGuide, GaussianGuide
from pyro_vae.likelihoods import PixelCNN, RecurrentTokens
from pyro_vae.models import VAE, PixelModel
from pyro_vae.networks import RecurrentEncoder
from pyro_vae.objectives import GAN, Matching
from pyro_vae.priors import VampPrior
from pyro_vae.programs.parameters import module_parameters
from pyro_vae.training import Aggressive, Linear, fit
from pyro_vae.training.batches import EpochBatches, derived_seed
from pyro_vae.training.compiled import Update


def pair():
    torch.manual_seed(3)
    model = VAE((6,), latent_dim=2, hidden_dims=[8])
    return model, GaussianGuide(model, hidden_dims=[8])


def digits(n=43, held_out=10):
    x = (torch.rand(n + held_out, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    return Data(Split({"x": x[:n]}), Split({"x": x[n:]}))


HOW = {"batch_size": 8, "learning_rate": 0.02, "seed": 5, "device": "cpu", "progress": False, "compile": "off"}


def weights(*programs):
    return [p.detach().clone() for program in programs for p in program.parameters()]


@pytest.mark.parametrize("clip_norm", [None, 0.3])
def test_is_the_algorithm_written_by_hand(clip_norm, monkeypatch):
    """He et al., algorithm 1: the guide alone until a window's loss is not below that before, then the model alone."""
    data, how, states, update_of = digits(), Aggressive(most_updates=7, window=2), [], Update._update

    def watched(self, batch):
        states.append(torch.get_rng_state())
        return update_of(self, batch)

    monkeypatch.setattr(Update, "_update", watched)
    result = fit(*pair(), data, aggressive=how, epochs=1, clip_norm=clip_norm, objective=ELBO(2), **HOW)
    model, guide = pair()
    batches, further = EpochBatches(data.train, 8, 5), EpochBatches(data.train, 8, derived_seed(5, "guide"))
    phi, theta = list(guide.parameters()), list(model.parameters())
    adam = {"guide": torch.optim.Adam(phi, 0.02), "model": torch.optim.Adam(theta, 0.02)}

    def update(who, moving, batch):
        with module_parameters(model, guide):
            loss = ELBO(2).terms(model, guide, batch["x"]).loss
        for p, g in zip(moving, torch.autograd.grad(loss, moving), strict=True):
            p.grad = g
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(moving, clip_norm)
        adam[who].step()
        return loss.item()

    torch.set_rng_state(states[0])
    updates, counts = 0, []
    for index in range(6):
        last, losses = math.inf, []
        while len(losses) < 7:
            losses.append(update("guide", phi, further.batch(updates // 5, updates % 5)))
            updates += 1
            if len(losses) % 2 == 0:
                if not sum(losses[-2:]) / 2 < last:
                    break
                last = sum(losses[-2:]) / 2
        counts.append(len(losses))
        update("model", theta, batches.batch(0, index))
    assert len(set(counts)) > 1 and min(counts) == 4  # two windows at least, and not the same always
    assert result.records[0]["guide_updates"] == updates and result.steps == 6
    found = mutual_information(model, guide, data.validation, seed=derived_seed(5, "information")).value
    assert result.records[0]["mutual_information"] == pytest.approx(found, abs=1e-4)
    for ours, theirs in zip(weights(model, guide), weights(result.model, result.guide), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_what_moves_in_which_update(compile, monkeypatch):
    """The guide alone, the model alone, and both once the mutual information rises no more."""
    seen, told = [], iter([0.1, 0.5, 0.4, 9.0])  # before training, then of each epoch
    monkeypatch.setattr("pyro_vae.training.guide_updates.GuideUpdates.information", lambda self: next(told))
    move, (model, guide) = Update._move, pair()

    def watched(self):
        before = [weights(p) for p in (model, guide)]
        move(self)
        after = [weights(p) for p in (model, guide)]
        changed = [
            [not torch.equal(*two) for two in zip(*each, strict=True)] for each in zip(before, after, strict=True)
        ]
        assert all(len(set(of_program)) == 1 for of_program in changed)  # all of a program's weights, or none
        seen.append([of_program[0] for of_program in changed])

    monkeypatch.setattr(Update, "_move", watched)
    how = {**HOW, "compile": compile, "ema_decay": 0.9}
    result = fit(model, guide, digits(40), aggressive=Aggressive(3, window=5), epochs=4, **how)
    alone, own, both = [False, True], [True, False], [True, True]
    assert seen[: 2 * 5 * 4] == [alone, alone, alone, own] * 2 * 5  # epochs 1 and 2
    assert seen[2 * 5 * 4 :] == [both] * 2 * 5
    assert [r["guide_updates"] for r in result.records] == [15, 30, 30, 30]
    assert [r.get("mutual_information") for r in result.records] == [0.5, 0.4, None, None]
    assert all(p.requires_grad for p in (*model.parameters(), *guide.parameters()))


def test_epochs_of_the_warm_up_do_not_count(monkeypatch):
    told = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.1])
    monkeypatch.setattr("pyro_vae.training.guide_updates.GuideUpdates.information", lambda self: next(told))
    how = {"aggressive": Aggressive(2, 2), "kl_weight": Linear(0.0, 1.0, 3), "epochs": 5, **HOW}
    found = [r.get("mutual_information") for r in fit(*pair(), digits(), **how).records]
    assert found == [0.5, 0.4, 0.3, 0.2, None]


def test_the_average_of_weights_moves_once_a_step():
    first, how = weights(*pair()), {"aggressive": Aggressive(9, 2), "epochs": 1, **HOW, "batch_size": 43}
    averaged, plain = fit(*pair(), digits(), ema_decay=0.75, **how), fit(*pair(), digits(), **how)
    ends = (weights(result.model, result.guide) for result in (averaged, plain))
    for start, average, end in zip(first, *ends, strict=True):
        torch.testing.assert_close(average, 0.75 * start + 0.25 * end)


class Tied(nn.Module):
    """A linear layer that both programs use, beside one of each."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.both, self.p, self.q = nn.Linear(3, 2, bias=False), nn.Linear(2, 3), nn.Linear(2, 2)

    def model(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.p(z) + z @ self.both.weight, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.q(self.both(x)), pyro.param("scale", torch.ones(2))).to_event(1))


def test_what_both_have_is_the_models(monkeypatch):
    tied, seen, move = Tied(), [], Update._move

    def watched(self):
        before = copy.deepcopy(tied.state_dict())
        move(self)
        seen.append({k.partition(".")[0] for k, v in tied.state_dict().items() if not torch.equal(v, before[k])})

    monkeypatch.setattr(Update, "_move", watched)
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    data = Data(Split({"x": x[:20]}), Split({"x": x[20:]}))
    result = fit(tied.model, tied.guide, data, aggressive=Aggressive(2), epochs=1, **{**HOW, "batch_size": 20})
    assert seen == [{"q"}, {"q"}, {"both", "p"}]
    assert not torch.equal(result.guide.param("scale"), torch.ones(2))  # a pyro.param of the guide's


def test_what_does_not_go_together_is_refused():
    batches = [(torch.rand(4, 6).round(),), (torch.rand(4, 6).round(),)]
    for data, more, words in (
        (digits().train, {}, "needs validation data, whose mutual information"),
        (digits(), {"grad_accumulation": 2}, "grad_accumulation is 2"),
        (digits(), {"objective": Matching(GAN([4]))}, "this one has a discriminator"),
        ({"train": batches, "validation": batches}, {}, "the data are an iterable of batches"),
    ):
        with pytest.raises(InputError, match=f"aggressive: .*{words}"):
            fit(*pair(), data, aggressive=Aggressive(), epochs=1, **{**HOW, **more})
    for how in ({"most_updates": 0}, {"window": 1.5}, {"num_data": 1}):
        with pytest.raises(InputError, match=next(iter(how))):
            Aggressive(**how)


def test_programs_without_weights_of_their_own_are_refused():
    x = torch.rand(20, 1, 4, 4).round()
    data = Data(Split({"x": x}), Split({"x": x}))
    with pytest.raises(InputError, match="aggressive: the guide has no weight of its own"):
        fit(PixelModel((1, 4, 4), PixelCNN(features=0)), EmptyGuide(), data, aggressive=Aggressive(), epochs=1, **HOW)
    model, guide = pair()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(InputError, match="aggressive: the model has no weight of its own"):
        fit(model, guide, digits(), aggressive=Aggressive(), epochs=1, **HOW)
    model = VAE((6,), latent_dim=2, hidden_dims=[8], prior=VampPrior((2,), (6,), 3))
    with pytest.raises(InputError, match="aggressive: the guide has no weight of its own"):  # its posteriors are p(z)
        fit(model, GaussianGuide(model), digits(), aggressive=Aggressive(), epochs=1, **HOW)
    tied = Tied()

    def point(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(tied.q(x[..., :2])).to_event(1))

    x = torch.randn(30, 3)
    with pytest.raises(NotApplicable, match="the guide has nothing to draw"):
        fit(tied.model, point, Data(Split({"x": x}), Split({"x": x})), aggressive=Aggressive(), epochs=1, **HOW)


# ------------------------------------------------------------------------------ a posterior that would collapse
def topics(n, seed):
    """Sequences of eight tokens, of which some are of one of four topics: a GRU can do without a latent."""
    generator = torch.Generator().manual_seed(seed)
    topic, kept = (torch.randint(4, (n, 1), generator=generator), torch.rand(n, 8, generator=generator) < 0.6)
    own = 1 + 2 * topic + torch.randint(2, (n, 8), generator=generator)
    x = torch.where(kept, own, torch.randint(1, 9, (n, 8), generator=generator))
    return Split({"x": nn.functional.pad(x, (0, 1))}, integers=True)


@pytest.mark.slow
def test_a_posterior_that_collapses_does_not():
    """He et al., figure 1 and table 1, in small: ten epochs, after which nothing or half a nat is known of x."""
    data, found = Data(topics(1000, 0), topics(300, 1)), []
    sizes = {"embedding_dim": 8, "hidden_dim": 24, "cell": "gru"}
    for aggressive in (None, Aggressive(most_updates=60, window=10)):
        torch.manual_seed(1)
        likelihood = RecurrentTokens((9,), num_tokens=9, features=8, **sizes)
        model = VAE((9,), latent_dim=2, hidden_dims=(), likelihood=likelihood)
        guide = GaussianGuide(model, encoder=RecurrentEncoder((9,), 9, outputs=4, **sizes))
        how = {"batch_size": 50, "learning_rate": 0.02, "clip_norm": 5.0, "device": "cpu", "progress": False}
        fit(model, guide, data, aggressive=aggressive, epochs=10, **how)
        found.append(mutual_information(model, guide, data.validation).value)
    assert found[0] < 0.2 and found[1] > 0.35, found
