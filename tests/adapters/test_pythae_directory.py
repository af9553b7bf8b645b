"""Directories as pythae writes them: log p(x) by quadrature from their weights, and no code of theirs is run."""

import json
import logging
import math
import pickle
import zipfile

import pytest
import torch
from torch import nn
from torch.nn.functional import relu

import pyro_vae
from pyro_vae.adapters import from_pythae
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.likelihoods import ContinuousBernoulli, Gaussian

SIZES = {"encoder.layers.0.0": (512, 6), "encoder.embedding": (1, 512), "encoder.log_var": (1, 512)}
SIZES |= {"decoder.layers.0.0": (512, 1), "decoder.layers.1.0": (6, 512)}


def saved(folder, name="VAEConfig", loss="bce", weights=None, **more):
    """What pythae 0.1.2 writes of an untrained model with its default networks, one latent and data (1, 2, 3)."""
    folder.mkdir(exist_ok=True)
    config = {"name": name, "input_dim": [1, 2, 3], "latent_dim": 1, "uses_default_encoder": True}
    config |= {"uses_default_decoder": True, "reconstruction_loss": loss, **more}
    (folder / "model_config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text('{"name": "EnvironmentConfig", "python_version": "3.11"}')
    if weights is None:
        torch.manual_seed(3)
        weights = {f"{key}.weight": torch.randn(size) / math.sqrt(size[1]) for key, size in SIZES.items()}
        weights |= {f"{key}.bias": torch.randn(size[0]) / 3 for key, size in SIZES.items()}
    torch.save({"model_state_dict": weights}, folder / "model.pt")
    return weights


def by_quadrature(weights, x, log_prob):
    """log of the integral of p(z) p(x | z) over a grid of z, in float64, from the weights alone."""
    w = {key: value.double() for key, value in weights.items()}
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    hidden = relu(z @ w["decoder.layers.0.0.weight"].T + w["decoder.layers.0.0.bias"])
    p = (hidden @ w["decoder.layers.1.0.weight"].T + w["decoder.layers.1.0.bias"]).sigmoid()  # (Z, 6)
    log_x = torch.stack([log_prob(one, p).sum(-1) for one in x.flatten(1).double()])  # (N, Z)
    return (log_x - 0.5 * z[:, 0].square()).logsumexp(1) - 0.5 * math.log(2 * math.pi) + math.log(18 / 4000)


def bernoulli(x, p):
    return x * p.log() + (1 - x) * (1 - p).log()


def gaussian(scale):
    return lambda x, m: -0.5 * ((x - m) / scale).square() - math.log(scale) - 0.5 * math.log(2 * math.pi)


def agrees(pair, x, exact):
    found = pyro_vae.log_likelihood(*pair, x, num_particles=4000, progress=False)
    error = (1 / found.effective_sample_size - 1 / 4000).clamp(min=1e-8).sqrt()
    assert ((found.per_datum - exact).abs() < 5 * error + 1e-4).all()
    assert error.max() < 0.1


@pytest.mark.parametrize("name", ["VAEConfig", "IWAEConfig", "BetaVAEConfig"])
def test_bce_is_bernoulli(tmp_path, name, caplog):
    more = {"IWAEConfig": {"number_samples": 10}, "BetaVAEConfig": {"beta": 4.0}}.get(name, {})
    weights = saved(tmp_path / "saved", name, **more)
    x = torch.rand(5, 1, 2, 3).round()
    agrees(from_pythae(tmp_path / "saved", x), x, by_quadrature(weights, x, bernoulli))
    assert "standard deviation" not in caplog.text


def test_mse_is_gaussian_of_deviation_one_unless_another_is_said(tmp_path, caplog):
    weights = saved(tmp_path / "saved", loss="mse")
    x = torch.rand(5, 1, 2, 3)
    with caplog.at_level(logging.WARNING):
        pair = from_pythae(tmp_path / "saved", x)
    assert "Gaussian of standard deviation 1" in caplog.text
    agrees(pair, x, by_quadrature(weights, x, gaussian(1.0)))
    caplog.clear()
    pair = from_pythae(tmp_path / "saved", x, likelihood=Gaussian(0.5**0.5))
    assert "Gaussian of standard deviation 1" not in caplog.text
    agrees(pair, x, by_quadrature(weights, x, gaussian(0.5**0.5)))


def test_grey_data_under_bce_have_no_density_but_that_of_another_likelihood(tmp_path):
    weights = saved(tmp_path / "saved")
    x = torch.rand(5, 1, 2, 3)
    with pytest.raises(InputError, match="neither 0 nor 1"):
        from_pythae(tmp_path / "saved", x)

    def continuous(x, p):
        logits = p.logit()
        return x * logits + (logits / logits.expm1()).log()

    exact = by_quadrature(weights, x, continuous)
    agrees(from_pythae(tmp_path / "saved", x, likelihood=ContinuousBernoulli()), x, exact)


class Own(nn.Module):
    def __init__(self, size, names):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(*size) for name in names})

    def forward(self, x):
        return {name: head(x.flatten(1)).sigmoid() for name, head in self.heads.items()}


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_networks_of_ones_own_are_passed_and_no_pickle_is_read(tmp_path):
    encoder, decoder = Own((6, 1), ("embedding", "log_covariance")), Own((1, 6), ("reconstruction",))
    weights = {
        f"{k}.{n}": v for k, m in (("encoder", encoder), ("decoder", decoder)) for n, v in m.state_dict().items()
    }
    saved(tmp_path / "saved", weights=weights, uses_default_encoder=False, uses_default_decoder=False)
    ran = tmp_path / "ran"
    for name in ("encoder", "decoder"):
        (tmp_path / "saved" / f"{name}.pkl").write_bytes(pickle.dumps(Runs(ran)))
    x = torch.rand(5, 1, 2, 3).round()
    with pytest.raises(InputError, match=r"pickle, encoder\.pkl"):
        from_pythae(tmp_path / "saved", x)
    with pytest.raises(InputError, match=r"pickle, decoder\.pkl"):
        from_pythae(tmp_path / "saved", x, encoder=Own((6, 1), ("embedding", "log_covariance")))
    fresh = {"encoder": Own((6, 1), ("embedding", "log_covariance")), "decoder": Own((1, 6), ("reconstruction",))}
    pair = from_pythae(tmp_path / "saved", x, **fresh)
    assert not ran.exists()
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    p = decoder.double()(z)["reconstruction"]
    log_x = torch.stack([bernoulli(one, p).sum(-1) for one in x.flatten(1).double()])
    constant = math.log(18 / 4000) - 0.5 * math.log(2 * math.pi)
    agrees(pair, x, (log_x - 0.5 * z[:, 0].square()).logsumexp(1).detach() + constant)
    decoder.float().forward = lambda z: torch.zeros(len(z), 6)
    with pytest.raises(InputError, match="must give a mapping with reconstruction"):
        from_pythae(tmp_path / "saved", x, encoder=encoder, decoder=decoder)
    with pytest.raises(CorruptFileError, match="no weights of this encoder"):
        from_pythae(tmp_path / "saved", x, encoder=nn.Linear(6, 1), decoder=decoder)


