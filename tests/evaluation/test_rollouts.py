"""Rollouts against true branches: a world that is known, and a hand-written loop."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.errors import InputError
from pyro_vae.evaluation import roll_out, rollout_accuracy

A, N, T, SHAPE = 3, 7, 4, (1, 2, 2)


def world(frames, actions):
    """Under the action a, a frame grows brighter by 0.1 (a + 1) a step."""
    steps = 0.1 * (actions + 1).cumsum(1)  # (n, T)
    return frames[:, -1:] + steps[..., None, None, None]


class Believer:
    """Predicts the world, with actions that it takes for others, and some noise."""

    def __init__(self, taken_for, noise=0.0):
        self.taken_for, self.noise = torch.tensor(taken_for), noise

    def __call__(self, x=None, *, frames, actions):
        with pyro.plate("data", len(actions)):
            mean = world(frames, self.taken_for[actions])
            z = pyro.sample("z", dist.Normal(torch.zeros(mean.shape), 1.0).to_event(4))
            return pyro.sample("x", dist.Normal(mean + self.noise * z, 0.1).to_event(4), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Delta(torch.zeros(x.shape), event_dim=4))


@pytest.fixture
def truth():
    frames = torch.rand(N, 2, *SHAPE)
    actions = torch.arange(A)[:, None].expand(A, T)
    return frames, torch.stack([world(frames, a.expand(N, T)) for a in actions])


def test_who_knows_the_world_is_always_right_and_who_confuses_actions_is_not(truth):
    frames, branches = truth
    right = rollout_accuracy(Believer([0, 1, 2]), {"frames": frames}, branches, guide=guide, batch_size=3)
    assert right.accuracy.tolist() == [1.0] * T and right.squared_errors.max() < 1e-10
    assert right.reconstructed.max() < 1e-10
    wrong = rollout_accuracy(Believer([0, 2, 1]), {"frames": frames}, branches)
    assert wrong.accuracy.tolist() == pytest.approx([1 / 3] * T)
    copied = (branches - frames[:, -1:]).square().mean((-1, -2, -3))
    assert torch.allclose(wrong.copied, copied)
    assert torch.allclose(wrong.psnr(wrong.copied), -10 * copied.double().mean((0, 1)).log10())


def test_it_is_what_a_loop_says(truth):
    frames, branches = truth
    model = Believer([0, 1, 2], noise=0.3)
    found = rollout_accuracy(model, {"frames": frames}, branches, seed=3, batch_size=N)
    assert 0.2 < found.hits.mean() < 1
    from pyro_vae.runtime import derived_seed

    drawn = roll_out(
        model, {"frames": frames}, torch.arange(A)[:, None].expand(A, T), seed=derived_seed(3, "contexts 0")
    )
    for a in range(A):
        for n in range(N):
            for t in range(T):
                errors = [float((drawn[a, n, t] - branches[b, n, t]).square().mean()) for b in range(A)]
                assert found.hits[a, n, t] == float(min(errors) == errors[a])
                assert found.squared_errors[a, n, t] == pytest.approx(errors[a], rel=1e-5)
    mean, error = found.accuracy_at(T)
    assert mean == pytest.approx(float(found.accuracy[-1]))
    assert error == pytest.approx(float(found.hits[..., -1].mean(0).std() / N**0.5))


def test_steps_are_counted_from_one(truth):
    frames, branches = truth
    found = rollout_accuracy(Believer([0, 1, 2], noise=0.3), {"frames": frames}, branches)
    for step in (0, -1, T + 1):
        with pytest.raises(InputError, match=f"counted from 1 to {T}, got {step}"):
            found.accuracy_at(step)


def test_branches_that_are_the_same_share_the_hit(truth):
    frames, branches = truth
    branches[1] = branches[0]  # at a wall
    found = rollout_accuracy(Believer([0, 0, 2]), {"frames": frames}, branches)
    assert found.hits[:, 0, 0].tolist() == [0.5, 0.5, 1.0]


def test_uint8_is_as_floats(truth):
    frames, branches = ((value / 3 * 255).round() for value in truth)
    floats = rollout_accuracy(Believer([0, 1, 2]), {"frames": frames / 255}, branches / 255)
    bytes_ = rollout_accuracy(Believer([0, 1, 2]), {"frames": frames / 255}, branches.to(torch.uint8))
    assert torch.equal(floats.hits, bytes_.hits) and torch.equal(floats.squared_errors, bytes_.squared_errors)


def test_what_does_not_fit_is_refused(truth):
    frames, branches = truth
    model = Believer([0, 1, 2])
    with pytest.raises(InputError, match="of the N contexts"):
        rollout_accuracy(model, {"frames": frames[:3]}, branches)
    with pytest.raises(InputError, match="branches and steps"):
        rollout_accuracy(model, {"frames": frames}, branches, actions=torch.zeros(A, T + 1, dtype=torch.int64))
    with pytest.raises(InputError, match="but one x of the model"):
        rollout_accuracy(model, {"frames": frames}, branches[..., :1])
    with pytest.raises(InputError, match="rollouts need contexts"):
        roll_out(model, {}, torch.zeros(A, T, dtype=torch.int64))


def test_what_people_read(truth):
    frames, branches = truth
    found = rollout_accuracy(Believer([0, 1, 2], 0.1), {"frames": frames}, branches, guide=guide)
    assert list(found.rows)[:2] == ["nearest of 3 branches, step 1", "nearest of 3 branches, step 2"]
    assert "PSNR, last frame copied, step 4" in found.rows and "chance 0.333" in str(found)
    assert len(found.to_dict()["accuracy"]) == T and set(found.arrays()) == {"hits", "squared_errors"}
