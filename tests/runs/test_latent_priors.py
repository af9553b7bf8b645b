"""Learned priors over real latents in configurations, on the command line, in runs that are resumed and loaded."""

import pytest
import torch

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.data import as_data
from pyro_vae.errors import InputError
from pyro_vae.guides import GaussianGuide
from pyro_vae.models import VAE, HierarchicalVAE
from pyro_vae.priors import MixturePrior, VampPrior
from pyro_vae.recipes import read_recipe
from pyro_vae.runs.config import build, experiment_parser, parse_config
from pyro_vae.runs.measurements import measure, weights_digest
from pyro_vae.training.checkpoint import named_weights

SMALL = {
    "vae-vamp": ["--model.prior.num_components", "10"],
    "vae-flow": ["--model.prior.num_layers", "1", "--model.prior.hidden_dims", "[8]"],
}
OPTIONS = ["--data.limit", "60", "--model.latent_dim", "3", "--model.hidden_dims", "[8]", "--guide.hidden_dims", "[8]"]
OPTIONS += ["--fit.device", "cpu", "--fit.batch_size", "20"]


@pytest.mark.parametrize("name", SMALL)
def test_a_recipe_is_trained_and_its_run_loaded(name, tmp_path):
    run = tmp_path / "run"
    assert main(["train", name, *OPTIONS, *SMALL[name], "--fit.epochs", "1", "--out", str(run)]) == 0
    model, guide = pyro_vae.load(run)
    prior = model.latent_prior
    assert prior.shape == (3,)
    data = pyro_vae.load_data("mnist5k", limit=20, binarization="threshold")
    first = pyro_vae.log_likelihood(model, guide, data, num_particles=5)
    again = pyro_vae.log_likelihood(*pyro_vae.load(run), data, num_particles=5)
    assert torch.equal(first.per_datum, again.per_datum)
    assert pyro_vae.sample(model, 4)["z"].shape == (4, 3)
    if name == "vae-vamp":
        assert prior.guide.program is guide and bool(prior.initialized) and prior.data_shape == (1, 28, 28)
        with torch.no_grad():  # the prior is of the guide's present weights
            z = torch.zeros(1, 3)
            before = model.prior().log_prob(z)
            next(guide.parameters()).add_(0.1)
            assert not torch.equal(before, model.prior().log_prob(z))


def built(name, **changes):
    config = read_recipe(name)
    config["model"]["init_args"] |= {"latent_dim": 3, "hidden_dims": [8]} | changes
    return build(parse_config(experiment_parser(config), config, name), (1, 28, 28)).model


def test_a_prior_in_a_configuration_has_the_models_shape():
    """What it does not say is filled in: the latent's shape and the data's; what it says stands."""
    prior = built("vae", prior={"class_path": "MixturePrior", "init_args": {"num_components": 4}}).latent_prior
    assert isinstance(prior, MixturePrior) and prior.shape == (3,) and prior.logits.shape == (4,)
    prior = built("vae", prior="VampPrior").latent_prior
    assert isinstance(prior, VampPrior) and (prior.shape, prior.data_shape) == ((3,), (1, 28, 28))
    with pytest.raises(InputError, match=r"the prior has shape \(4,\), and latent site 'z' has \(3,\)"):
        built("vae", prior={"class_path": "MixturePrior", "init_args": {"shape": [4]}})
    config = {
        "data": {"name": "mnist5k"},
        "model": {
            "class_path": "HierarchicalVAE",
            "init_args": {"latent_dims": [4, 2], "hidden_dims": [8, 8], "prior": {"class_path": "VampPrior"}},
        },
        "guide": {"class_path": "LadderGuide", "init_args": {"hidden_dims": [8, 8]}},
    }
    pair = build(parse_config(experiment_parser(config), config, "here"), (1, 28, 28))
    assert isinstance(pair.model, HierarchicalVAE) and pair.model.latent_prior.shape == (2,)
    assert pair.model.latent_prior.guide.program is pair.guide and pair.model.latent_prior.site == "z2"


def test_training_goes_on_as_if_it_had_not_been_interrupted(tmp_path):
    """Averaged weights, the pseudo-inputs and their start; on graphs as eagerly."""
    x = (torch.rand(40, 1, 6, 5, generator=torch.Generator().manual_seed(1)) > 0.5).float()

    def trained(epochs, out=None, resume=False, compile="graph"):
        torch.manual_seed(4)
        model = VAE((1, 6, 5), 2, hidden_dims=(8,), prior=VampPrior((2,), (1, 6, 5), 6))
        guide = GaussianGuide(model, hidden_dims=(8,))
        how = {"batch_size": 20, "ema_decay": 0.9, "progress": False, "device": "cpu", "compile": compile}
        pyro_vae.fit(model, guide, x, epochs=epochs, out=out, resume=resume, learning_rate=0.01, **how)
        return model.state_dict() | guide.state_dict()

    whole = trained(6)
    trained(3, tmp_path / "run")
    torch.testing.assert_close(trained(6, tmp_path / "run", resume=True), whole, rtol=0, atol=0)
    torch.testing.assert_close(trained(6, compile="off"), whole, rtol=1e-4, atol=1e-5)


def test_measuring_a_prior_of_the_guides_adds_no_weights():
    """Whatever is run of the pair, by itself too: the weights of a VampPrior's guide stay the guide's."""
    torch.manual_seed(0)
    prior = pyro_vae.priors.VampPrior((2,), (6,), num_components=4, start="random")
    model = pyro_vae.models.VAE((6,), latent_dim=2, hidden_dims=[8], prior=prior)
    guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=[8])
    x = (torch.rand(20, 6) < 0.4).float()
    prior.through(guide)
    names, digest = list(named_weights(model, guide)), weights_digest(model, guide)
    pyro_vae.sample(model, 3)  # the model alone
    options = {"limit": None, "memory_mib": 64, "seed": 0, "device": "cpu", "progress": False}
    measured = measure(model, guide, as_data({"train": x, "test": x}), "test", particles=5, **options)
    assert measured.result["metrics"]["posterior_against_prior"]
    assert list(named_weights(model, guide)) == names
    assert measured.result["weights_digest"] == weights_digest(model, guide) == digest
