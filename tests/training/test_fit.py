"""What ``fit`` does besides minimizing: log, schedules, averages, early stopping, seeds, isolation."""

import json
import logging
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import ais, elbo, log_likelihood
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.training import Linear, Stages, fit
from pyro_vae.training import loop as trainer_module
from pyro_vae.training.loop import Trainer


def pair(seed=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VAE((6,), latent_dim=2, hidden_dims=[8])
        return model, GaussianGuide(model, hidden_dims=[8])


def binary(n=40, seed=1):
    return (torch.rand(n, 6, generator=torch.Generator().manual_seed(seed)) < 0.3).float()


def data(n=40):
    return Data(Split({"x": binary(n)}), Split({"x": binary(11, seed=2)}))


def train(programs=None, what=None, **more):
    options = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "device": "cpu", "progress": False, **more}
    return fit(*(programs or pair()), data() if what is None else what, **options)


def weights(result):
    return {f"{n}.{k}": v.clone() for n in ("model", "guide") for k, v in getattr(result, n).state_dict().items()}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# ---------------------------------------------------------------------------- result and log
def test_training_improves_towards_the_entropy():
    """Independent bits with rates 0.1: the best loss is their entropy."""
    x = (torch.rand(2000, 6, generator=torch.Generator().manual_seed(1)) < 0.1).float()
    rate = x.mean(0)
    entropy = -(rate * rate.log() + (1 - rate) * (1 - rate).log()).sum().item()
    result = train(what=x, epochs=12, batch_size=50, learning_rate=0.02)
    losses = [r["train/loss"] for r in result.records]
    assert losses[0] > entropy + 0.15
    assert losses[-1] == pytest.approx(entropy, abs=0.08)


def test_records_and_log(tmp_path):
    result = train(out=tmp_path, kl_weight=Linear(0.5, 1.0, 2), learning_rate=Stages([0.01, 0.002], [1, 1]))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records == result.records
    terms = {"loss", "log_likelihood/x", "kl/z"}
    names = {f"{part}/{term}" for part in ("train", "validation") for term in terms}
    for i, record in enumerate(records):
        assert record.keys() == names | {"epoch", "step", "learning_rate", "kl_weight", "seconds"}
        assert (record["epoch"], record["step"]) == (i + 1, 5 * (i + 1))
        assert all(math.isfinite(v) for v in record.values())
        loss = record["validation/kl/z"] - record["validation/log_likelihood/x"]
        assert record["validation/loss"] == pytest.approx(loss, rel=1e-5)  # weight 1 on validation data
    assert [r["kl_weight"] for r in records] == [0.5, 0.75, 1.0]
    assert [r["learning_rate"] for r in records] == [0.01, 0.002, 0.002]
    assert sorted(r["seconds"] for r in records) == [r["seconds"] for r in records]
    assert (result.epochs, result.steps, result.best_epoch, result.stopped) == (3, 15, None, "all 3 epochs")
    assert not result.model.training and not result.guide.training


def test_free_bits_are_recorded_apart_from_the_raw_kl():
    for r in train(objective=ELBO(free_bits=50.0)).records:
        assert r["train/kl_clamped/z"] == pytest.approx(50.0) and 0 <= r["train/kl/z"] < 40
        assert r["train/loss"] == pytest.approx(50.0 - r["train/log_likelihood/x"], rel=1e-5)
        assert "validation/kl_clamped/z" not in r


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
@pytest.mark.parametrize("weight", [0.25, 2.0])
def test_kl_weight_acts_in_every_precision(precision, weight):
    result = train(kl_weight=weight, precision=precision)
    for r in result.records:
        expected = weight * r["train/kl/z"] - r["train/log_likelihood/x"]
        assert r["train/loss"] == pytest.approx(expected, rel=1e-5)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    assert {p.dtype for p in result.guide.parameters()} == {dtype}


