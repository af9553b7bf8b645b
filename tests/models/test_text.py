"""Models of codes with a prior over texts and codes: the joint bound, and captions that are drawn."""

import math

import pyro
import pytest
import torch
from code_pairs import images

from pyro_vae.errors import InputError
from pyro_vae.evaluation import log_likelihood
from pyro_vae.evaluation.generate import sample
from pyro_vae.guides import DVAEGuide, VQ2Guide, VQGuide
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import DVAE, VQVAE, VQVAE2
from pyro_vae.priors import GatedPixelCNN, TransformerPrior


@pytest.fixture(autouse=True)
def own_parameters():
    """Modules called directly use their own parameters, not Pyro's global store."""
    with pyro.settings.context(module_local_params=True):
        yield


TEXT = {"text_length": 4, "num_words": 5, "width": 8, "num_layers": 2, "heads": 2}
SMALL = {"channels": 8, "block_channels": 4, "num_blocks": 1, "code_dim": 3, "likelihood": Gaussian(0.3)}


def texts(n):
    """Words 1 … 4, then pads: texts of 0 to 4 words, in turns."""
    words = torch.randint(1, 5, (n, 4), generator=torch.Generator().manual_seed(0))
    return words.masked_fill(torch.arange(4) >= (torch.arange(n) % 5)[:, None], 0)


def pair(kind):
    if kind == "dvae":
        model = DVAE((1, 8, 8), 6, code_dim=3, halvings=1, channels=8, num_blocks=1, likelihood=Gaussian(0.3))
        guide, grid = DVAEGuide(model), (4, 4)
    else:
        model = VQVAE((1, 8, 8), 6, halvings=1, **SMALL)
        guide, grid = VQGuide(model), (4, 4)
    model.priors["codes"] = TransformerPrior(6, grid, **TEXT)
    return model.eval(), guide.eval()


@torch.no_grad()
def log_p_of_text(prior, text):
    """Word by word, from the logits of the text's tokens: the words, and the first pad if there is one."""
    logits = prior.text().logits(text).mT.log_softmax(0)  # (num_words, T)
    length = int((text > 0).sum())
    return sum(logits[text[i], i].item() for i in range(min(length + 1, len(text))))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vq", "dvae"])
def test_the_bound_is_that_of_data_and_text_together(kind):
    torch.manual_seed(0)
    model, guide = pair(kind)
    batch = images(10, labels=False).tensors | {"text": texts(10)}
    if kind == "dvae":  # so sure that every draw is the mode
        last = [m for m in guide.encoder.modules() if isinstance(m, torch.nn.Conv2d)][-1]
        last.weight.mul_(1e6), last.bias.mul_(1e6)
    found = log_likelihood(model, guide, batch, num_particles=1).per_datum
    codes = pyro.poutine.trace(guide).get_trace(batch["x"]).nodes["codes"]["value"]
    prior = model.priors["codes"]
    for i in range(10):
        features = model.decoder(
            model.embed(codes[i : i + 1]) if kind == "dvae" else model.quantizer.embed(codes[i : i + 1])
        )
        mean, x = model.likelihood(features, 3).mean, batch["x"][i : i + 1]
        log_x = (-((x - mean) ** 2) / (2 * 0.3**2) - math.log(0.3 * math.sqrt(2 * math.pi))).sum().item()
        logits = prior.logits(codes[i : i + 1], prior(text=batch["text"][i : i + 1]).condition).log_softmax(1)
        log_codes = logits[0].gather(0, codes[i][None]).sum().item()
        wanted = log_p_of_text(prior, batch["text"][i]) + log_codes + log_x
        assert found[i].item() == pytest.approx(wanted, abs=2e-3)


def test_without_a_text_captions_are_drawn_and_with_one_they_are_not():
    torch.manual_seed(0)
    model, _ = pair("vq")
    drawn = sample(model, 6)
    assert drawn["text"].shape == (6, 4) and drawn["codes"].shape == (6, 4, 4)
    assert model.priors["codes"].text().support.check(drawn["text"]).all()
    given = sample(model, 6, batch={"text": texts(6)})
    assert "text" not in given and given["codes"].shape == (6, 4, 4)


def test_the_codes_are_drawn_given_the_text():
    """A prior that is sure of another code for every first word."""
    torch.manual_seed(0)
    model, _ = pair("vq")
    prior = model.priors["codes"]
    with torch.no_grad():
        counts = [
            sample(model, 400, seed=3, batch={"text": row.repeat(400, 1)})["codes"].flatten().bincount(minlength=6)
            for row in texts(3)
        ]
        wanted = [prior(text=row.repeat(2000, 1)).sample().flatten().bincount(minlength=6) / 32_000 for row in texts(3)]
    for count, p in zip(counts, wanted, strict=True):
        torch.testing.assert_close(count / 6400, p, atol=0.03, rtol=0)


def test_two_levels_share_one_text():
    torch.manual_seed(0)
    model = VQVAE2((1, 8, 8), (6, 5), **SMALL)
    guide = VQ2Guide(model)
    for name, prior in [*model.priors.items()]:
        model.priors[name] = TransformerPrior(prior.num_codes, prior.shape, coarser=prior.coarser, **TEXT)
    batch = images(5, labels=False).tensors | {"text": texts(5)}
    with torch.no_grad():
        nodes = pyro.poutine.trace(model.eval()).get_trace(**batch).nodes
        top, bottom = nodes["codes_top"]["value"], nodes["codes_bottom"]["value"]
        joint = nodes["text"]["fn"].log_prob(batch["text"])
        joint = joint + nodes["codes_bottom"]["fn"].log_prob(bottom)
        by_hand = model.priors["codes_top"].text_log_prob(batch["text"])
        by_hand = by_hand + model.priors["codes_bottom"](text=batch["text"], codes_top=top).log_prob(bottom)
    torch.testing.assert_close(joint, by_hand)
    assert log_likelihood(model, guide, batch, num_particles=1).per_datum.isfinite().all()


def test_priors_without_text_have_no_such_site():
    model = VQVAE((1, 8, 8), 6, halvings=1, **SMALL)
    model.priors["codes"] = GatedPixelCNN(6, (4, 4), channels=4, num_layers=2)
    trace = pyro.poutine.trace(model.eval()).get_trace(num_samples=2, text=texts(2))
    assert "text" not in trace.nodes


def test_texts_that_are_none_are_refused():
    model, guide = pair("vq")
    x = images(4, labels=False).tensors
    for text in (torch.tensor([[1, 0, 2, 0]] * 4), torch.full((4, 4), 5)):
        with pytest.raises(InputError, match="argument 'text' takes texts of 4 words from 1 to 4, with 0 behind"):
            log_likelihood(model, guide, x | {"text": text}, num_particles=1)
        with pytest.raises(InputError, match="argument 'text' takes texts of 4 words from 1 to 4, with 0 behind"):
            sample(model, 4, batch={"text": text})
