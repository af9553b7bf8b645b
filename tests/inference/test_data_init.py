"""Data-dependent initialization: unit statistics on the batch, once in a layer's life."""

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from pyro_vae import fit
from pyro_vae.guides import BIVAGuide
from pyro_vae.inference.data_init import MIN_SCALE, initialize_from_data
from pyro_vae.inference.weights import copy_common
from pyro_vae.models import BIVA
from pyro_vae.networks.features import FeatureMap
from pyro_vae.program import as_programs


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
