"""Batch norm's statistics: those of the weights that are measured and kept, over the training data."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import fit
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo
from pyro_vae.guides import LadderGuide
from pyro_vae.inference import ELBO
from pyro_vae.inference.batch_norm import averaging, norm_layers
from pyro_vae.models import HierarchicalVAE
from pyro_vae.networks.batch_norm import FeatureNorm


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
