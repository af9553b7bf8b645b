"""A directory that pythae has written, as a pair of programs; without pythae, and without its pickles."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.adapters.modules import OF_LOGITS, from_modules
from pyro_vae.data import DataLike, held_out
from pyro_vae.errors import CorruptFileError, InputError, first_line
from pyro_vae.files import user_path
from pyro_vae.likelihoods import Bernoulli, Gaussian, Likelihood
from pyro_vae.training.checkpoint import load_tensors

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS = "model_config.json", "model.pt"
HIDDEN = 512  # width of the default networks
MOST = 1 << 20  # bytes of a configuration
MOST_AXIS = 1 << 31  # of a datum
KINDS = ("VAEConfig", "IWAEConfig", "BetaVAEConfig")
UNREAD = "such directories have not been compared with what pythae makes of them"
REASONS = {  # why others are refused
    **dict.fromkeys(("AEConfig", "RAE_L2_Config", "RAE_GP_Config"), "it has no distribution of z, and so no p(x)"),
    **dict.fromkeys(
        ("WAE_MMD_Config", "Adversarial_AE_Config", "VAEGANConfig", "MSSSIM_VAEConfig"), "its loss is of no likelihood"
    ),
    "VQVAEConfig": "it has codes and no prior over them",
    **dict.fromkeys(("SVAEConfig", "PoincareVAEConfig"), "its z are on a sphere, or in a hyperbolic space"),
    **dict.fromkeys(("VAMPConfig", "RHVAEConfig"), "its prior, or the density of its latents, is not N(0, I)"),
    **dict.fromkeys(("VAE_IAF_Config", "VAE_LinNF_Config"), "its guide is a flow, and no Gaussian"),
    "HVAEConfig": "its guide is a chain of Hamiltonian steps",
}


class DefaultEncoder(nn.Module):
    """pythae's default encoder: a hidden layer with ReLU, and linear layers to mean and log-variance."""

    def __init__(self, size: int, latent_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(size, HIDDEN), nn.ReLU())])
        self.embedding, self.log_var = nn.Linear(HIDDEN, latent_dim), nn.Linear(HIDDEN, latent_dim)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Mean and log-variance of ``(N, *input_dim)``, under pythae's names."""
        hidden = self.layers[0](x.flatten(1))
        return {"embedding": self.embedding(hidden), "log_covariance": self.log_var(hidden)}


class DefaultDecoder(nn.Module):
    """pythae's default decoder: a hidden layer with ReLU, a linear layer, and a sigmoid unless logits are wanted."""

    def __init__(self, size: int, latent_dim: int, logits: bool) -> None:
        super().__init__()
        last = nn.Identity() if logits else nn.Sigmoid()
        self.layers = nn.ModuleList(
            [nn.Sequential(nn.Linear(latent_dim, HIDDEN), nn.ReLU()), nn.Sequential(nn.Linear(HIDDEN, size), last)]
        )

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        """Reconstructions of ``(n, latent_dim)``, flat, under pythae's name."""
        return {"reconstruction": self.layers[1](self.layers[0](z))}


