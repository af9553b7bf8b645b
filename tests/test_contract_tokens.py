"""The shared contract of likelihoods of tokens, and of a language model without latents."""

from types import MappingProxyType

import pytest
import torch
from contract import PairContract
from token_cases import KINDS, some_sequences

from pyro_vae.guides import EmptyGuide, GaussianGuide
from pyro_vae.models import VAE, LanguageModel
from pyro_vae.networks import RecurrentEncoder, TransformerEncoder
from pyro_vae.objectives import ELBO
from pyro_vae.recording import NotRecordable, Recording
from pyro_vae.training.compiled import Step

SHAPE, V = (6,), 7


def sequences(n=16, ends=True):
    """Sequences of all lengths, with structure: small tokens, or large ones."""
    x = some_sequences(n, *SHAPE, 4, ends)
    return torch.where((torch.arange(n)[:, None] % 2 == 0) & (x > 0), x + 3, x)


class NotRecorded:
    """What has ends is read to the last one alone on a CPU, and an LSTM there cannot be recorded."""

    why = "to the last end in their batch"

    @pytest.mark.parametrize("objective", [ELBO])
    def test_the_recorded_step_equals_the_eager_step(self, objective):
        model, guide, batch = self.programs()
        step = Step(model, guide, objective())
        with pytest.raises(NotRecordable, match=self.why):
            Recording(step, step, batch, differentiate=True).check(batch, 1e-5)


class TokenContract(PairContract):
    """A VAE with a likelihood of tokens and an encoder that reads them."""

    learning_rate = 0.02
    kind, options = "gru", MappingProxyType({})

    def make_pair(self):
        model = VAE(SHAPE, 3, KINDS[self.kind](SHAPE, V, **self.options), hidden_dims=())
        return model, GaussianGuide(model, self.encoder()), {"x": sequences(ends=self.options.get("ends", True))}

    def encoder(self):
        return RecurrentEncoder(SHAPE, V, 6, 8, 8, cell="gru")


@pytest.mark.slow  # the default run has others of the family
class TestGRU(NotRecorded, TokenContract):
    options = MappingProxyType({"word_dropout": 0.3, "dropout": 0.1})


class TestTransformer(TokenContract):
    kind, options = "transformer", MappingProxyType({"ends": False, "dropout": 0.1})

    def encoder(self):
        return TransformerEncoder(SHAPE, V, 6, width=8, heads=2)


@pytest.mark.slow  # the default run has others of the family
class TestConductor(TokenContract):
    kind, options = "conductor-gru", MappingProxyType({"ends": False, "scheduled_sampling": 0.2})


@pytest.mark.slow  # the default run has others of the family
class TestLSTM(NotRecorded, TokenContract):
    kind, why = "lstm", "in `|to the last end"

    def encoder(self):
        return RecurrentEncoder(SHAPE, V, 6, 8, 8, num_layers=2)


class TestLanguageModel(NotRecorded, PairContract):
    learning_rate = 0.02
    has_latents = has_continuous_latents = False

    def make_pair(self):
        return LanguageModel(SHAPE, V, KINDS["gru"](SHAPE, V, features=0)), EmptyGuide(), {"x": sequences()}
