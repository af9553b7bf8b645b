"""A pair of programs from an encoder and a decoder that were trained elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pyro_vae.adapters.checks import check_decoder, check_encoder, warn_of_readings
from pyro_vae.adapters.networks import Decoder, Encoder, Spread
from pyro_vae.adapters.pair import DecoderModel, EncoderGuide
from pyro_vae.data import DataLike, held_out
from pyro_vae.errors import InputError
from pyro_vae.likelihoods import Bernoulli, ContinuousBernoulli, Likelihood
from pyro_vae.programs.checks import check_data
from pyro_vae.programs.context import X
from pyro_vae.programs.program import as_programs, evaluation_mode, real_type
from pyro_vae.runtime import private_seed

SEEN = 100  # data that are looked at
OF_LOGITS = (Bernoulli, ContinuousBernoulli)


def from_modules(
    encoder: Callable[..., Any],
    decoder: Callable[..., Any],
    data: DataLike,
    *,
    likelihood: Likelihood,
    spread: Spread = "log_variance",
    probabilities: bool = False,
) -> tuple[nn.Module, nn.Module]:
    r"""Model and guide of an ordinary VAE, for everything that this package measures: z ~ N(0, I), x | z ~ likelihood.

    .. math:: q(z | x) = \prod_i N(z_i; \mu_i(x), \sigma_i(x)^2), \qquad p(x, z) = N(z; 0, I) \, p(x | decoder(z))

    A few of the data are sent through both, in evaluation mode, to see what would be silently wrong. Refused are
    outputs between 0 and 1 in the place of logits, and others in that of probabilities; negative deviations; random
    outputs; other shapes; data out of the likelihood's support. The log has a warning where another reading of the
    encoder gives a clearly better ELBO, and where the mean of the data explains them better than the pair.

    Weights stay where they are: the programs use the modules themselves, and move with them.

    Args:
        encoder: a module, or a function that uses some (``vae.encode``): x ``(N, *data_shape)`` to (mean, s), both
            ``(N, *latent_shape)``, or to one tensor ``(N, 2 d)``, the mean first.
        decoder: a module, or a function that uses some: z ``(n, *latent_shape)`` to the likelihood's features,
            ``(n, *data_shape)`` for most, or flat.
        data: some of what is to be measured (of :class:`pyro_vae.data.Data` the test part), as the encoder takes it.
        likelihood: p(x | decoder's outputs): ``Bernoulli()``, ``Gaussian(scale)`` with the decoder's outputs as
            means and a scale in the data's units, …. Training losses rarely say it: see the tutorial.
        spread: what the encoder's s is: ``"log_variance"``, ``"log_deviation"``, ``"deviation"``, ``"variance"``, or
            ``"softplus"``, of which the deviation is ``softplus(s)``.
        probabilities: the decoder ends in a sigmoid. One without is better: in single precision a sigmoid is 1 from a
            logit of 17 on, and is taken as 1 - 2^-24 here.

    Returns:
        model and guide, in evaluation mode, with sites ``z`` and ``x``.

    Raises:
        InputError: for what is refused.

    Example:
        >>> import torch, pyro_vae
        >>> from torch import nn
        >>> encoder, decoder = nn.Linear(12, 2 * 3), nn.Linear(3, 12)
        >>> x = (torch.rand(20, 12) > 0.5).float()
        >>> bernoulli = pyro_vae.likelihoods.Bernoulli()
        >>> model, guide = pyro_vae.adapters.from_modules(encoder, decoder, x, likelihood=bernoulli)
        >>> pyro_vae.log_likelihood(model, guide, x, num_particles=100, progress=False).per_datum.shape
        torch.Size([20])
    """
    if not isinstance(likelihood, Likelihood):
        raise InputError(
            f"likelihood must be one of pyro_vae.likelihoods, such as Bernoulli() or Gaussian(0.1), got {likelihood!r}"
        )
    of_logits = isinstance(likelihood, OF_LOGITS)
    if probabilities and not of_logits:
        raise InputError(
            f"probabilities: is of Bernoulli and ContinuousBernoulli; a {type(likelihood).__name__} takes the "
            "decoder's outputs as they are"
        )
    split = held_out(data)
    read = Encoder(encoder, spread)
    weight = next((p for p in read.parameters() if p.is_floating_point()), None)
    split = split.subset(min(SEEN, len(split))).to("cpu" if weight is None else weight.device, real_type(read))
    x = split.batch(slice(0, len(split)))[X]
    with evaluation_mode(read), torch.no_grad(), private_seed(0, x.device):
        mean = check_encoder(read, x)
    written = Decoder(decoder, mean.shape[1:], likelihood.feature_shape(split.shape), probabilities)
    with evaluation_mode(written), torch.no_grad(), private_seed(0, x.device):
        check_decoder(written, mean, of_logits=of_logits)
    model, guide = DecoderModel(split.shape, written, likelihood), EncoderGuide(read)
    model.origin = model.origin.to(mean)
    likelihood.to(mean.device)
    check_data(*as_programs(model, guide), split)
    with evaluation_mode(model, guide), torch.no_grad(), private_seed(0, x.device):
        warn_of_readings(model, guide, x)
    return model.eval(), guide.eval()
