"""Every program of the gallery by every verb: trained, measured, sampled, drawn, saved."""

import logging
import math

import conftest
import pyro
import pytest
import torch

import pyro_vae
from pyro_vae import plots
from pyro_vae.data import Data, Split
from pyro_vae.evaluation import given_shared
from pyro_vae.plots import registry

NAMES = conftest.names()
LINES = 60


def as_dict(data):
    return data if isinstance(data, dict) else {"x": data}


def main_entry(batch):
    """The data themselves: x, or the first of several."""
    return batch.get("x", next(iter(batch.values())))


def as_split(batch):
    return Split(batch, integers="x" in batch and batch["x"].dtype == torch.int64)


def rows(batch, n):
    return {key: value[:n] for key, value in batch.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_short_and_its_pairs_share_nothing(name, load):
    path = conftest.FOLDER / f"{name}.py"
    assert len(path.read_text().splitlines()) < LINES
    module = load(name)
    assert module.__doc__ and len(module.__doc__.strip().splitlines()) <= 5
    state = torch.get_rng_state()
    data, again = (as_dict(module.data(7)) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state()) and all(torch.equal(data[k], again[k]) for k in data)
    assert all(len(value) == 7 for value in data.values())
    other = as_dict(module.data(7, seed=1))
    assert not torch.equal(main_entry(data), main_entry(other))
    pairs = [pyro_vae.programs.program.as_programs(*module.pair()) for _ in range(2)]
    batch = as_dict(module.data(50))
    _, before = (pyro_vae.elbo(*pair, batch).mean for pair in pairs)
    owned = [{id(p) for program in pair for p in program.parameters()} for pair in pairs]
    assert owned[0] and not owned[0] & owned[1]
    pyro_vae.fit(*pairs[0], batch, epochs=1, learning_rate=0.1, progress=False, device="cpu")
    assert pyro_vae.elbo(*pairs[1], batch).mean == before


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss_and_is_recorded_or_says_why_not(name, trained):
    _, result, told = trained(name)
    losses = [record["train/loss"] for record in result.records]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    recorded = [line for line in told if line.startswith("training step recorded for")]
    eager = [line for line in told if "training steps run eagerly, they cannot be recorded: " in line]
    assert bool(recorded) != bool(eager)
    assert not pyro.get_param_store()


@pytest.mark.parametrize("name", NAMES)
def test_bounds_are_in_order(name, trained):
    """Of a latent that all data share: given one draw of it."""
    module, result, _ = trained(name)
    batch = as_dict(module.data(50, seed=1))
    pair, whole = (result.model, result.guide), pyro_vae.elbo(result.model, result.guide, batch, num_particles=20)
    if whole.shared:
        pair = given_shared(*pair, as_split(batch))
        whole = pyro_vae.elbo(*pair, batch, num_particles=20)
    tight = pyro_vae.log_likelihood(*pair, batch, num_particles=100)
    spread = (tight.per_datum - whole.per_datum).std().item() / 50**0.5
    assert math.isfinite(whole.mean) and math.isfinite(tight.mean)
    assert tight.mean > whole.mean - 4 * spread - 0.01
    assert str(tight).startswith("log-likelihood")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_sampled_encoded_and_reconstructed(name, trained):
    module, result, _ = trained(name)
    batch = rows(as_dict(module.data(5, seed=1)), 4)
    try:
        drawn = pyro_vae.sample(result.model, 4)
    except pyro_vae.errors.InputError as error:  # what it cannot do without is named
        assert "batch" in str(error)
        drawn = pyro_vae.sample(result.model, 4, batch=batch)
    assert all(len(value) == 4 and value.isfinite().all() for value in drawn.values())
    site = next(key.removesuffix(".mean") for key in drawn if key.endswith(".mean"))
    size = main_entry(batch).numel()
    assert drawn[site].numel() == size
    assert pyro_vae.reconstruct(result.model, result.guide, batch).numel() == size
    try:
        encoded = pyro_vae.encode(result.model, result.guide, batch)
    except pyro_vae.errors.InputError as error:  # all latents are summed over, and have probabilities
        assert "nothing to encode into" in str(error)
        encoded = pyro_vae.posterior_probabilities(result.model, result.guide, batch)
    assert encoded and all(len(value) == 4 for value in encoded.values())


KINDS = {"missing_data", "semi_supervised"}
DRAWN = [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


@pytest.mark.parametrize("name", DRAWN)
def test_its_figures_are_drawn_or_say_why_not(name, trained, tmp_path, caplog, monkeypatch):
    module, result, _ = trained(name)
    batch = as_dict(module.data(100, seed=1))
    data = Data(as_split(batch)) if "x" in batch else batch  # else by the programs' own names
    monkeypatch.setattr(registry, "DPI", 30)  # to be fast
    with caplog.at_level(logging.INFO, "pyro_vae"):
        written = plots.draw_all(result.model, result.guide, data, result.records, tmp_path)
    assert {path.stem for path in written} >= {"training_curves"} and len(written) >= 3
    failed = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [line for line in failed if line.startswith("no figure")]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_saved_and_loaded(name, load, tmp_path):
    module = load(name)
    batch = as_dict(module.data(60))
    model, guide = module.pair()
    how = {"epochs": 1, "learning_rate": module.LEARNING_RATE, "progress": False, "device": "cpu"}
    result = pyro_vae.fit(model, guide, batch, out=tmp_path / "run", **how)
    score = pyro_vae.elbo(result.model, result.guide, batch).mean
    model, guide = module.pair()  # with other weights
    loaded = pyro_vae.load(tmp_path / "run", model=model, guide=guide)
    assert pyro_vae.elbo(*loaded, batch).mean == score