def from_pythae(
    path: str | Path,
    data: DataLike,
    *,
    likelihood: Likelihood | None = None,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
) -> tuple[nn.Module, nn.Module]:
    r"""Model and guide of a directory that pythae's ``save`` has written: of a VAE, an IWAE or a BetaVAE.

    pythae need not be installed: its default networks are built here, and ``model.pt`` is read as tensors alone. What
    x | z is, the directory says by its reconstruction loss, and in part:

    - ``bce``: :math:`-\sum_i x_i \log p_i + (1 - x_i) \log(1 - p_i)`, Bernoulli's density if x are 0 or 1. Of grey
      data it is no density; they are refused. ``ContinuousBernoulli()`` makes one of the same decoder.
    - ``mse``: up to pythae 0.1.0 :math:`\sum_i (x_i - m_i)^2`, a Gaussian of standard deviation :math:`\sqrt{1/2}`; in
      0.1.2 half of it, one of deviation 1. The directory does not say which version has trained it. ``Gaussian(1.0)``
      is taken if no likelihood is given, as pythae's ``get_nll`` does in every version, and the log says so.

    The beta of a BetaVAE is no part of either program: p(x) is that of its decoder under N(0, I).

    Args:
        path: the directory, with ``model_config.json`` and ``model.pt``.
        data: some of what is to be measured, in pythae's shape ``input_dim``.
        likelihood: p(x | decoder's outputs), if not what the loss says.
        encoder, decoder: modules of one's own, if the model was built with such: pythae stores them as pickles, whose
            code is never run here. They give what pythae's do, ``embedding`` and ``log_covariance``, and
            ``reconstruction``; the weights of the directory are loaded into them.

    Returns:
        model and guide, in evaluation mode; see :func:`from_modules`, whose checks are made.

    Raises:
        InputError: for a directory without the files, of another model, with pickled networks for which none is
            given; for data in no support of the likelihood, and as :func:`from_modules`.
        CorruptFileError: for files that are damaged, or weights that do not fit.

    Source: Chadebec et al. 2022, arXiv:2206.08309 (pythae).

    Example:
        >>> import json, pathlib, torch, pyro_vae
        >>> saved = {"name": "VAEConfig", "input_dim": [12], "latent_dim": 3, "uses_default_encoder": True}
        >>> saved |= {"uses_default_decoder": True, "reconstruction_loss": "bce"}
        >>> sizes = {"encoder.layers.0.0": (512, 12), "encoder.embedding": (3, 512), "encoder.log_var": (3, 512)}
        >>> sizes |= {"decoder.layers.0.0": (512, 3), "decoder.layers.1.0": (12, 512)}
        >>> weights = {f"{k}.weight": torch.randn(n) / 30 for k, n in sizes.items()}
        >>> weights |= {f"{k}.bias": torch.zeros(n[0]) for k, n in sizes.items()}
        >>> _ = pathlib.Path("model_config.json").write_text(json.dumps(saved))
        >>> torch.save({"model_state_dict": weights}, "model.pt")
        >>> x = (torch.rand(20, 12) > 0.5).float()
        >>> model, guide = pyro_vae.adapters.from_pythae(".", x)
        >>> pyro_vae.log_likelihood(model, guide, x, num_particles=100, progress=False).per_datum.shape
        torch.Size([20])
    """
    folder = user_path(path)
    config, weights = _configuration(folder), _weights(folder)
    split = held_out(data)
    if split.shape != config["input_dim"]:
        raise InputError(f"data: one x has shape {split.shape}, and {folder} is of data of shape {config['input_dim']}")
    if likelihood is None:
        likelihood = _said_by_loss(folder, config["reconstruction_loss"])
    of_logits = isinstance(likelihood, OF_LOGITS)
    size, latent_dim = math.prod(config["input_dim"]), config["latent_dim"]
    with torch.device("meta"):  # which takes no memory, whatever the file says
        networks = {
            "encoder": encoder if encoder is not None else DefaultEncoder(size, latent_dim),
            "decoder": decoder if decoder is not None else DefaultDecoder(size, latent_dim, of_logits),
        }
    odd = next((key for key in weights if key.partition(".")[0] not in networks), None)
    if odd is not None:
        raise CorruptFileError(f"{folder / WEIGHTS}: holds '{odd}', which is of no encoder and no decoder")
    for name, own in (("encoder", encoder), ("decoder", decoder)):
        if own is None and ((folder / f"{name}.pkl").exists() or not config[f"uses_default_{name}"]):
            raise InputError(
                f"{folder}: its {name} is one of its author's own, which pythae keeps as a pickle, {name}.pkl; reading "
                f"it would run its code. Build the module yourself and pass it: from_pythae(…, {name}=…)"
            )
        if own is not None and not isinstance(own, nn.Module):
            raise InputError(f"{name} must be a module, got {type(own).__name__}")
        part = {key.removeprefix(f"{name}."): v for key, v in weights.items() if key.startswith(f"{name}.")}
        _load(folder / WEIGHTS, name, networks[name], part, assign=own is None)
    return from_modules(
        _Outputs(networks["encoder"], ("embedding", "log_covariance")),
        _Outputs(networks["decoder"], ("reconstruction",)),
        split,
        likelihood=likelihood,
        probabilities=of_logits and decoder is not None,
    )


