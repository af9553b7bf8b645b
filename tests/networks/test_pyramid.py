"""The dVAE's encoder and decoder against the same networks written out, convolution by convolution."""

import torch
from torch.nn.functional import conv2d

from pyro_vae.networks.pyramid import PyramidDecoder, PyramidEncoder


def convolution(weights, name, h):
    weight = weights[f"{name}.weight"]
    return conv2d(h, weight, weights[f"{name}.bias"], padding=weight.shape[-1] // 2)


def groups(weights, h, resize):
    """Two groups of two blocks: four convolutions behind ReLUs, times (2 * 2)^-2, beside the shortcut."""
    for i in range(2):
        h = resize(h) if i else h
        for j in range(2):
            block, inner = f"groups.{i}.{j}", h
            for layer in (1, 3, 5, 7):
                inner = convolution(weights, f"{block}.branch.{layer}", inner.relu())
            widens = f"{block}.shortcut.weight" in weights
            h = (convolution(weights, f"{block}.shortcut", h) if widens else h) + inner / 16
    return h


def larger(network):
    """Its weights in double precision, made so large that the branches matter."""
    network.double()
    with torch.no_grad():
        for parameter in network.groups.parameters():
            parameter.mul_(3)
    return network.state_dict()


def test_the_encoder_pools_maxima():
    torch.manual_seed(0)
    encoder, x = PyramidEncoder((3, 8, 12), 5, channels=4, halvings=1), torch.randn(2, 3, 8, 12).double()
    weights = larger(encoder)

    def halved(h):
        return h.reshape(*h.shape[:2], h.shape[2] // 2, 2, h.shape[3] // 2, 2).amax((3, 5))

    h = groups(weights, convolution(weights, "first", x), halved)
    torch.testing.assert_close(encoder(x), convolution(weights, "last", h.relu()))


def test_the_decoder_repeats_the_nearest():
    torch.manual_seed(0)
    decoder, z = PyramidDecoder(5, (6, 8, 12), channels=4, doublings=1), torch.randn(2, 5, 4, 6).double()
    weights = larger(decoder)

    def doubled(h):
        return h.repeat_interleave(2, 2).repeat_interleave(2, 3)

    h = groups(weights, z, doubled)
    torch.testing.assert_close(decoder(z), convolution(weights, "last", h.relu()))