def test_weights_that_would_run_code_are_refused(tmp_path):
    saved(tmp_path / "saved")
    ran = tmp_path / "ran"
    torch.save({"model_state_dict": {"encoder.x": Runs(ran)}}, tmp_path / "saved" / "model.pt")
    with pytest.raises(CorruptFileError, match="cannot be read as weights"):
        from_pythae(tmp_path / "saved", torch.zeros(2, 1, 2, 3))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("VQVAEConfig", "no prior"),
        ("VAE_IAF_Config", "flow"),
        ("VAMPConfig", "prior"),
        ("WAE_MMD_Config", "likelihood"),
    ],
)
def test_other_models_are_refused_by_name(tmp_path, name, why):
    saved(tmp_path / "saved", name)
    with pytest.raises(InputError, match=f"{name.removesuffix('Config').rstrip('_')}: .*{why}"):
        from_pythae(tmp_path / "saved", torch.zeros(2, 1, 2, 3))


def change(folder, **values):
    file = folder / "model_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def packed(folder):
    with zipfile.ZipFile(folder / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 10**6)


DAMAGES = {
    "no configuration": (lambda f: (f / "model_config.json").unlink(), InputError, "no model_config.json"),
    "no weights": (lambda f: (f / "model.pt").unlink(), InputError, "no model.pt"),
    "no JSON": (lambda f: (f / "model_config.json").write_text("{"), CorruptFileError, "no configuration"),
    "a list": (lambda f: (f / "model_config.json").write_text("[]"), CorruptFileError, "no configuration"),
    "truncated weights": (
        lambda f: (f / "model.pt").write_bytes((f / "model.pt").read_bytes()[:999]),
        CorruptFileError,
        "cannot be read",
    ),
    "packed weights": (packed, CorruptFileError, "packed"),
    "no state": (lambda f: torch.save({"a": torch.zeros(1)}, f / "model.pt"), CorruptFileError, "model_state_dict"),
    "huge latents": (lambda f: change(f, latent_dim=2**30), CorruptFileError, "no weights of this encoder"),
    "negative latents": (lambda f: change(f, latent_dim=-1), CorruptFileError, "no sizes"),
    "latents of text": (lambda f: change(f, latent_dim="1"), CorruptFileError, "no sizes"),
    "no shape": (lambda f: change(f, input_dim=None), CorruptFileError, "no sizes"),
    "another shape": (lambda f: change(f, input_dim=[7]), InputError, r"is of data of shape \(7,\)"),
    "another loss": (lambda f: change(f, reconstruction_loss="l1"), CorruptFileError, "bce or mse"),
    "own networks said": (lambda f: change(f, uses_default_decoder=False), InputError, "pickle"),
    "weights of more": (
        lambda f: saved(f, weights=saved(f) | {"prior.mean": torch.zeros(1)}),
        CorruptFileError,
        "'prior.mean'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_directories_are_refused(tmp_path, damage):
    saved(tmp_path / "saved")
    make, error, words = DAMAGES[damage]
    make(tmp_path / "saved")
    with pytest.raises(error, match=words):
        from_pythae(tmp_path / "saved", torch.zeros(2, 1, 2, 3))
