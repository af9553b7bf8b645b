"""Reconstructions by level: what is told, what is held at a mean, what is drawn."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from code_pairs import OneLevel, TwoLevels, bottom_up, images, three_layers

from pyro_vae.data import Split
from pyro_vae.evaluation.generate import reconstruct
from pyro_vae.evaluation.hierarchy import Level, average_values, levels_of, reconstruct_by_level


def test_levels_are_what_the_model_draws_with_its_functions():
    two = TwoLevels()
    found = levels_of(two.model, two.guide, images())
    assert found == [Level("codes_top", ("z_top",), True), Level("codes_bottom", ("z_bottom",), True)]
    assert all(level.can_be_left_out for level in found)
    one = OneLevel()
    assert [level.sites for level in levels_of(one.model, one.guide, images())] == [("codes", "z")]


def test_what_is_left_out_is_held_at_the_mean_of_its_vectors():
    two, split = TwoLevels(), images(23)
    x = split.tensors["x"]
    told = two.quantized(x)
    found = levels_of(two.model, two.guide, split)
    average = average_values(two.model, two.guide, split, found[1:], batch_size=5)
    assert set(average) == {"codes_bottom", "z_bottom"}
    torch.testing.assert_close(average["z_bottom"], told["z_bottom"].mean(0))
    assert torch.equal(average["codes_bottom"], told["codes_bottom"].mode(0).values)
    few = split.batch(slice(0, 6))
    top_only, everything = reconstruct_by_level(two.model, two.guide, few, found, average)
    held = told["z_bottom"].mean(0).expand(6, -1, -1, -1)
    torch.testing.assert_close(top_only, two.mean(told["z_top"][:6], held))
    assert torch.equal(everything, reconstruct(two.model, two.guide, few))
    torch.testing.assert_close(everything, two.mean(told["z_top"][:6], told["z_bottom"][:6]))
    again = reconstruct_by_level(two.model, two.guide, few, found, average, seed=7)
    assert torch.equal(top_only, again[0])  # nothing is drawn


def test_no_datum_s_own_codes_are_let_through():
    """A model that looks at the codes themselves shows what it was given for the level that is left out."""
    two = TwoLevels()

    def model(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            top = pyro.sample("codes_top", dist.Categorical(torch.ones(2, 2, 5)).to_event(2))
            bottom = pyro.sample("codes_bottom", dist.Categorical(torch.ones(4, 4, 8)).to_event(2))
            pyro.sample("z_bottom", dist.Delta(two.bottom[bottom].movedim(-1, -3), event_dim=3))
            mean = (bottom.float().mean((-2, -1)) + 100 * top[..., 0, 0])[..., None, None, None].expand(-1, 1, 8, 8)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(3), obs=x)

    def guide(x):
        told = two.quantized(x)
        with pyro.plate("data", len(x), dim=-1):
            for name in ("codes_top", "codes_bottom", "z_bottom"):
                pyro.sample(name, dist.Delta(told[name], event_dim=2 if name.startswith("codes") else 3))

    split = images(12)
    found = levels_of(model, guide, split)
    assert [level.can_be_left_out for level in found] == [False, True]
    average = average_values(model, guide, split, found[1:])
    top_only = reconstruct_by_level(model, guide, split.batch(slice(0, 12)), found, average)[0][:, 0, 0, 0]
    codes = two.quantized(split.tensors["x"])["codes_top"][:, 0, 0]
    rest = top_only - 100 * codes
    torch.testing.assert_close(rest, average["codes_bottom"].float().mean().expand(12), rtol=0, atol=1e-3)


def test_gaussian_levels_that_are_left_out_are_drawn_given_those_above():
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    found = levels_of(three_layers, bottom_up, Split({"x": x}))
    assert [level.name for level in found] == ["z3", "z2", "z1"] and not any(level.functions for level in found)
    batch = {"x": x}
    from_top, from_two, everything = reconstruct_by_level(three_layers, bottom_up, batch, found, {}, seed=1)
    assert torch.equal(everything, x)
    noise = from_two - 2 * (x + 1)  # z1 | z2 = x + 1
    assert abs(noise.std() - 0.1) < 5 * 0.1 / 8000**0.5 / 1.4 and abs(noise.mean()) < 5 * 0.1 / 8000**0.5
    noise = from_top - 4 * (x + 2)  # z1 | z3 = x + 2, with deviation sqrt(0.1² + (2 * 0.1)²)
    assert noise.std() == pytest.approx(0.05**0.5, rel=0.05)
    (two_levels,) = reconstruct_by_level(three_layers, bottom_up, batch, found, {}, counts=[2], seed=1)
    assert torch.equal(two_levels, from_two)
