"""How tokens are chosen: draws, greedily, by a search; from draws of the guide or its mean."""

import pytest
import torch
from token_pairs import KINDS, Letters, guide, letters, model

import pyro_vae
from pyro_vae.errors import InputError
from pyro_vae.evaluation import decode, reconstruct, sample
from pyro_vae.evaluation.latent_space import attribute_vectors, decode_path, paths_between


def greedy(z):
    """The most probable letter at every place, up to the first end, the last place being one."""
    tokens = z.argmax(-1)
    tokens[:, -1] = 0
    return tokens * (tokens != 0).long().cumprod(1)


def test_greedy_decoding_takes_the_most_probable_token_at_every_place():
    z = torch.randn(40, 6, KINDS)
    assert torch.equal(decode(model, {"z": z}, top_k=1), greedy(z))
    assert not torch.equal(decode(model, {"z": z}), greedy(z))
    cold = decode(model, {"z": z}, temperature=1e-4)
    assert torch.equal(cold, greedy(z))


def test_a_search_finds_the_most_probable_sequence():
    z = torch.randn(40, 6, KINDS)
    found = decode(model, {"z": z}, beams=50)  # wide enough for all that can come first
    every = torch.cartesian_prod(*[torch.arange(KINDS)] * 5)
    every = every[((every[:, :-1] != 0) | (every[:, 1:] == 0)).all(1)]  # nothing behind an end
    every = torch.nn.functional.pad(every, (0, 1))  # (sequences, 6)
    log_p = z.log_softmax(-1)  # the same at a place whatever stands before
    nats = log_p[:, torch.arange(5), every[:, :5]]  # (40, sequences, 5)
    ends = torch.nn.functional.pad(every[:, :4] != 0, (1, 0), value=True)  # tokens, and the first end
    best = (nats * ends).sum(-1).argmax(1)
    assert torch.equal(found, every[best]) and not torch.equal(found, greedy(z))


def test_draws_have_the_tempered_probabilities():
    z = torch.zeros(1, 6, KINDS)
    z[0, 0] = torch.tensor([0.0, 1.0, 2.0, 0.5])
    first = decode(model, {"z": z.expand(4000, -1, -1)}, temperature=2.0)[:, 0]
    found = torch.bincount(first, minlength=KINDS) / 4000
    torch.testing.assert_close(found, (z[0, 0] / 2).softmax(0), atol=0.03, rtol=0)
    first = decode(model, {"z": z.expand(4000, -1, -1)}, top_k=2)[:, 0]
    torch.testing.assert_close(
        (first == 2).double().mean().item(), torch.tensor([1.0, 2.0]).softmax(0)[1].item(), atol=0.03, rtol=0
    )


def test_reconstructions_from_the_mean_and_from_draws_of_the_guide():
    x = letters().train.batch(slice(None))["x"]
    assert torch.equal(reconstruct(model, guide, x, at_mean=True, top_k=1), x)
    assert not torch.equal(reconstruct(model, guide, x, top_k=1), x)  # z is a draw
    assert not torch.equal(reconstruct(model, guide, x, at_mean=True, temperature=5.0), x)  # x is


def test_a_way_has_one_noise_and_its_ends():
    x = letters().train.batch(slice(None))["x"]
    path, kind = paths_between(model, guide, {"x": x[:8]}, {"x": x[8:16]}, 5)
    made = decode_path(model, path, top_k=1)
    assert kind == "spherical" and torch.equal(made[:, 0], x[:8]) and torch.equal(made[:, -1], x[8:16])
    still = {"z": path["z"][:, :1].expand(-1, 5, -1, -1)}
    drawn = decode_path(model, still, seed=3)
    assert torch.equal(drawn, drawn[:, :1].expand(-1, 5, -1)) and not torch.equal(drawn, decode_path(model, still))


def test_an_attribute_vector_makes_texts_longer():
    x = letters(400).train.batch(slice(None))["x"]
    z = pyro_vae.encode(model, guide, x)["z"]
    lengths = (x != 0).sum(1)
    longer = attribute_vectors(z, (lengths > lengths.double().median()).long()[:, None]).vectors[0]
    mean = [(decode(model, {"z": z + t * longer}, top_k=1) != 0).sum(1).double().mean().item() for t in (-1, 0, 1, 2)]
    assert mean == sorted(mean) and mean[1] == lengths.double().mean() and mean[3] > mean[0] + 1


def test_options_that_nothing_has_a_use_for_are_refused():
    images = pyro_vae.models.VAE((1, 4, 4), latent_dim=2, hidden_dims=(4,))
    encoder = pyro_vae.guides.GaussianGuide(images, hidden_dims=(4,))
    x = (torch.rand(3, 1, 4, 4) > 0.5).float()
    with pytest.raises(InputError, match="no site of the model can be tempered"):
        decode(images, {"z": torch.zeros(3, 2)}, temperature=0.5)
    with pytest.raises(InputError, match="no site of the model can be tempered"):
        reconstruct(images, encoder, x, top_k=1)
    with pytest.raises(InputError, match=r"beams: no site of the model is a sequence of tokens \(it draws z, x\)"):
        sample(images, 2, beams=3)
    with pytest.raises(InputError, match="beams must be a positive integer"):
        sample(model, 2, beams=0)


def test_texts_are_written_a_line_each(tmp_path):
    tokens = Letters()
    files = tokens.write(tmp_path / "out.v2", tokens.encode(["abc", "ba"]), ["0", "1"])
    assert files == [tmp_path / "out.v2.txt"] and files[0].read_text() == "abc\nba\n"
    with pytest.raises(InputError, match=r"mine\.txt: no files are known that hold tokens of kind letters"):
        tokens.read(tmp_path / "mine.txt")
