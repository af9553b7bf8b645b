"""Moving scenes: what their images show, and the exact law of their motions, against scipy and counting."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, multivariate_normal

from pyro_vae.data import Data, Motions, Split, load_data, mirrored
from pyro_vae.data import moving_scenes as ours
from pyro_vae.data.picture_kinds import picture_facts, pictures_of
from pyro_vae.errors import InputError

T = 3  # frames of what is compared with dense covariances: 2 * 3 * 64 numbers


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(n, frames=T, seed=0):
    random = generator(seed)
    scenes = ours.draw_scenes(n, random)
    x, which = ours.draw_motions(scenes, frames, random)
    return scenes, x, which


def path(direction, place, frames):
    """The path u of an object, flat, written once more by loops."""
    right, down = [(1, 0), (0, 1), (-1, 0), (0, -1)][direction]
    u = np.zeros((2, frames, 8, 8))
    for t in range(frames):
        for i in range(3):
            for j in range(3):
                u[:, t, place // 6 + i, place % 6 + j] = np.array([right, down]) * (t + 1) / frames
    return u.ravel()


def dense(x, kind, place):
    """log p(x | objects) as a sum over all combinations of directions of dense Gaussians."""
    terms = [(0.0, np.zeros(x.size), 0.09 * np.eye(x.size))]
    for k, at in zip(kind, place, strict=True):
        if k < 0:
            continue
        mean, spread = ours.DISTANCE[k % 3].tolist()
        nexts = []
        for direction, p in enumerate(ours.PROBABILITIES.flatten(0, 1)[k].tolist()):
            if p:
                u = path(direction, at, x.shape[0] // 2)
                nexts += [
                    (log_p + math.log(p), mu + mean * u, cov + spread**2 * np.outer(u, u)) for log_p, mu, cov in terms
                ]
        terms = nexts
    return np.logaddexp.reduce([log_p + multivariate_normal(mu, cov).logpdf(x.ravel()) for log_p, mu, cov in terms])


def test_the_density_is_the_mixture_of_gaussians():
    scenes, x, _ = drawn(6)
    found = ours.log_prob(x, scenes)
    for i in range(6):
        wanted = dense(x[i].double().numpy(), scenes.kind[i].tolist(), scenes.place[i].tolist())
        assert found[i].item() == pytest.approx(wanted, rel=1e-9)


def test_the_marginal_is_the_mean_over_all_scenes():
    """Of one object by all 432 scenes; of two by those of the true places' kinds and a sum over places."""
    _, x, _ = drawn(4)
    kinds, places = torch.cartesian_prod(torch.arange(12), torch.arange(36)).unbind(1)
    none = torch.full_like(kinds, -1)
    alone = ours.Scenes(torch.stack([kinds, none], 1), torch.stack([places, none], 1))
    pairs = ours.apart().nonzero()
    assert len(pairs) == sum(max(abs(a // 6 - b // 6), abs(a % 6 - b % 6)) > 3 for a in range(36) for b in range(a))
    both = torch.cartesian_prod(torch.arange(12), torch.arange(12))
    for one in x[:1]:
        of_one = ours.log_prob(one.expand(432, -1, -1, -1), alone).logsumexp(0) - math.log(432)
        of_pairs = []
        for pair in pairs.split(20):
            scenes = ours.Scenes(both.repeat(len(pair), 1), pair.repeat_interleave(144, 0))
            of_pairs.append(ours.log_prob(one.expand(len(scenes.kind), -1, -1, -1), scenes))
        of_two = torch.cat(of_pairs).logsumexp(0) - math.log(144 * len(pairs))
        wanted = torch.logaddexp(of_one, of_two) + math.log(0.5)
        torch.testing.assert_close(ours.log_marginal(one[None])[0], wanted, rtol=1e-9, atol=0)


def test_images_say_what_they_show():
    scenes, _, _ = drawn(3000)
    images = ours.draw_images(scenes, 0.45 * torch.rand(3000, generator=generator(1)))
    found = ours.read_scenes(images)
    assert torch.equal(found.kind, scenes.kind) and torch.equal(found.place, scenes.place)
    assert 0.45 < (scenes.kind[:, 1] < 0).float().mean() < 0.55
    with pytest.raises(InputError, match="no images of the data 'moving-scenes'"):
        ours.read_scenes(images.flip(-2)[:5] * 0.8)
    with pytest.raises(InputError, match=r"must be images \(n, 3, 32, 32\)"):
        ours.read_scenes(images[:, :1])


def test_motions_are_as_probable_and_as_fast_as_the_table_says():
    scenes, x, which = drawn(6000, 10, seed=3)
    found, angle = ours.motion_of(x, scenes)
    assert torch.equal(found, which) and angle[which >= 0].max() < 10
    there = scenes.kind >= 0
    for kind in range(12):
        counts = which[there & (scenes.kind == kind)].bincount(minlength=4).double()
        p = ours.PROBABILITIES.flatten(0, 1)[kind]
        assert not counts[p == 0].any()
        expected = counts.sum() * p[p > 0]
        assert ((counts[p > 0] - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-4, len(expected) - 1)
    p = ours.PROBABILITIES
    torch.testing.assert_close(p.sum(-1), torch.ones(4, 3, dtype=torch.float64))
    assert ((p > 0).sum(-1) >= 2).all() and (p == 0).any()


def test_without_kinds_the_density_is_the_mean_over_all_kinds_at_the_places():
    scenes, x, _ = drawn(30, 5)
    alone = scenes.kind[:, 1] < 0
    found = ours.log_prob_of_places(x, scenes)
    every = []
    for first in range(12):
        for second in range(12):
            kind = torch.tensor([first, second]).expand(30, 2)
            every.append(ours.log_prob(x, ours.Scenes(torch.where(scenes.kind >= 0, kind, -1), scenes.place)))
    assert alone.any() and not alone.all()
    torch.testing.assert_close(found, torch.stack(every).logsumexp(0) - math.log(144))


def test_mirrored_scenes_are_as_probable():
    scenes, x, _ = drawn(200, 5)
    images = ours.draw_images(scenes, torch.full((200,), 0.2))
    other = ours.read_scenes(images.flip(-1))
    assert torch.equal(other.kind, ours.mirrored_scenes(scenes).kind)
    assert torch.equal(other.place, ours.mirrored_scenes(scenes).place)
    torch.testing.assert_close(ours.log_prob(mirrored(x), other), ours.log_prob(x, scenes))
    torch.testing.assert_close(ours.log_marginal(mirrored(x)), ours.log_marginal(x))
    assert torch.equal(mirrored(mirrored(x)), x)
    assert (ours.log_prob(x, other) < ours.log_prob(x, scenes) - 10).float().mean() > 0.8


def test_the_best_forecast_is_as_bad_as_its_closed_form():
    scenes, x, _ = drawn(4000, 6, seed=5)
    forecast = torch.zeros(4000, 2 * 6 * 64, dtype=torch.float64)
    paths = torch.tensor(np.array([[path(direction, place, 6) for place in range(36)] for direction in range(4)]))
    for i in range(4000):
        for kind, place in zip(scenes.kind[i].tolist(), scenes.place[i].tolist(), strict=True):
            if kind >= 0:
                forecast[i] += ours.DISTANCE[kind % 3, 0] * ours.PROBABILITIES.flatten(0, 1)[kind] @ paths[:, place]
    variance = (x.flatten(1) - forecast).square().mean()
    nats = 0.5 * forecast.shape[1] * math.log(2 * math.pi * math.e * variance)
    assert ours.regressor_nats(scenes, 6) == pytest.approx(nats, abs=15)  # of 1,100; the variance is known to 2 %


def test_the_source():
    state = torch.get_rng_state()
    data = load_data("moving-scenes", limit=40, frames=6)
    assert torch.equal(torch.get_rng_state(), state)
    again = load_data("moving-scenes", frames=6)
    assert {part: len(split) for part, split in again.splits.items()} == {
        "train": 8000,
        "validation": 1000,
        "test": 1000,
    }
    for part, split in data.splits.items():
        assert split.shape == (12, 8, 8) and split.columns["image"].shape == (3, 32, 32), part
        scenes = ours.read_scenes(split.tensors["image"])
        assert not (ours.motion_of(split.tensors["x"], scenes)[0] < 0).all(1).any()
    controls = load_data("moving-scenes", limit=40, frames=6, shuffled=True)
    assert torch.equal(controls.test.tensors["x"], data.test.tensors["x"])
    assert torch.equal(controls.test.tensors["image"][1:], data.test.tensors["image"][:-1])
    others = load_data("moving-scenes", limit=40, frames=6, other_kinds=True)
    assert torch.equal(others.test.tensors["x"], data.test.tensors["x"])
    shown, moved = (ours.read_scenes(d.test.tensors["image"]) for d in (others, data))
    assert torch.equal(shown.place, moved.place)
    same = (shown.kind == moved.kind)[moved.kind >= 0].float().mean()
    assert same < 0.3  # 1/12 of them
    with pytest.raises(InputError, match="two controls: take one"):
        load_data("moving-scenes", limit=40, shuffled=True, other_kinds=True)
    with pytest.raises(InputError, match="frames must be from 2 to 64"):
        load_data("moving-scenes", frames=1)
    with pytest.raises(InputError, match="shuffled is of two scenes or more"):  # the only one's image would be its own
        load_data("moving-scenes", limit=1, shuffled=True)


# ------------------------------------------------------------------------------------------- motions
def test_motions_are_drawn_over_their_scene():
    x = torch.zeros(1, 2 * 4, 8, 8)
    x[0, :4, 2, 3] = torch.tensor([2.0, 4.0, 6.0, 8.0])  # one point moves 8 pixels to the right
    scene = torch.zeros(1, 3, 32, 32)
    picture = Motions(4).images(x, {"image": scene})[0]
    lit = (picture.amax(0) > 0).nonzero()
    assert picture.shape == (3, 128, 128)
    assert lit[:, 0].unique().tolist() == [39, 40]  # cell 2 begins at pixel 8, its middle is 10: 40 of the larger
    assert lit[:, 1].min() == 55 and lit[:, 1].max() == 88  # from 14 to 22
    assert picture[2, 39, 55] == 1 and picture[2, 39, 88] == 0  # white first, yellow last
    out = x.clone()
    out[0, 4:] = 100.0  # far out of the picture: nothing is drawn where nothing is
    assert not Motions(4).images(out, {"image": scene}).amax((0, 1)).ne(0)[:, -1].any()
    both = Motions(4).images(torch.stack([x, out]), {"image": scene})
    assert torch.equal(both[0, 0], picture)


def test_motions_of_another_shape_are_refused():
    x, image = torch.zeros(5, 8, 8, 8), torch.zeros(5, 3, 32, 32)
    good = Split({"x": x, "image": image})
    assert Data(good, extras=(Motions(4),)).extra(Motions).frames == 4
    for split, frames, message in [
        (good, 3, r"have shape \(6, h, w\)"),
        (Split({"x": x}), 4, "need the entry 'image'"),
        (Split({"x": x, "image": torch.zeros(5, 3, 30, 30)}), 4, "does not fit a picture of 30 x 30"),
    ]:
        with pytest.raises(InputError, match=message):
            Data(split, extras=(Motions(frames),))
    for frames in (0, 2.5, True, "3"):
        with pytest.raises(InputError, match="positive integer"):
            Motions(frames)
    with pytest.raises(InputError, match="have 6 channels"):
        Motions(3).images(x, {"image": image})


def test_a_run_keeps_motions():
    facts = picture_facts(Motions(7))
    assert facts == {"kind": "motion", "frames": 7} and pictures_of(facts) == Motions(7)
