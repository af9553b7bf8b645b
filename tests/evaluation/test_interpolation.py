"""Paths through latent space and what they decode to."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.errors import InputError
from pyro_vae.evaluation.latent_space import decode_path, interpolate


def test_linear_is_a_weighted_mean_with_both_ends():
    a, b = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    path = interpolate(a, b, 5, "linear")
    assert path.shape == (3, 5, 2, 4)
    for i, t in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        torch.testing.assert_close(path[:, i], (1 - t) * a + t * b)


def test_spherical_between_orthogonal_unit_vectors():
    a, b = torch.eye(4)[:2], torch.eye(4)[2:]
    path = interpolate(a, b, 3, "spherical")
    torch.testing.assert_close(path[:, 1], (a + b) / math.sqrt(2))
    torch.testing.assert_close(path[:, 0], a)
    torch.testing.assert_close(path[:, 2], b)
    third = interpolate(a, b, 4)[:, 1]  # 30 degrees
    torch.testing.assert_close(third, math.sqrt(3) / 2 * a + 0.5 * b)


def test_spherical_keeps_the_norm_and_turns_at_constant_speed():
    a, b = (torch.nn.functional.normalize(torch.randn(5, 12, dtype=torch.float64), dim=-1) for _ in range(2))
    path = interpolate(7 * a, 7 * b, 9)
    torch.testing.assert_close(path.norm(dim=-1), torch.full((5, 9), 7.0, dtype=torch.float64))
    turns = ((path[:, 1:] * path[:, :-1]).sum(-1) / 49).arccos()
    torch.testing.assert_close(turns, turns[:, :1].expand(5, 8))
    torch.testing.assert_close(turns.sum(1), (a * b).sum(-1).arccos())


def test_spherical_where_the_angle_says_nothing_is_linear():
    a = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[3.0, 6.0], [-1.0, -2.0], [1.0, 0.0], [0.0, 0.0]])  # parallel, opposite, from the origin
    torch.testing.assert_close(interpolate(a, b, 4, "spherical"), interpolate(a, b, 4, "linear"))


@pytest.mark.parametrize("kind", ["linear", "spherical"])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_the_ends_are_the_points_to_the_last_bit(kind, scale):
    a, b = scale * torch.randn(50, 3, 4), torch.randn(50, 3, 4) / scale
    a[:5], b[5:10] = -0.0, 0.0
    b[10:15], b[15:20] = 3 * a[10:15], -2 * a[15:20]  # parallel, opposite
    b[20:25] = -a[20:25] + 1e-7 * scale * torch.randn(5, 3, 4)  # nearly opposite
    path = interpolate(a, b, 7, kind)
    assert path[:, 0].numpy().tobytes() == a.numpy().tobytes()
    assert path[:, -1].numpy().tobytes() == b.numpy().tobytes()
    assert path.isfinite().all()


def test_spherical_between_points_of_different_norms():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    middle = interpolate(a, b, 3)[0, 1]  # sin 45 / sin 90 of each
    torch.testing.assert_close(middle, torch.tensor([1.0, 4.0]) / math.sqrt(2))


def test_every_pair_has_its_own_angle():
    a, b = torch.randn(6, 3), torch.randn(6, 3)
    each = [interpolate(a[i : i + 1], b[i : i + 1], 5) for i in range(6)]
    torch.testing.assert_close(interpolate(a, b, 5), torch.cat(each))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 3), 5, "sperical"), "unknown kind .*'sperical'.*Did you mean 'spherical'"),
        ((torch.zeros(2, 3), torch.zeros(2, 3), 1), "at least 2"),
        ((torch.zeros(2, 3), torch.zeros(2, 3), 0), "steps must be a positive integer"),
        ((torch.zeros(2, 3), torch.zeros(2, 4), 3), r"one shape .*\(2, 3\) and \(2, 4\)"),
        ((torch.zeros(2, 3).long(), torch.zeros(2, 3).long(), 3), "integers"),
    ],
)
def test_errors(arguments, words):
    with pytest.raises(InputError, match=words):
        interpolate(*arguments)


def two_layers(x=None, y=None, num_samples=1):
    with pyro.plate("data", num_samples, dim=-1):
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z1 = pyro.sample("z1", dist.Normal(3 * z2, 1.0).to_event(1))
        mean = z1 if y is None else z1 + y[:, None]
        return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def test_a_path_is_decoded_with_one_noise_for_the_other_latents():
    a, b = torch.randn(4, 2), torch.randn(4, 2)
    path = interpolate(a, b, 6, "linear")
    torch.testing.assert_close(decode_path(two_layers, {"z1": path}), path)
    through_top = decode_path(two_layers, {"z2": path}, seed=5)
    noise = through_top - 3 * path  # z1's
    torch.testing.assert_close(noise, noise[:, :1].expand(4, 6, 2))
    assert noise[:, 0].std() > 0.3
    assert not torch.equal(through_top, decode_path(two_layers, {"z2": path}, seed=6))
    y = torch.arange(4.0)
    torch.testing.assert_close(decode_path(two_layers, {"z1": path}, batch={"y": y}), path + y[:, None, None])


def test_paths_of_different_lengths_are_refused():
    with pytest.raises(InputError, match=r"one number of steps.*'z1': 3, 'z2': 4"):
        decode_path(two_layers, {"z1": torch.zeros(2, 3, 2), "z2": torch.zeros(2, 4, 2)})
    with pytest.raises(InputError, match="got nothing"):
        decode_path(two_layers, {})
