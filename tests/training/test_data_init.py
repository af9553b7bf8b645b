"""Data-dependent initialization: unit statistics on the batch, once in a layer's life."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from pyro_vae import fit
from pyro_vae.data import Split
from pyro_vae.distributions import UniformCodes
from pyro_vae.guides import BIVAGuide
from pyro_vae.models import BIVA
from pyro_vae.networks import VectorQuantizer
from pyro_vae.networks.features import FeatureMap
from pyro_vae.programs.program import as_programs
from pyro_vae.training import batches as batches_module
from pyro_vae.training import data_init
from pyro_vae.training.checkpoint import copy_common
from pyro_vae.training.data_init import MIN_SCALE, awaits_data, initialize_from_data, number_of_data


def pair(strides):
    torch.manual_seed(0)
    widths = (6, 6, 4)
    model = BIVA((1, 9, 7), (3, 2, 2), widths, strides, num_blocks=1)
    return model, BIVAGuide(model, num_blocks=1), {"x": (torch.rand(64, 1, 9, 7) > 0.5).float()}


def test_units_have_mean_zero_and_variance_one():
    for strides in (None, (2, 1, 2)):
        model, guide, batch = pair(strides)
        programs = as_programs(model, guide)
        first = next(m for m in guide.upward.modules() if isinstance(m, FeatureMap))
        assert initialize_from_data(*programs, batch) > 10
        with torch.no_grad():
            out = first(nn.functional.elu(batch["x"]))  # the first layer sees x through the activation
        dims = [i for i in range(out.dim()) if i != 1]
        torch.testing.assert_close(out.mean(dims), torch.zeros(6), atol=1e-4, rtol=0)
        torch.testing.assert_close(out.std(dims, correction=0), torch.ones(6), atol=1e-4, rtol=0)


def test_it_is_done_once():
    model, guide, batch = pair(None)
    programs = as_programs(model, guide)
    assert initialize_from_data(*programs, batch) > 0
    before = {n: v.clone() for n, v in guide.state_dict().items()}
    assert initialize_from_data(*programs, batch) == 0
    assert all(torch.equal(v, before[n]) for n, v in guide.state_dict().items())


def test_training_starts_with_it_and_going_on_keeps_it():
    model, guide, batch = pair(None)
    options = {"epochs": 1, "batch_size": 64, "learning_rate": 1e-9, "progress": False, "device": "cpu"}
    fit(model, guide, batch, **options)
    layer = guide.upward[0].blocks[0].first.linear
    assert bool(layer.initialized)
    gain = layer.parametrizations.weight.original0.clone()
    fit(model, guide, {"x": 0.1 * batch["x"]} | {"x": batch["x"][:32]}, **options)
    torch.testing.assert_close(layer.parametrizations.weight.original0, gain, rtol=1e-6, atol=1e-7)


def test_a_constant_unit_is_not_blown_up():
    layer = weight_norm(nn.Linear(3, 2))
    layer.register_buffer("initialized", torch.tensor(False))
    before = layer.parametrizations.weight.original0.detach().clone()

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            self.layer(torch.ones(len(x), 3))

    initialize_from_data(*as_programs(Constant(), lambda x: None), {"x": torch.zeros(4, 1)})
    torch.testing.assert_close(layer.parametrizations.weight.original0, before / MIN_SCALE)


def test_a_single_datum_gives_no_nan():
    model, guide, batch = pair(None)
    initialize_from_data(*as_programs(model, guide), {"x": batch["x"][:1]})
    assert all(v.isfinite().all() for v in (*model.state_dict().values(), *guide.state_dict().values()))


def test_layers_are_taken_over_from_another_pair_whole_or_not_at_all():
    small = BIVA((9,), (3, 2), (6, 5), None, num_blocks=1)
    large = BIVA((9,), (3, 2), (7, 5), None, num_blocks=1)
    initialize_from_data(*as_programs(small, BIVAGuide(small, num_blocks=1)), {"x": torch.rand(50, 9)})
    names = set(copy_common(dict(large.state_dict(keep_vars=True)), dict(small.state_dict(keep_vars=True))))
    for name, layer in large.named_modules():
        if hasattr(layer, "initialized"):
            taken = {f"{name}.parametrizations.weight.original{i}" in names for i in (0, 1)}
            assert taken == {bool(layer.initialized)} == {f"{name}.bias" in names}
    assert bool(large.top.linear.initialized) and not bool(large.inject[0].linear.initialized)


def test_the_random_state_is_left_alone():
    model, guide, batch = pair(None)
    state = torch.get_rng_state()
    initialize_from_data(*as_programs(model, guide), batch)
    assert torch.equal(torch.get_rng_state(), state)


# ------------------------------------------------------------------------------ modules that do it themselves
class Centered(nn.Module):
    """Subtracts the mean of its first input."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("initialized", torch.tensor(False))
        self.calls = 0

    def initialize(self, x):
        self.calls += 1
        self.mean.copy_(x.mean())

    def forward(self, x):
        return x - self.mean


