"""Batch norm's statistics: those of the weights that are measured and kept, over the training data."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import fit
from pyro_vae.data import Data, Split
from pyro_vae.distributions import UniformCodes
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo
from pyro_vae.guides import LadderGuide
from pyro_vae.models import HierarchicalVAE
from pyro_vae.networks import VectorQuantizer
from pyro_vae.networks.layers import FeatureNorm
from pyro_vae.objectives import ELBO
from pyro_vae.programs.handlers import penalty
from pyro_vae.programs.program import as_programs
from pyro_vae.training.averages import averaging, norm_layers, recompute_statistics
from pyro_vae.training.checkpoint import named_weights
from pyro_vae.training.loop import Trainer


class Normed(nn.Module):
    """A model whose only layer before z sees the data alone, so that its statistics can be known."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 3), FeatureNorm(3)
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        loc, raw = self.head(self.norm(self.linear(x))).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1))


def model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(torch.cat([z, -z], -1), 1.0).to_event(1), obs=x)


def trained(**options):
    torch.manual_seed(3)
    guide, x = Normed(), torch.randn(60, 4) * 3 + 5
    data = Data(Split({"x": x}), validation=Split({"x": x[:20]}))
    result = fit(model, guide, data, batch_size=20, learning_rate=0.02, progress=False, device="cpu", **options)
    return result.guide, x


def check(guide, x):
    """The layer's statistics are those of the whole training data under the weights that are returned."""
    with torch.no_grad():
        h = guide.linear(x)
    torch.testing.assert_close(guide.norm.running_mean, h.mean(0), rtol=1e-4, atol=1e-4)
    # three batches' variances, each without the mean's part, so about right only
    torch.testing.assert_close(guide.norm.running_var, h.var(0), rtol=0.15, atol=0)
    assert guide.norm.momentum == 0.1


def test_after_training_the_statistics_are_those_of_the_training_data():
    check(*trained(epochs=5))


def test_with_a_moving_average_of_the_weights_they_are_the_averages():
    check(*trained(epochs=5, ema_decay=0.9))


def test_with_the_weights_of_the_best_epoch_they_are_its():
    check(*trained(epochs=8, patience=3))


def test_recorded_steps_give_the_same():
    eager, _ = trained(epochs=4, compile="off")
    recorded, x = trained(epochs=4, compile="graph")
    check(recorded, x)
    torch.testing.assert_close(eager.norm.running_mean, recorded.norm.running_mean, rtol=1e-4, atol=1e-4)


def test_validation_sees_the_averaged_weights_with_their_own_statistics():
    """Training's own moving statistics would be those of the raw weights: far off after a few large steps."""
    torch.manual_seed(0)
    x = torch.randn(400, 6) @ torch.randn(6, 6)
    m = HierarchicalVAE((6,), (3, 2), (8, 8), 1, likelihood=_gaussian(), batch_norm=True)
    data = Data(Split({"x": x}), validation=Split({"x": x}))
    result = fit(m, LadderGuide(m, (8, 8), 1, batch_norm=True), data, epochs=30, batch_size=100, learning_rate=0.01,
                 ema_decay=0.95, progress=False, device="cpu")  # fmt: skip
    last = result.records[-1]
    assert abs(last["validation/loss"] - last["train/loss"]) < 0.5  # the same data


class Counting(nn.Module):
    """Counts its calls in training mode, in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, h):
        if self.training:
            self.count += 1
        return h


class Frozen(nn.BatchNorm1d):
    """Stays in evaluation mode."""

    def train(self, mode=True):
        return super().train(False)


class Codes(nn.Module):
    """A model of codes, with a codebook that is a moving average, and batch norm and dropout in the decoder."""

    def __init__(self):
        super().__init__()
        self.quantizer = VectorQuantizer(16, 3, grid_dim=1, k_means=False, decay=0.9)
        self.decoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), Counting(), nn.Linear(8, 6))

    def forward(self, x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x)):
            codes = pyro.sample("codes", UniformCodes(16, (2,)))
            z = pyro.sample("z", dist.Delta(self.quantizer.embed(codes), event_dim=2))
            return pyro.sample("x", dist.Normal(self.decoder(z.flatten(-2)), 1.0).to_event(1), obs=x)


class Encoder(nn.Module):
    """A guide of point masses, with all that moves in training mode."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        first = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8))
        norms = nn.BatchNorm1d(8), Frozen(8), nn.BatchNorm1d(8, momentum=0.3)
        self.encoder = nn.Sequential(first, norms[0], Counting(), norms[1], nn.Dropout(0.3), norms[2], nn.Linear(8, 6))

    def forward(self, x):
        q = self.model.quantizer(self.encoder(x).unflatten(-1, (3, 2)))
        with pyro.plate("data", len(x)):
            pyro.sample("codes", dist.Delta(q.codes, event_dim=1))
            pyro.sample("z", dist.Delta(q.z, event_dim=2))
            penalty("quantization", q.penalty)


