"""Muon against torch's own for matrices, against Adam for the rest, and in training."""

import pytest
import torch
from torch import nn

from pyro_vae.errors import InputError
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE
from pyro_vae.training import Muon, fit
from pyro_vae.training.muon import matrices_of, orthogonalized
from pyro_vae.training.optimizer import SHORT

SMALL = {"seed": 5, "device": "cpu", "progress": False, "batch_size": 8, "epochs": 4, "optimizer": "muon"}


def numbers(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair():
    torch.manual_seed(3)
    model = VAE((6,), latent_dim=2, hidden_dims=[8])
    return model, GaussianGuide(model, hidden_dims=[8])


def digits():
    return (numbers(43, 6) < -0.3).float()


def weights_of(result):
    named = {**dict(result.model.named_parameters(prefix="model")), **dict(result.guide.named_parameters())}
    return {name: value.detach().clone() for name, value in named.items()}


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 1, 5), (2, 16, 16)])
def test_singular_values_become_about_one_and_directions_stay(shape):
    x = numbers(*shape)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    rotated = u.mT @ orthogonalized(x).float() @ vh.mT  # diagonal, if U and V are the same
    kept = torch.diagonal(rotated, dim1=-2, dim2=-1)[s > 0.1 * s.max()]
    assert kept.min() > 0.6
    assert kept.max() < 1.3
    assert (rotated - torch.diag_embed(torch.diagonal(rotated, dim1=-2, dim2=-1))).abs().max() < 0.05


def test_several_matrices_at_once_are_each_by_itself():
    x = numbers(4, 5, 9)
    torch.testing.assert_close(orthogonalized(x), torch.stack([orthogonalized(m[None])[0] for m in x]))


def test_gradients_of_zero_give_updates_of_zero():
    assert (orthogonalized(torch.zeros(2, 3, 4)) == 0).all()


def moved(make, start, gradients):
    weights = [nn.Parameter(w.clone()) for w in start]
    optimizer = make(weights)
    for gradient in gradients:
        for weight, each in zip(weights, gradient, strict=True):
            weight.grad = each.clone()
        optimizer.step()
    return [w.detach() for w in weights]


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_matrices_move_as_with_torchs_muon(decay):
    start = [numbers(6, 9), numbers(12, 4, seed=2), numbers(6, 9, seed=3)]
    gradients = [[numbers(*w.shape, seed=10 * t + i) for i, w in enumerate(start)] for t in range(5)]
    options = {"lr": 0.02, "weight_decay": decay, "momentum": 0.9}
    ours = moved(lambda w: Muon(w, orthogonal=True, **options), start, gradients)
    theirs = moved(lambda w: torch.optim.Muon(w, adjust_lr_fn="match_rms_adamw", **options), start, gradients)
    for mine, own, before in zip(ours, theirs, start, strict=True):
        assert (own - before).abs().max() > 0.01
        torch.testing.assert_close(mine, own, rtol=0, atol=1e-3)  # bfloat16: 0.4 % of updates of 0.02 or so


def test_kernels_move_as_their_matrices():
    kernel, gradients = numbers(4, 3, 2, 2), [numbers(4, 3, 2, 2, seed=t + 2) for t in range(3)]
    as_kernel = moved(lambda w: Muon(w, orthogonal=True), [kernel], [[g] for g in gradients])[0]
    as_matrix = moved(lambda w: Muon(w, orthogonal=True), [kernel.flatten(1)], [[g.flatten(1)] for g in gradients])[0]
    torch.testing.assert_close(as_kernel.flatten(1), as_matrix)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_all_else_moves_as_with_adam(decay):
    start = [numbers(7), numbers(3, 4, seed=2)]
    gradients = [[numbers(*w.shape, seed=10 * t + i) for i, w in enumerate(start)] for t in range(5)]
    options = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": decay}
    ours = moved(lambda w: Muon(w, **options), start, gradients)
    theirs = moved(lambda w: torch.optim.AdamW(w, **options), start, gradients)
    torch.testing.assert_close(ours, theirs)


