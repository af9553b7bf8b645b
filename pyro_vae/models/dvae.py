"""The discrete variational autoencoder's generative model, with relaxed codes in training."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.distributions import RelaxedUniformCodes
from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods import Likelihood, LogitLaplace
from pyro_vae.models.base import LatentCodeModel
from pyro_vae.networks.grids import grid_shape
from pyro_vae.networks.pyramid import PyramidDecoder
from pyro_vae.priors import UniformPrior


class DVAE(LatentCodeModel):
    r"""codes ~ p(codes);  x | codes ~ likelihood(decoder(e[codes])); in training mode mixtures of codes.

    .. math:: p(codes) = K^{-N} \text{ or a learned prior}, \quad
              x \sim likelihood(decoder(z)), \quad z_i = e_{codes_i} \text{ or, in training, } \sum_k y_{ik} e_k

    Sites: ``codes``, and ``x``. In evaluation mode codes are integers with event shape ``grid``, and their prior is
    ``priors["codes"]``, uniform until a learned one takes its place. In training mode they are relaxed one-hot grids y
    with event shape ``(K, *grid)`` (:class:`~pyro_vae.distributions.RelaxedUniformCodes`). Model and guide must be in
    the same mode. Where the learned prior is one over texts, too, there is a site ``text`` before the codes, observed
    if the argument ``text`` is given.

    The buffer ``temperature`` is that of the relaxed prior. The closed-form KL does not depend on it; where the relaxed
    densities are used (``ELBO(analytic_kl=False)``, ``IWAE``), it is to be scheduled beside the guide's.

    Args:
        data_shape: shape of one datum, (channels, height, width) or (channels, length); its sides must be multiples of
            ``2 ** halvings``.
        num_codes: K.
        code_dim: D, dimensions of a code's vector.
        halvings: the grid has ``2 ** -halvings`` of the data's sides; the networks have a group of blocks more.
        channels: n, of the finest group of the networks; the others have n 2^i.
        num_blocks: residual blocks in a group.
        likelihood: p(x | decoder features); logit-Laplace if not given.
        temperature: of the relaxed prior.
        data_mean: mean of the training data, shape ``data_shape``; the decoder's output bias starts at its mean.

    Raises:
        InputError: if the data do not divide into a grid; for sizes that are not positive.

    Source: Ramesh et al. 2021, arXiv:2102.12092, section 2.1 and appendix A.

    Example:
        >>> import pyro_vae
        >>> model = pyro_vae.models.DVAE((3, 16, 16), num_codes=32, code_dim=4, halvings=2, channels=8)
        >>> drawn = pyro_vae.sample(model, 5)
        >>> drawn["codes"].shape, drawn["x"].shape
        (torch.Size([5, 4, 4]), torch.Size([5, 3, 16, 16]))
    """

    temperature: Tensor

    def __init__(
        self,
        data_shape: Sequence[int],
        num_codes: int = 8192,
        code_dim: int = 128,
        halvings: int = 3,
        channels: int = 256,
        num_blocks: int = 2,
        likelihood: Likelihood | None = None,
        temperature: float = 1.0,
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.likelihood = likelihood if likelihood is not None else LogitLaplace()
        self.grid = grid_shape(data_shape, halvings, "DVAE")
        self.num_codes, self.halvings, self.widths = num_codes, halvings, (channels, num_blocks)
        self.priors = nn.ModuleDict({"codes": UniformPrior(num_codes, self.grid)})
        self.codebook = nn.Parameter(torch.randn(num_codes, positive("code_dim", code_dim)))
        self.decoder = PyramidDecoder(code_dim, self.feature_shape, channels, halvings, num_blocks)
        self.register_buffer("temperature", positive_temperature(temperature))
        self.init_output_bias(self.decoder, data_mean)

    def forward(
        self, x: Tensor | None = None, *, y: Tensor | None = None, text: Tensor | None = None, num_samples: int = 1
    ) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, or sample ``num_samples`` data.

        Raises:
            InputError: if the codes are a guide's in the other mode; in training, if the prior is a learned one.
        """
        with self.data_plate(x, num_samples):
            text = self.sample_text(text)
            prior = self._relaxed_prior() if self.training else self.priors["codes"](y=y, text=text)
            codes = pyro.sample("codes", prior)
            if codes.is_floating_point() != self.training:
                raise InputError(
                    f"the model is in {_mode(self.training)} mode and was given the codes of a guide in "
                    f"{_mode(not self.training)} mode: put both in the same one"
                )
            features = self.decoder(self.embed(codes))  # (..., batch, P * channels, *sides)
            return pyro.sample("x", self.likelihood(features, len(self.data_shape)), obs=x)

    def embed(self, codes: Tensor) -> Tensor:
        """Vectors ``(..., D, *grid)`` of integer codes ``(..., *grid)``, or of mixtures of them ``(..., K, *grid)``."""
        rank = len(self.grid)
        if not codes.is_floating_point():
            return self.codebook[codes].movedim(-1, -rank - 1)
        z = torch.einsum("...kn,kd->...dn", codes.flatten(-rank), self.codebook)
        return z.unflatten(-1, self.grid)

    def _relaxed_prior(self) -> RelaxedUniformCodes:
        if not isinstance(self.priors["codes"], UniformPrior):
            raise InputError(
                "a DVAE is trained with the uniform prior over its codes; the learned one is for evaluation"
            )
        return RelaxedUniformCodes(self.num_codes, self.grid, self.temperature)


def positive_temperature(value: float) -> Tensor:
    """A temperature as a 0-dimensional tensor.

    Raises:
        InputError: if it is not positive.
    """
    if not value > 0:
        raise InputError(f"temperature must be positive, got {value}")
    return torch.tensor(float(value))


def _mode(training: bool) -> str:
    return "training" if training else "evaluation"
