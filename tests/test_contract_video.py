"""Videos in the space of codes, under the shared contract."""

import pytest
import torch
from test_contract_codes import CodesContract

from pyro_vae import likelihoods
from pyro_vae.guides import VideoVQGuide
from pyro_vae.models import VideoVQVAE
from pyro_vae.priors import FramePixelCNN

SMALL = {"num_codes": 6, "channels": 16, "block_channels": 8, "code_dim": 4}


def clips(n=16, side=8):
    """A bright bar that goes left or right, as the action says; two frames before three."""
    at = torch.randint(side, (n,))
    actions = torch.randint(2, (n, 4))
    places = torch.cat([at[:, None], at[:, None] + (2 * actions - 1).cumsum(1)], 1) % side  # (n, 5)
    frames = torch.rand(n, 5, 1, side, side) * 0.2
    frames += 0.7 * torch.nn.functional.one_hot(places, side)[:, :, None, None, :]
    frames = (frames * 255).round() / 255
    return {"x": frames[:, 2:], "frames": frames[:, :2], "actions": actions[:, 1:]}


class TestVideo(CodesContract):
    """With the learned prior, so that frames and actions have a part in all of it."""

    def make_pair(self):
        model = VideoVQVAE((3, 1, 8, 8), (2, 1, 8, 8), 2, likelihood=likelihoods.Gaussian("learned"), **SMALL)
        present = model.priors["codes"]
        model.priors["codes"] = FramePixelCNN(6, present.shape, present.coarser, 2, channels=8, num_layers=2)
        return model, VideoVQGuide(model), clips()


@pytest.mark.slow  # the default run has the one with a learned prior
class TestCodecOfVideo(CodesContract):
    def make_pair(self):
        model = VideoVQVAE((3, 1, 8, 8), (2, 1, 8, 8), 2, **SMALL)
        return model, VideoVQGuide(model), clips()
