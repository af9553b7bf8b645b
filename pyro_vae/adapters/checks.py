"""What may be silently wrong of an encoder and a decoder that were trained elsewhere, seen by a few data."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from pyro_vae.adapters.networks import DEVIATIONS, POSITIVE, Decoder, Encoder
from pyro_vae.adapters.pair import DecoderModel, EncoderGuide
from pyro_vae.errors import InputError
from pyro_vae.likelihoods import Likelihood

logger = logging.getLogger(__name__)

DRAWS = 8  # of z for each datum
FEW = 20  # data of which the mean is nearly each of them
CLEAR = 1.0  # nats a datum
SURE = 3.0  # standard errors


def check_encoder(encoder: Encoder, x: Tensor) -> Tensor:
    """Check what an encoder gives of data ``(N, *data_shape)``, in evaluation mode.

    Returns:
        the means, ``(N, *latent_shape)``.

    Raises:
        InputError: if it gives other numbers in a second call, ones that are not finite, or deviations that are none.
    """
    mean, s = encoder.both(x)
    again = encoder.both(x)
    _check_numbers("encoder", torch.stack([mean, s]), torch.stack(again))
    if encoder.spread in POSITIVE and not bool((s > 0).all()):
        raise InputError(
            f"spread='{encoder.spread}', but the encoder's second output goes from {s.min():.4g} to {s.max():.4g}: "
            "it is no such thing. If it is a logarithm of the variance, say spread='log_variance'"
        )
    return mean


def check_decoder(decoder: Decoder, z: Tensor, *, of_logits: bool) -> None:
    """Check what a decoder gives of latents ``(N, *latent_shape)``, in evaluation mode.

    Args:
        decoder: the network.
        z: latents.
        of_logits: whether the likelihood's features are logits of probabilities.

    Raises:
        InputError: if it gives other numbers in a second call, ones that are not finite, logits where probabilities
            are expected, or the reverse.
    """
    found = decoder.raw(z)
    _check_numbers("decoder", found, decoder.raw(z))
    low, high = found.min().item(), found.max().item()
    inside = low >= 0 and high <= 1
    if decoder.probabilities and not inside:
        raise InputError(
            f"probabilities=True, but the decoder's outputs go from {low:.4g} to {high:.4g}: they are logits, or the "
            "like; leave it out"
        )
    if of_logits and not decoder.probabilities and inside:
        raise InputError(
            f"all of the decoder's outputs lie between 0 and 1 ({low:.4g} to {high:.4g}), as probabilities do and "
            "logits do not: give the decoder without its last Sigmoid, or say probabilities=True"
        )


def _check_numbers(who: str, found: Tensor, again: Tensor) -> None:
    if not bool(found.isfinite().all()):
        raise InputError(f"the {who} gives numbers that are not finite ({int((~found.isfinite()).sum())} of them)")
    if not torch.allclose(found, again, rtol=1e-4, atol=1e-5):
        apart = (found - again).abs().max().item()
        raise InputError(
            f"the {who} gives other numbers in every call, also in evaluation mode (up to {apart:.4g} apart): it draws "
            "random numbers, as dropout by a function without training=self.training does, or a z that is sampled in "
            "the place of its mean; give what is not random"
        )


def warn_of_readings(model: DecoderModel, guide: EncoderGuide, x: Tensor) -> None:
    """Say in the log where another reading of the encoder gives a clearly better ELBO, or the mean a better likelihood.

    An encoder was trained so that the ELBO is high: with another quantity taken for its deviation it is lower. And a
    decoder that knows x better than the mean of all x does has an ELBO above the likelihood of that.

    Args:
        model, guide: the pair, in evaluation mode.
        x: data ``(N, *data_shape)``.
    """
    mean, s = guide.encoder.both(x)
    noise = torch.randn(DRAWS, *mean.shape, device=mean.device, dtype=mean.dtype)
    bounds = {}
    for name, made in DEVIATIONS.items():
        deviation = made(s)
        if bool((deviation > 0).all() & deviation.isfinite().all()):
            bounds[name] = _elbo(model, x, mean, deviation, noise)
    own = bounds.get(guide.encoder.spread)
    if own is None:  # exp of what is very low is 0: the programs' own checks tell it
        return
    best = max(bounds, key=lambda name: bounds[name].mean().item())
    if _clearly_above(bounds[best], own):
        logger.warning(
            "warning: of %d data the ELBO is %.2f nats with the encoder's second output as spread='%s', and %.2f as "
            "'%s': it may be that, unless the loss weighted the KL (a beta-VAE). A wrong reading is a loose bound",
            len(x),
            own.mean(),
            guide.encoder.spread,
            bounds[best].mean(),
            best,
        )
    if len(x) < FEW or type(model.likelihood).initial_bias is Likelihood.initial_bias:  # which knows none
        return
    constant = model.likelihood.initial_bias(x.mean(0)).expand(len(x), *model.feature_shape)
    plain = model.likelihood(constant, len(model.data_shape)).log_prob(x)
    if _clearly_above(plain, own):
        logger.warning(
            "warning: of %d data the ELBO is %.2f nats, and knowing nothing but their mean gives %.2f: either the "
            "model has learned little, or the data are not prepared as for its training (range, order, binarization), "
            "weights are misplaced (a transposed matrix), or encoder and decoder are not of one training",
            len(x),
            own.mean(),
            plain.mean(),
        )


def _elbo(model: DecoderModel, x: Tensor, mean: Tensor, deviation: Tensor, noise: Tensor) -> Tensor:
    """The ELBO of each datum, nats, ``(N,)``; its KL in closed form."""
    z = mean + deviation * noise  # (R, N, *latent_shape)
    likelihood = model.likelihood(model.decoder(z), len(model.data_shape)).log_prob(x)  # (R, N)
    kl = 0.5 * (mean.square() + deviation.square() - 1) - deviation.log()
    return likelihood.mean(0) - kl.flatten(1).sum(1)


def _clearly_above(these: Tensor, those: Tensor) -> bool:
    """Whether numbers of data are above others of the same data: in the mean, by more than chance and a nat."""
    difference = (these - those).double()
    error = difference.std() / len(difference) ** 0.5 if len(difference) > 1 else 0.0
    return bool(difference.mean() > max(CLEAR, SURE * float(error)))
