"""RankNoise: the ranks' draws, put together along the data, are the single process's."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.programs.handlers import RankNoise
from pyro_vae.programs.traces import in_particle_plate

WORLD, SIZE = 3, 4


def mean_field(x):
    with pyro.plate("data", len(x), dim=-1):
        return (
            pyro.sample("z", dist.Normal(x, 0.5).to_event(1)),  # (..., N, 2)
            pyro.sample("u", dist.Normal(x.sum(-1), 2.0)),  # (..., N)
            pyro.sample("c", dist.Categorical(logits=x)),  # (..., N)
        )


def run(program, x, particles, rank=None, dim=-2):
    def guide(x):
        if rank is None:
            return program(x)
        with RankNoise(rank, WORLD, particles, dim):
            return program(x)

    torch.manual_seed(7)
    trace = pyro.poutine.trace(in_particle_plate(guide, particles, dim)).get_trace(x)
    return trace, torch.get_rng_state()


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("dim", [-2, -3])
def test_ranks_together_draw_what_one_process_draws(particles, dim):
    x = torch.randn(WORLD * SIZE, 2)
    whole, state = run(mean_field, x, particles, dim=dim)
    parts = [run(mean_field, x[r * SIZE : (r + 1) * SIZE], particles, r, dim) for r in range(WORLD)]
    for name, axis in (("z", -2), ("u", -1), ("c", -1)):
        joined = torch.cat([trace.nodes[name]["value"] for trace, _ in parts], axis)
        torch.testing.assert_close(joined, whole.nodes[name]["value"])
        if particles > 1:
            assert joined.shape[0] == particles
            assert not torch.equal(joined[0], joined[1])
    assert all(torch.equal(s, state) for _, s in parts)  # the ranks' random states stay together


def test_without_it_ranks_would_repeat_each_other():
    x = torch.zeros(SIZE, 2)
    plain = [run(mean_field, x, 1)[0].nodes["z"]["value"] for _ in range(2)]
    assert torch.equal(*plain)
    ours = [run(mean_field, x, 1, rank)[0].nodes["z"]["value"] for rank in range(2)]
    assert not (ours[0] == ours[1]).any()


def test_gradients_reach_the_guide_and_shared_latents_are_left_alone():
    x = torch.randn(SIZE, 2, requires_grad=True)

    def guide(x):
        w = pyro.sample("w", dist.Normal(torch.tensor(0.0), 1.0))  # shared by all data: equal on all ranks
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x, 0.5).to_event(1))
        return w, z

    values = [run(guide, x, 1, rank)[0].nodes for rank in range(2)]
    assert torch.equal(values[0]["w"]["value"], values[1]["w"]["value"])
    values[1]["z"]["value"].sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))


def test_deeper_sites_with_particles_are_independent_draws_from_the_right_distribution():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(x.sum(-1), 1.0))
            pyro.sample("z2", dist.Normal(10 * z1, 0.1))

    x = torch.randn(SIZE, 2)
    noise = []
    for rank in range(2):
        nodes = run(guide, x, 2000, rank)[0].nodes
        noise.append((nodes["z2"]["value"] - 10 * nodes["z1"]["value"]) / 0.1)
        assert noise[-1].shape == (2000, SIZE)
        assert noise[-1].std().item() == pytest.approx(1, abs=0.05) and noise[-1].mean().abs() < 0.05
    assert (noise[0] * noise[1]).mean().abs() < 4 / (2000 * SIZE) ** 0.5
