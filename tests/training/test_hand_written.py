"""The losses that ``benchmarks/recipe_cases.py`` writes by hand: those of the pairs that they are timed beside."""

import copy
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import randn

from pyro_vae.objectives import ELBO
from pyro_vae.programs.program import as_programs

with mock.patch.object(sys, "path", [*sys.path, str(Path(__file__).parents[2] / "benchmarks")]):
    import recipe_cases

PAIRS = {
    "hvae-conv": (recipe_cases.conv_hierarchy_pair, recipe_cases.HandConvLadder),
    "pixelvae": (recipe_cases.pixel_pair, recipe_cases.HandPixelVAE),
    "vae-vamp": (recipe_cases.vamp_pair, recipe_cases.HandVamp),
}


@pytest.mark.parametrize("name", PAIRS)
def test_loss_and_gradient_are_the_pairs_own(name):
    make, hand = PAIRS[name]
    torch.manual_seed(0)
    model, guide = make()
    with torch.no_grad():
        for parameter in dict.fromkeys((*model.parameters(), *guide.parameters())):  # what starts at 0 counts, too
            parameter.add_(0.02 * randn(parameter.shape))
    by_hand = hand(*copy.deepcopy((model, guide)))
    x = (torch.rand(6, 1, 28, 28) < 0.3).float()
    ours = ELBO()(*as_programs(model, guide))
    torch.manual_seed(1)
    loss = ours(x=x)
    loss.backward()
    torch.manual_seed(1)
    with mock.patch.object(torch, "randn_like", lambda t: randn(t.shape)):  # in the pair's order of memory
        theirs = by_hand(x)
    theirs.backward()
    torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=0.0)
    norms = [
        sorted(p.grad.norm().item() for p in parameters)
        for parameters in (dict.fromkeys((*model.parameters(), *guide.parameters())), by_hand.parameters())
    ]
    assert len(norms[0]) == len(norms[1])
    assert norms[0] == pytest.approx(norms[1], rel=2e-3, abs=1e-4)