class Many(nn.Module):
    """Layers of which some weights are matrices, and some look like it."""

    def __init__(self):
        super().__init__()
        self.linear, self.conv = nn.Linear(3, 4), nn.Conv2d(2, 3, 3)
        self.transposed = nn.ConvTranspose2d(3, 2, 4)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.embedding, self.tied = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.tied.weight = self.embedding.weight
        self.recurrent, self.norm = nn.LSTM(3, 4), nn.BatchNorm2d(3)
        self.again = self.linear
        self.codebook = nn.Parameter(torch.zeros(5, 3))


def test_matrices_are_those_of_linear_layers_and_convolutions():
    many = Many()
    names = {id(p): name for name, p in many.named_parameters()}
    assert [names[id(p)] for p in matrices_of(many)] == ["linear.weight", "conv.weight", "transposed.weight"]


def optimizer_of(**options):
    """The groups that a training makes, by the names of their members."""
    model, guide = pair()
    names = {id(p): name for m in (model, guide) for name, p in m.named_parameters()}
    found = []

    class Seen(Muon):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            found[:] = [(g["orthogonal"], [names[id(p)] for p in g["params"]]) for g in self.param_groups]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_vae.training.optimizer.Muon", Seen)
        patch.setitem(SHORT, "muon", Seen)
        fit(model, guide, digits(), **{**SMALL, "epochs": 1, **options})
    return found


def test_by_its_name_weights_are_orthogonalized_and_biases_are_not():
    groups = optimizer_of()
    assert [orthogonal for orthogonal, _ in groups] == [True, False]
    assert all(name.endswith("weight") for name in groups[0][1])
    assert all(name.endswith("bias") for name in groups[1][1])
    assert len(groups[0][1]) == len(groups[1][1]) > 3


def test_a_group_says_it_itself():
    groups = optimizer_of(param_groups={"model.*": {"orthogonal": False}, "guide.*": {"lr": 1e-4}})
    assert [orthogonal for orthogonal, _ in groups] == [False, True, False]


def test_said_of_all_it_is_so_for_all():
    assert [orthogonal for orthogonal, _ in optimizer_of(optimizer_options={"orthogonal": False})] == [False]


def test_training_goes_on_bit_for_bit(tmp_path):
    whole = fit(*pair(), digits(), **SMALL)
    fit(*pair(), digits(), **{**SMALL, "epochs": 2}, out=tmp_path)
    resumed = fit(*pair(), digits(), **SMALL, out=tmp_path, resume=True)
    expected = weights_of(whole)
    assert {name for name, value in weights_of(resumed).items() if not torch.equal(value, expected[name])} == set()
    start = dict(pair()[0].named_parameters(prefix="model"))
    assert all(not torch.equal(expected[name], value) for name, value in start.items())


def test_rates_are_recorded_once_a_pattern():
    result = fit(*pair(), digits(), **SMALL, learning_rate=4e-3, param_groups={"guide.*": {"lr": 1e-3}})
    rates = {name: value for name, value in result.records[-1].items() if name.startswith("learning_rate")}
    assert rates == {"learning_rate": 4e-3, "learning_rate/guide.*": 1e-3}


REFUSED = {
    "a vector": ({"param_groups": {"*.bias": {"orthogonal": True}}}, "is no matrix"),
    "all, vectors too": ({"optimizer_options": {"orthogonal": True}}, "is no matrix"),
    "a word": ({"param_groups": {"*.bias": {"orthogonal": "yes"}}}, "orthogonal must be true or false"),
    "a momentum of one": ({"optimizer_options": {"momentum": 1.0}}, "momentum must be at least 0 and below 1"),
    "a negative decay": ({"optimizer_options": {"weight_decay": -1.0}}, "weight_decay must be a number of at least 0"),
    "no number": ({"optimizer_options": {"eps": float("nan")}}, "eps must be a number of at least 0"),
    "an unknown option": ({"optimizer_options": {"nesterov": True}}, "nesterov"),
    "a beta of one": ({"optimizer_options": {"betas": [0.9, 1.0]}}, "betas must be at least 0 and below 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    options, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        fit(*pair(), digits(), **SMALL, **options)