def coded(validation, **options):
    torch.manual_seed(1)
    model, x = Codes(), torch.randn(60, 6)
    options = {"batch_size": 20, "seed": 3, "learning_rate": 0.02, "progress": False, "device": "cpu", **options}
    data = Data(Split({"x": x[:40]}), validation=Split({"x": x[40:]}) if validation else None)
    return fit(model, Encoder(model), data, **options), x[40:]


def buffers(*programs):
    return {name: value.clone() for name, value in named_weights(*programs).items()}


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_validation_moves_nothing_but_the_statistics_of_norm_layers(ema_decay, monkeypatch):
    moved, validate = [], Trainer.validate

    def watched(self):
        before = buffers(self.model, self.guide)
        result = validate(self)
        after = buffers(self.model, self.guide)
        moved.append({name for name in before if not torch.equal(before[name], after[name])})
        return result

    monkeypatch.setattr(Trainer, "validate", watched)
    result, _ = coded(True, epochs=2, ema_decay=ema_decay)
    names = ["model.decoder.1", "guide.encoder.1", "guide.encoder.5"]
    expected = {f"{name}.{part}" for name in names for part in ("running_mean", "running_var")}
    assert len(moved) == 2
    assert all(m - {f"{name}.num_batches_tracked" for name in names} == expected for m in moved)
    assert result.guide.encoder[3].num_batches_tracked == 0 and result.guide.encoder[2].count == 4
    without, _ = coded(False, epochs=2, ema_decay=ema_decay)
    ours, theirs = buffers(result.model, result.guide), buffers(without.model, without.guide)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_pair_that_is_returned_is_the_one_that_was_best():
    result, held_out = coded(True, epochs=30, patience=4, learning_rate=0.1)
    assert result.best_epoch < result.epochs
    measured = -elbo(result.model, result.guide, held_out).mean
    assert measured == pytest.approx(result.records[result.best_epoch - 1]["validation/loss"], rel=1e-5)


def test_statistics_are_of_what_is_measured_without_dropout():
    torch.manual_seed(0)
    guide, x = Normed(), torch.randn(30, 4)
    guide.norm = nn.Sequential(nn.Dropout(0.5), FeatureNorm(3))
    recompute_statistics(*as_programs(model, guide), [{"x": x}])
    torch.testing.assert_close(guide.norm[1].running_mean, guide.linear(x).mean(0).detach())
    torch.testing.assert_close(guide.norm[1].running_var, guide.linear(x).var(0).detach())
    assert all(module.training for module in guide.modules())


class Remembering(FeatureNorm):
    """Keeps the mode that it was called in."""

    def __init__(self, features):
        super().__init__(features)
        self.modes = []

    def forward(self, h):
        self.modes.append((self.training, len(h)))
        return super().forward(h)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_validation_is_measured_in_evaluation_mode(ema_decay):
    """51 held-out data in batches of 50: in training mode the last one alone could not even be run."""
    guide, x = Normed(), torch.randn(101, 4) * 3 + 5
    guide.norm = Remembering(3)
    data = Data(Split({"x": x[:50]}), validation=Split({"x": x[50:]}))
    fit(model, guide, data, epochs=2, batch_size=50, ema_decay=ema_decay, progress=False, device="cpu", compile="off")
    assert (False, 1) in guide.norm.modes and (True, 1) not in guide.norm.modes


def test_validation_loss_is_the_elbo_of_the_weights():
    torch.manual_seed(3)
    guide, x = Normed(), torch.randn(400, 4) * 3 + 5
    data = Data(Split({"x": x}), validation=Split({"x": x[:8]}))  # few: batch statistics would be their own
    options = {"epochs": 3, "batch_size": 100, "learning_rate": 1e-2, "progress": False, "device": "cpu"}
    result = fit(model, guide, data, objective=ELBO(num_particles=500), **options)
    measured = -elbo(model, guide, x[:8], num_particles=2000).mean
    assert result.records[-1]["validation/loss"] == pytest.approx(measured, abs=0.1)


def test_double_precision():
    assert torch.isfinite(trained(epochs=2, precision="64-true")[0].norm.running_var).all()


@pytest.mark.parametrize(("size", "what"), [(1, "the batches have 1"), (59, "the last has 1")])
def test_a_batch_of_one_datum_is_refused(size, what):
    with pytest.raises(InputError, match=f"batch norm needs at least 2 data in every batch.*{what}"):
        fit(model, Normed(), torch.randn(60, 4), batch_size=size, epochs=1, progress=False, device="cpu")


def test_averaging_puts_momenta_back_when_something_fails():
    layers = norm_layers(
        nn.Sequential(FeatureNorm(2), nn.BatchNorm2d(3, momentum=0.3), nn.BatchNorm1d(2, track_running_stats=False))
    )
    assert len(layers) == 2
    try:
        with averaging(layers):
            raise ValueError
    except ValueError:
        pass
    assert [layer.momentum for layer in layers] == [0.1, 0.3]


def test_features_are_normalized_over_data_and_particles_together():
    h = torch.randn(5, 7, 3) * 2 + 1  # (particles, data, features)
    out = FeatureNorm(3)(h)
    torch.testing.assert_close(out.mean((0, 1)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.var((0, 1), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def _gaussian():
    from pyro_vae.likelihoods import Gaussian

    return Gaussian(1.0)
