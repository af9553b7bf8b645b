"""The text encoder."""

import pytest
import torch

from pyro_vae.errors import InputError
from pyro_vae.networks import TextEncoder

TEXT = torch.tensor([[3, 1, 4, 0, 0, 0], [2, 5, 5, 1, 3, 2]])


def test_padding_says_nothing():
    encoder = TextEncoder(6, 6, width=8, num_layers=2, heads=2, out_dim=3)
    short = TextEncoder(6, 3, width=8, num_layers=2, heads=2, out_dim=3)
    state = encoder.state_dict()
    short.load_state_dict(state | {"places": state["places"][:3]})
    with torch.no_grad():
        first = encoder(TEXT)[0]
        torch.testing.assert_close(first, short(TEXT[:1, :3])[0])  # as if there were none
        encoder.tokens[0] = 7.0  # whatever the padding's own features
        torch.testing.assert_close(encoder(TEXT)[0], first)


def test_order_and_leading_dimensions():
    encoder = TextEncoder(6, 6, width=8, num_layers=1, heads=2, out_dim=3)
    with torch.no_grad():
        features = encoder(TEXT)
        assert features.shape == (2, 3)
        assert not torch.allclose(encoder(TEXT[:, [1, 0, 2, 3, 4, 5]]), features)
        many = encoder(TEXT.expand(4, 5, 2, 6))
        assert many.shape == (4, 5, 2, 3)
        torch.testing.assert_close(many[3, 4], features)
        torch.testing.assert_close(encoder(TEXT[1]), features[1])
        assert encoder(torch.zeros(1, 6, dtype=torch.long)).isfinite().all()  # nothing but padding


def test_refusals():
    with pytest.raises(InputError, match="heads must divide the width 8, got 3"):
        TextEncoder(6, 6, width=8, heads=3)
    with pytest.raises(InputError, match="text_length must be a positive integer"):
        TextEncoder(6, 0)
    with pytest.raises(InputError, match="text encoder expects"):
        TextEncoder(6, 6)(TEXT[:, :4])
