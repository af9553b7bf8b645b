"""WeightEMA: its recursion, and that weights come back."""

import pytest
import torch
from torch import nn

from pyro_vae.errors import InputError
from pyro_vae.training.averages import WeightEMA


def test_follows_its_recursion():
    module = nn.Linear(3, 2)
    expected = [p.detach().clone() for p in module.parameters()]  # the average starts at the first weights
    ema = WeightEMA(module, 0.75)
    for _ in range(5):
        with torch.no_grad():
            for p in module.parameters():
                p.add_(torch.randn_like(p))
        ema.update()
        expected = [0.75 * e + 0.25 * p.detach() for e, p in zip(expected, module.parameters(), strict=True)]
    for average, e in zip(ema.state(), expected, strict=True):
        torch.testing.assert_close(average, e)


def test_applied_inside_the_block_only_even_after_an_error():
    module = nn.Linear(1, 1)
    ema = WeightEMA(module, 0.5)
    first = module.weight.item()
    with torch.no_grad():
        module.weight.fill_(first + 2)
    ema.update()
    with ema.applied():
        assert module.weight.item() == pytest.approx(first + 1)
    assert module.weight.item() == first + 2
    with pytest.raises(RuntimeError, match="inside"), ema.applied():
        raise RuntimeError("inside")
    assert module.weight.item() == first + 2
    with torch.no_grad():
        module.weight.fill_(first + 9)  # the average is a copy: it is still its own
    assert ema.state()[0].item() == pytest.approx(first + 1)


def test_restores_a_saved_state_and_goes_on_alike():
    module, twin = nn.Linear(2, 2), nn.Linear(2, 2)
    ema = WeightEMA(module, 0.9)
    with torch.no_grad():
        module.weight.zero_()
    ema.update()
    other = WeightEMA(twin, 0.9)
    other.restore([t.clone() for t in ema.state()])
    twin.load_state_dict(module.state_dict())
    ema.update(), other.update()
    assert all(torch.equal(a, b) for a, b in zip(ema.state(), other.state(), strict=True))


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_bad_decay(bad):
    with pytest.raises(InputError, match="ema_decay must lie between 0 and 1"):
        WeightEMA(nn.Linear(1, 1), bad)