class Scaled(nn.Module):
    """Divides by the deviation of its first input; says by a plain attribute that it awaits one."""

    def __init__(self):
        super().__init__()
        self.scale, self.initialized, self.calls = 1.0, False, 0

    def initialize(self, x):
        self.calls += 1
        self.scale = x.std()

    def forward(self, x):
        return x / self.scale


def test_modules_are_initialized_in_the_order_of_calls():
    center, scale, unused = Centered(), Scaled(), Centered()
    layer = weight_norm(nn.Linear(3, 2))
    layer.register_buffer("initialized", torch.tensor(False))
    seen = []

    def guide(x):
        seen.append(layer(scale(center(center(x)))))
        return unused if x is None else None

    programs = as_programs(lambda x: None, guide)
    x = 5 + 3 * torch.randn(200, 3)
    assert awaits_data(*programs) and initialize_from_data(*programs, {"x": x}) == 3
    torch.testing.assert_close(center.mean, x.mean())
    torch.testing.assert_close(scale.scale, x.std())  # of centered data
    torch.testing.assert_close(seen[-1].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    assert center.calls == scale.calls == 1 and bool(center.initialized) and scale.initialized is True
    assert not unused.initialized and awaits_data(*programs)  # it was not called
    assert initialize_from_data(*programs, {"x": x}) == 0


def codes_pair(**options):
    """Six numbers as two codes of three."""
    torch.manual_seed(0)
    quantizer, encoder, decoder = VectorQuantizer(5, 3, 1, **options), nn.Linear(6, 6), nn.Linear(6, 6)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.quantizer, self.decoder = quantizer, decoder

        def forward(self, x=None, num_samples=1):
            with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
                codes = pyro.sample("codes", UniformCodes(5, (2,)))
                z = pyro.sample("z", dist.Delta(self.quantizer.embed(codes), event_dim=2))
                return pyro.sample("x", dist.Normal(self.decoder(z.flatten(-2)), 1.0).to_event(1), obs=x)

    class Guide(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.encoder = model, encoder

        def forward(self, x):
            quantized = self.model.quantizer(self.encoder(x).unflatten(-1, (3, 2)))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("codes", dist.Delta(quantized.codes, event_dim=1))
                pyro.sample("z", dist.Delta(quantized.z, event_dim=2))

    model = Model()
    return model, Guide(model)


OPTIONS = {"epochs": 1, "batch_size": 20, "learning_rate": 1e-3, "progress": False, "device": "cpu"}


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_codebook_starts_at_k_means_of_the_encoders_outputs(update):
    model, guide = codes_pair(update=update)
    x, state = torch.randn(60, 6), torch.get_rng_state()
    programs = as_programs(model, guide)
    assert initialize_from_data(*programs, {"x": x}) == 1
    assert torch.equal(torch.get_rng_state(), state) and model.quantizer.training
    with torch.no_grad():
        rows = guide.encoder(x).unflatten(-1, (3, 2)).movedim(1, -1).reshape(-1, 3)  # (120, 3)
    book = model.quantizer.codebook.detach()
    codes = torch.cdist(rows, book).argmin(1)
    means = torch.stack([rows[codes == k].mean(0) for k in range(5)])
    torch.testing.assert_close(book, means, atol=0.05, rtol=0)  # Lloyd's fixed point, or near it


def test_fit_initializes_a_codebook_once():
    model, guide = codes_pair(decay=0.9999)
    x = torch.randn(60, 6)
    fit(model, guide, x, **OPTIONS)
    assert bool(model.quantizer.initialized)
    book = model.quantizer.codebook.clone()
    fit(model, guide, 100 + 50 * x, **OPTIONS)  # k-means on these would move it far away
    assert (model.quantizer.codebook - book).abs().max() < 5


def test_not_at_resume(tmp_path, monkeypatch):
    model, guide = codes_pair()
    fit(model, guide, torch.randn(60, 6), out=tmp_path, **OPTIONS)
    monkeypatch.setattr(data_init, "prime", lambda *_: pytest.fail("initialized at resume"))
    fresh, its_guide = codes_pair()
    fit(fresh, its_guide, torch.randn(60, 6), out=tmp_path, resume=True, **OPTIONS)
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in fresh.state_dict().items())


def test_a_batch_is_made_only_if_something_awaits_it(monkeypatch):
    sizes, init = [], batches_module.EpochBatches.__init__

    def counted(self, split, batch_size, *rest):
        sizes.append(batch_size)
        init(self, split, batch_size, *rest)

    monkeypatch.setattr(batches_module.EpochBatches, "__init__", counted)
    for k_means, expected in ((False, [20]), (True, [20, 500])):
        sizes.clear()
        fit(*codes_pair(k_means=k_means), torch.randn(60, 6), **OPTIONS)
        assert sizes == expected


def test_of_large_images_fewer_are_taken():
    assert number_of_data(Split({"x": torch.zeros(3, 28, 28)})) == 500
    assert number_of_data(Split({"x": torch.zeros(1, 3, 256, 256)})) == 21
