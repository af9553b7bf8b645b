"""Videos in the space of codes: the density by hand, sampling without the decoder, and what is refused."""

import math

import pytest
import torch
from test_contract_video import SMALL, clips

import pyro_vae
from pyro_vae import likelihoods
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo, log_likelihood
from pyro_vae.guides import VideoVQGuide
from pyro_vae.models import VideoVQVAE
from pyro_vae.priors import FramePixelCNN
from pyro_vae.runs.codes import extract_codes

FRAMES, GIVEN = (3, 1, 8, 8), (2, 1, 8, 8)


def pair(learned=True, **options):
    torch.manual_seed(3)
    model = VideoVQVAE(FRAMES, GIVEN, 2, likelihood=likelihoods.Gaussian(0.2), **SMALL | options)
    if learned:
        present = model.priors["codes"]
        model.priors["codes"] = FramePixelCNN(6, present.shape, present.coarser, 2, channels=8, num_layers=2)
    batch = clips()
    model.quantizer.initialize(model.vectors(batch["x"]))  # of random weights' features, so that all codes are used
    return model.eval(), VideoVQGuide(model).eval(), batch


def test_the_density_by_hand():
    """log p(x | frames, actions) = log p(codes | codes of frames, actions) + log p(x | codes), frame by frame."""
    model, guide, batch = pair()
    codes = pyro_vae.encode(model, guide, batch)["codes"]

    def code(frame):  # the nearest vectors, one frame alone
        z = model.to_codes(model.encoder(frame))  # (N, D, h, w)
        return (z[:, None] - model.quantizer.codebook[:, :, None, None]).square().sum(2).argmin(1)

    with torch.no_grad():
        for t in range(3):
            assert torch.equal(codes[:, t], code(batch["x"][:, t]))
        given = torch.stack([code(batch["frames"][:, t]) for t in range(2)], 1)
        log_codes = model.priors["codes"](codes_frames=given, actions=batch["actions"]).log_prob(codes)
        log_x = torch.zeros(len(codes))
        for t in range(3):
            z = model.quantizer.codebook[codes[:, t]].movedim(-1, 1)
            log_x += torch.distributions.Normal(model.decoder(z), 0.2).log_prob(batch["x"][:, t]).sum((1, 2, 3))
    result = elbo(model, guide, batch, num_particles=1)
    torch.testing.assert_close(result.per_datum.float(), log_codes + log_x, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(-result.kl["codes"].float(), log_codes, rtol=1e-4, atol=1e-3)
    uniform = elbo(*pair(learned=False)[:2], batch, num_particles=1)
    assert torch.allclose(uniform.kl["codes"], torch.tensor(3 * 4 * math.log(6)).to(uniform.kl["codes"]))


def test_what_is_given_matters_only_to_a_learned_prior():
    for learned in (True, False):
        model, guide, batch = pair(learned)
        ours = log_likelihood(model, guide, batch, num_particles=1).per_datum
        for other in ({"actions": 1 - batch["actions"]}, {"frames": batch["frames"].flip(0)}):
            theirs = log_likelihood(model, guide, batch | other, num_particles=1).per_datum
            assert torch.equal(ours, theirs) != learned


def test_no_decoder_while_codes_are_drawn():
    """The decoder is called once, for all frames of all data, after the last code; the encoder once, before."""
    model, _, batch = pair()
    called = []
    for name in ("encoder", "decoder"):
        getattr(model, name).register_forward_hook(lambda *_, name=name: called.append(name))
    steps = model.priors["codes"].steps

    def noted(*arguments):
        memory = steps(*arguments)

        def step(position, codes):
            called.append(position)
            return memory(position, codes)

        return step

    model.priors["codes"].steps = noted
    given = {name: batch[name][:5] for name in ("frames", "actions")}
    drawn = pyro_vae.sample(model, 5, batch=given)
    assert drawn["x"].shape == (5, *FRAMES)
    first = called.index("encoder")
    assert called[first:] == ["encoder", *range(3 * 4), "decoder"]


def test_nothing_of_the_codebook_changes_by_the_frames_before():
    model, _, batch = pair()
    model.train()
    before = {name: value.clone() for name, value in model.quantizer.state_dict().items()}
    model.prior_context(frames=batch["frames"], actions=batch["actions"])
    assert all(torch.equal(value, before[name]) for name, value in model.quantizer.state_dict().items())


def test_codes_are_extracted_with_what_the_prior_is_given():
    model, guide, batch = pair(learned=False)
    codes = extract_codes(model, guide, Split(batch), ["codes"])
    assert set(codes) == {"codes", "codes_frames", "actions"}
    assert torch.equal(codes["actions"], batch["actions"]) and codes["codes_frames"].shape == (16, 2, 2, 2)
    shifted = {"x": batch["frames"].repeat(1, 2, 1, 1, 1)[:, :3], **{n: batch[n] for n in ("frames", "actions")}}
    assert torch.equal(extract_codes(model, guide, Split(shifted), ["codes"])["codes"][:, :2], codes["codes_frames"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"actions": torch.zeros(16, 2, dtype=torch.int64)},
            r"'actions' takes actions from 0 to 1, one a frame.*\(N, 3\)",
        ),
        ({"actions": torch.full((16, 3), 2)}, r"'actions' takes actions from 0 to 1.*got values from 2 to 2"),
        ({"actions": torch.zeros(16, 3)}, r"'actions' takes.*int64.*got torch.float32"),
        ({"frames": torch.zeros(16, 2, 1, 8, 6)}, r"'frames' takes 2 frames each.*\(N, 2, 1, 8, 8\)"),
        ({"frames": torch.zeros(16, 3, 1, 8, 8)}, r"'frames' takes 2 frames each"),
        ({"frames": 2 * torch.ones(16, 2, 1, 8, 8)}, r"'frames' takes.*values from 2 to 2"),
    ],
)
def test_context_that_does_not_fit_is_refused(change, message):
    model, guide, batch = pair()
    with pytest.raises(InputError, match=message):
        elbo(model, guide, batch | change)
    given = {name: (batch | change)[name] for name in ("frames", "actions")}
    with pytest.raises(InputError, match=message):
        pyro_vae.sample(model, 16, batch=given)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(InputError, match=r"data_shape must be \(T, channels, height, width\)"):
        VideoVQVAE((3, 8, 8), GIVEN, 2)
    with pytest.raises(InputError, match="the frames before must be"):
        VideoVQVAE(FRAMES, (2, 3, 8, 8), 2)
    with pytest.raises(InputError, match="do not divide into a grid"):
        VideoVQVAE((3, 1, 9, 8), (2, 1, 9, 8), 2)
    with pytest.raises(InputError, match="num_actions"):
        VideoVQVAE(FRAMES, GIVEN, 0)
    with pytest.raises(InputError, match="data_mean must have"):
        VideoVQVAE(FRAMES, GIVEN, 2, data_mean=torch.zeros(1, 8, 8))
    with pytest.raises(InputError, match=r"frames"):
        pyro_vae.sample(pair()[0], 3)


def test_the_decoder_starts_at_the_mean_frame():
    mean = torch.rand(FRAMES)
    model = VideoVQVAE(FRAMES, GIVEN, 2, likelihood=likelihoods.Gaussian(0.2), data_mean=mean, **SMALL)
    bias = model.decoder.layers[-1].bias
    torch.testing.assert_close(bias, mean.mean().expand_as(bias))