def test_what_was_trained_in_float64_is_trained_on_and_evaluated_with_the_same_data():
    grey = (255 * binary()).to(torch.uint8)
    programs = pair()
    train(programs, grey, precision="64-true")
    found = [
        [e(*programs, x, seed=1).per_datum for e in (elbo, log_likelihood, partial(ais, num_temperatures=5))]
        for x in (grey, binary(), binary().double())
    ]
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert a.dtype == torch.float64 and torch.equal(a, b)
    again = train(programs, grey, precision="64-true", seed=5)
    assert math.isfinite(again.records[-1]["train/loss"])
    with pytest.raises(InputError, match=r"float64 parameters, and precision is '32-true'"):
        train(programs, grey)


def test_train_terms_are_means_over_the_epoch(monkeypatch):
    rows = []
    one_step = Trainer._one_step

    def keeping(self, epoch):
        row = one_step(self, epoch)
        rows.append(row.double())
        return row

    monkeypatch.setattr(Trainer, "_one_step", keeping)
    monkeypatch.setattr(trainer_module, "WINDOW", 2)
    result = train(epochs=1)
    assert result.records[0]["train/loss"] == pytest.approx(torch.stack(rows).mean(0)[0].item(), rel=1e-12)


@pytest.mark.parametrize("window", [1, 4, 100])
def test_train_terms_are_means_over_data_however_the_epoch_is_cut(window, monkeypatch):
    """A model without latents, whose loss is exact: three data of 43 in the last batch, far less likely than others."""
    monkeypatch.setattr(trainer_module, "WINDOW", window)
    x = torch.arange(43.0).square()[:, None]

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            loc = pyro.param("loc", torch.zeros(1))
            return pyro.sample("x", dist.Laplace(loc, 1.0).to_event(1), obs=x)

    result = train((model, lambda x: None), x, epochs=2, optimizer="sgd", learning_rate=1e-30, batch_size=20)
    exact = x.double().mean().item() + math.log(2)
    assert [r["train/loss"] for r in result.records] == pytest.approx([exact, exact], rel=1e-6)
    reference = train(what=binary(43), learning_rate=0.01).records
    monkeypatch.setattr(trainer_module, "WINDOW", 100)
    again = train(what=binary(43), learning_rate=0.01).records
    assert [{**r, "seconds": 0} for r in reference] == [{**r, "seconds": 0} for r in again]


def test_validation_is_the_elbo_of_the_held_out_data():
    result = train()
    estimate = elbo(result.model, result.guide, binary(11, seed=2), num_particles=2000)
    assert result.records[-1]["validation/kl/z"] == pytest.approx(estimate.to_dict()["kl"]["z"], rel=1e-4)
    likelihood = train(objective=ELBO(num_particles=500), learning_rate=1e-12).records[-1]
    start = elbo(*pair(), binary(11, seed=2), num_particles=2000).to_dict()
    assert likelihood["validation/loss"] == pytest.approx(-start["elbo"], abs=0.05)


# ---------------------------------------------------------------------------- early stopping
def overfitting(**more):
    """Validation data from the opposite distribution: after a while training only harms."""
    x = (torch.rand(48, 6, generator=torch.Generator().manual_seed(1)) < 0.1).float()
    held_out = Split({"x": 1 - x[:10]})
    options = {"epochs": 30, "learning_rate": 0.03, "patience": 3, **more}
    return train(what=Data(Split({"x": x}), held_out), **options), held_out


@pytest.mark.parametrize("more", [{}, {"ema_decay": 0.9}])
def test_early_stopping_returns_the_best_weights(more):
    result, _ = overfitting(**more)
    losses = [r["validation/loss"] for r in result.records]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert result.epochs == len(losses) == best + 1 + 3 < 30
    assert result.best_epoch == best + 1 and losses[-1] > losses[best] + 0.1
    assert "no better validation loss for 3 epochs" in result.stopped
    assert [r["epoch"] for r in result.records if r.get("best")][-1] == result.best_epoch
    shorter, _ = overfitting(**{**more, "epochs": best + 1, "patience": None})
    assert same(weights(result), weights(shorter))


