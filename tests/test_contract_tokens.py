"""The shared contract of likelihoods of tokens, and of a language model without latents."""

from types import MappingProxyType

import pytest
import torch
from contract import PairContract
from token_cases import KINDS, some_sequences

from pyro_vae.guides import EmptyGuide, GaussianGuide
from pyro_vae.models import VAE, LanguageModel
from pyro_vae.networks import RecurrentEncoder, TransformerEncoder

SHAPE, V = (6,), 7


def sequences(n=16):
    """Sequences of all lengths, with structure: small tokens, or large ones."""
    x = some_sequences(n, *SHAPE, 4)
    return torch.where((torch.arange(n)[:, None] % 2 == 0) & (x > 0), x + 3, x)


class TokenContract(PairContract):
    """A VAE with a likelihood of tokens and an encoder that reads them."""

    learning_rate = 0.02
    kind, options = "gru", MappingProxyType({})

    def make_pair(self):
        model = VAE(SHAPE, 3, KINDS[self.kind](SHAPE, V, **self.options), hidden_dims=())
        return model, GaussianGuide(model, self.encoder()), {"x": sequences()}

    def encoder(self):
        return RecurrentEncoder(SHAPE, V, 6, 8, 8, cell="gru")


class TestGRU(TokenContract):
    options = MappingProxyType({"word_dropout": 0.3, "dropout": 0.1})


class TestTransformer(TokenContract):
    kind = "transformer"

    def encoder(self):
        return TransformerEncoder(SHAPE, V, 6, width=8, heads=2)


@pytest.mark.slow  # the default run has others of the family
class TestConductor(TokenContract):
    kind, options = "conductor-gru", MappingProxyType({"scheduled_sampling": 0.2})


class Unrecorded:
    """An LSTM on a CPU cannot be recorded."""

    def test_the_recorded_step_equals_the_eager_step(self):
        pass


@pytest.mark.slow  # the default run has others of the family
class TestLSTM(Unrecorded, TokenContract):
    kind = "lstm"

    def encoder(self):
        return RecurrentEncoder(SHAPE, V, 6, 8, 8, num_layers=2)


class TestLanguageModel(PairContract):
    learning_rate = 0.02
    has_latents = has_continuous_latents = False

    def make_pair(self):
        return LanguageModel(SHAPE, V, KINDS["gru"](SHAPE, V, features=0)), EmptyGuide(), {"x": sequences()}
