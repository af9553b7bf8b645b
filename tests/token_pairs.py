"""A pair over sequences of letters whose latents are the logits, so that what it makes of them is known."""

import pyro
import pyro.distributions as dist
import torch

from pyro_vae.data import Data, Split
from pyro_vae.data.tokens import Tokens
from pyro_vae.distributions import Sequences

PLACES, LETTERS = 6, "abc"  # the last place is an end
KINDS = len(LETTERS) + 1


class Letters(Tokens):
    """One letter a token."""

    kind, num_tokens, length, ends = "letters", KINDS, PLACES, True

    def encode(self, things):
        rows = [[LETTERS.index(letter) + 1 for letter in thing] for thing in things]
        return torch.tensor([row + [0] * (PLACES - len(row)) for row in rows])

    def decode(self, tokens):
        rows = [row[: row.index(0)] if 0 in row else row for row in tokens.tolist()]
        return ["".join(LETTERS[token - 1] for token in row) for row in rows]

    def plain(self):
        return {}

    @classmethod
    def from_plain(cls, values):
        return cls()


class Table:
    """A network whose logits at each place are those of the condition, whatever stands before."""

    ends = True

    def hidden(self, tokens, condition):
        return condition["z"][:, : tokens.shape[1]]

    def output(self, hidden):
        return hidden

    def steps(self, batch, condition):
        return Steps(condition["z"])


class Steps:
    """The logits of one place after another."""

    def __init__(self, z):
        self.z = z

    def __call__(self, position, tokens):
        return self.z[:, position]

    def take(self, rows):
        self.z = self.z[rows]


def model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(PLACES, KINDS), 3.0).to_event(2))
        p = Sequences(Table(), KINDS, (PLACES,), {"z": z}, z.shape[:-2], z.device)
        return pyro.sample("x", p, obs=x)


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        mean = 5.0 * torch.nn.functional.one_hot(x, KINDS)
        pyro.sample("z", dist.Normal(mean, 4.0).to_event(2))  # so wide that a draw is seldom the datum


def letters(n=20):
    """Data with their tokens."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, KINDS, (n, PLACES), generator=generator)
    ends = torch.randint(1, PLACES, (n, 1), generator=generator)
    x = torch.where(torch.arange(PLACES) < ends, x, 0)
    return Data(*(Split({"x": x}, integers=True, name=f"letters {part}") for part in "ab"), extras=(Letters(),))