def test_the_best_weights_reproduce_the_best_loss(monkeypatch):
    trainers = []
    init = Trainer.__init__
    monkeypatch.setattr(Trainer, "__init__", lambda self, *a, **k: (trainers.append(self), init(self, *a, **k))[1])
    result, _ = overfitting()
    best = result.records[result.best_epoch - 1]["validation/loss"]
    assert trainers[0].validate()["loss"] == pytest.approx(best, rel=1e-6)


def test_patience_starts_after_the_warm_up():
    result, _ = overfitting(kl_weight=Linear(0.0, 1.0, 8))
    losses = [r["validation/loss"] for r in result.records]
    assert min(losses) == min(losses[:7]), "the case should be one where warm-up epochs are the best"
    assert result.best_epoch >= 8 and result.epochs >= 8 + 3
    assert not any("best" in r for r in result.records[:7])


def test_warm_up_longer_than_training_is_said_once(caplog):
    with caplog.at_level(logging.WARNING):
        train(kl_weight=Linear(0.0, 1.0, 12), patience=1)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "epoch 12" in line and "3 epochs" in line and "0.25" in line
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        train(kl_weight=Linear(0.0, 1.0, 3))
    assert not caplog.records


# ---------------------------------------------------------------------------- averages and clipping
def test_average_of_weights(monkeypatch):
    """By hand: d * average + (1 - d) * weights after every step, from the first weights on."""
    programs = pair()
    decay, parameters = 0.7, [p for m in programs for p in m.parameters()]
    history = [[p.detach().clone() for p in parameters]]
    one_step = Trainer._one_step

    def keeping(self, epoch):
        row = one_step(self, epoch)
        history.append([p.detach().clone() for p in parameters])
        return row

    monkeypatch.setattr(Trainer, "_one_step", keeping)
    train(programs, ema_decay=decay)
    average = history[0]
    for now in history[1:]:
        average = [decay * a + (1 - decay) * b for a, b in zip(average, now, strict=True)]
    assert len(history) == 16
    for ours, theirs, last in zip(parameters, average, history[-1], strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(ours, last, rtol=1e-4)


def test_clipping_bounds_the_step():
    """Plain gradient descent: a step is rate * gradient, so its length shows the gradient that was applied."""

    def step_length(clip_norm):
        programs = pair()
        parameters = [p for m in programs for p in m.parameters()]
        before = [p.detach().clone() for p in parameters]
        train(programs, what=binary(8), epochs=1, optimizer="sgd", learning_rate=1.0, clip_norm=clip_norm)
        moved = [(p.detach() - b).flatten() for p, b in zip(parameters, before, strict=True)]
        return torch.cat(moved).norm().item()

    free = step_length(None)
    assert free > 0.2
    assert step_length(0.1) == pytest.approx(0.1, rel=1e-3)
    assert step_length(10 * free) == pytest.approx(free, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adamax", "sgd"])
def test_optimizers(optimizer):
    options = {"momentum": 0.9} if optimizer == "sgd" else {"betas": [0.5, 0.9], "eps": 1e-4}
    result = train(optimizer=optimizer, optimizer_options=options, epochs=8)
    assert result.records[-1]["train/loss"] < result.records[0]["train/loss"] - 0.1


# ---------------------------------------------------------------------------- seeds and isolation
def test_seeds():
    first = weights(train(seed=1))
    torch.rand(7)  # the global generator's state does not matter
    assert same(first, weights(train(seed=1)))
    assert not same(first, weights(train(seed=2)))


def test_global_state_is_untouched():
    pyro.clear_param_store()
    pyro.get_param_store()["mine"] = torch.ones(2)
    torch.manual_seed(11)
    state, flag = torch.get_rng_state(), pyro.settings.get("validate_distributions_pyro")
    modules = pyro.settings.get("module_local_params")
    try:
        train(patience=1, ema_decay=0.5)
        assert torch.equal(torch.get_rng_state(), state)
        assert list(pyro.get_param_store().keys()) == ["mine"]
        assert pyro.settings.get("validate_distributions_pyro") == flag
        assert pyro.settings.get("module_local_params") == modules
        with pytest.raises(Exception, match="epochs"):
            train(epochs=0)
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        pyro.clear_param_store()


def test_two_experiments_side_by_side(monkeypatch):
    """A second training in the middle of the first changes neither."""
    alone = weights(train(seed=1)), weights(train(pair(seed=8), seed=2))
    one_step = Trainer._one_step
    inner = []

    def nesting(self, epoch):
        if self.seed == 1 and self.at.step == 4 and not inner:
            inner.append(weights(train(pair(seed=8), seed=2)))
        return one_step(self, epoch)

    monkeypatch.setattr(Trainer, "_one_step", nesting)
    outer = weights(train(seed=1))
    assert same(outer, alone[0]) and same(inner[0], alone[1])


# ---------------------------------------------------------------------------- what can be trained on what
def test_forms_of_data():
    x = binary()
    expected = weights(train(what=x))
    for what in ({"x": x}, {"x": x, "y": torch.arange(40)}, Split({"x": x}), Data(Split({"x": x})), x.bool()):
        assert same(weights(train(what=what)), expected)


def test_dynamic_binarization_draws_anew(monkeypatch):
    seen = []
    one_step = Trainer._one_step

    def keeping(self, epoch):
        batch = self.batches.batch(self.at.epoch, self.at.index)  # a pure function: asking again changes nothing
        seen.append((self.at.epoch, batch["x"].sum().item()))
        return one_step(self, epoch)

    grey = Split({"x": torch.full((40, 6), 128, dtype=torch.uint8)}, binarization="dynamic")
    undisturbed = weights(train(what=grey))
    monkeypatch.setattr(Trainer, "_one_step", keeping)
    assert same(weights(train(what=grey)), undisturbed)
    totals = [sum(s for e, s in seen if e == epoch) for epoch in range(3)]
    assert len(set(totals)) > 1 and all(80 < t < 160 for t in totals)  # Bernoulli(1/2) of 240


def test_frozen_parameters():
    programs = pair()
    frozen = programs[0].decoder
    for p in frozen.parameters():
        p.requires_grad_(False)
    before = [p.clone() for p in frozen.parameters()]
    moving = [p.detach().clone() for p in programs[1].parameters()]
    train(programs, ema_decay=0.5, clip_norm=1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, frozen.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(moving, programs[1].parameters(), strict=True))


def test_plain_functions_with_params():
    """Known answer: x ~ N(mu, 1) with a latent that does nothing; mu becomes the data's mean."""
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(1)) + torch.tensor([3.0, -1.0])

    def model(x):
        mu = pyro.param("mu", torch.zeros(2))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, scale))

    result = train((model, guide), what=x, epochs=150, batch_size=64, learning_rate=0.05)
    named = {n.rsplit(".")[-1]: p for n, p in [*result.model.named_parameters(), *result.guide.named_parameters()]}
    torch.testing.assert_close(named["mu"].detach(), x.mean(0), rtol=0, atol=0.02)
    assert named["scale"].exp().item() == pytest.approx(1.0, abs=0.02)
    assert result.records[-1]["train/kl/z"] == pytest.approx(0.0, abs=1e-3)


def test_last_batch_is_smaller_and_seen():
    result = train(what=binary(43))
    assert result.steps == 3 * 6
    assert train(what=binary(5)).steps == 3  # fewer data than a batch holds


@pytest.mark.parametrize("objective", [ELBO(num_particles=3), IWAE(num_particles=3, gradient="stl")])
def test_bfloat16_autocast(objective):
    result = train(objective=objective, precision="bf16-mixed", epochs=6, learning_rate=0.02)
    exact = train(objective=objective, epochs=6, learning_rate=0.02)
    ours, theirs = result.records[-1]["validation/loss"], exact.records[-1]["validation/loss"]
    assert ours == pytest.approx(theirs, rel=0.03) and ours != theirs
    assert all(p.dtype == torch.float32 for p in result.model.parameters())