class _Outputs(nn.Module):
    """A network of pythae's, which gives a mapping, as one that gives tensors."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, value: Tensor) -> Any:
        found = self.network(value)
        missing = [name for name in self.names if not isinstance(found, Mapping) or name not in found]
        if missing:
            raise TypeError(f"it must give a mapping with {', '.join(self.names)}, as pythae's networks do")
        tensors = [found[name] for name in self.names]
        return tuple(tensors) if len(tensors) > 1 else tensors[0]


def _said_by_loss(folder: Path, loss: str) -> Likelihood:
    if loss == "bce":
        return Bernoulli()
    logger.warning(
        "warning: %s: its loss is mse: x given z is taken as Gaussian of standard deviation 1, as by pythae's get_nll; "
        "what pythae up to 0.1.0 trained is the ELBO of deviation 0.71. Another: likelihood=Gaussian(scale)",
        folder,
    )
    return Gaussian(1.0)


def _configuration(folder: Path) -> dict[str, Any]:
    """What a configuration says, checked.

    Raises:
        InputError: if there is none, or it is of another model.
        CorruptFileError: if it is damaged.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise InputError(f"{folder} is no directory of pythae's: it has no {CONFIG}")
    try:
        if file.stat().st_size > MOST:
            raise ValueError(f"it is larger than {MOST:,} bytes")
        found = json.loads(file.read_text())
        name = str(found["name"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFileError(f"{file} is no configuration of pythae's: {error}") from error
    if name not in KINDS:
        raise InputError(
            f"{folder} holds pythae's {name.removesuffix('Config').rstrip('_')}: "
            f"{REASONS.get(name, UNREAD)}. Read are VAE, IWAE and BetaVAE; of others give the networks to "
            "adapters.from_modules, if they are those of a VAE, or write the two programs"
        )
    shape, latent = found.get("input_dim"), found.get("latent_dim")
    numbers = [*shape, latent] if isinstance(shape, list) and shape else [None]
    if not all(type(n) is int and 1 <= n <= MOST_AXIS for n in numbers):
        raise CorruptFileError(f"{file}: input_dim {str(shape)[:100]}, latent_dim {str(latent)[:100]} are no sizes")
    if found.get("reconstruction_loss") not in ("bce", "mse"):
        raise CorruptFileError(
            f"{file}: reconstruction_loss must be bce or mse, got {found.get('reconstruction_loss')!r}"
        )
    default = {key: bool(found.get(key, True)) for key in ("uses_default_encoder", "uses_default_decoder")}
    return {
        "input_dim": tuple(shape),
        "latent_dim": latent,
        "reconstruction_loss": found["reconstruction_loss"],
        **default,
    }


def _weights(folder: Path) -> dict[str, Tensor]:
    """Tensors by name, as pythae saves them.

    Raises:
        InputError: if the file is not there.
        CorruptFileError: if it is damaged, or holds anything else.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise InputError(f"{folder} has no {WEIGHTS}")
    try:
        found = load_tensors(file)
        found = found.get("model_state_dict") if isinstance(found, dict) else None
    except Exception as error:  # damaged bytes make the reader fail in many ways
        raise CorruptFileError(f"{file} cannot be read as weights: {first_line(error)}") from error
    if not isinstance(found, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()
    ):
        raise CorruptFileError(
            f"{file} holds no weights by pythae: a mapping 'model_state_dict' of tensors is expected"
        )
    return dict(found)


def _load(file: Path, name: str, network: nn.Module, weights: Mapping[str, Tensor], *, assign: bool) -> None:
    """Load weights into a network, or let it have them.

    Raises:
        CorruptFileError: if they are not the network's.
    """
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    got = {key: tuple(value.shape) for key, value in weights.items()}
    if wanted != got:
        key = next(key for key in wanted | got if wanted.get(key) != got.get(key))
        raise CorruptFileError(
            f"{file}: no weights of this {name}: '{key}' is {got.get(key, 'not there')} in the file and "
            f"{wanted.get(key, 'not there')} in the module"
        )
    network.load_state_dict(weights, assign=assign)
