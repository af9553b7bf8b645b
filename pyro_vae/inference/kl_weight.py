"""KL weighting as a handler around any program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor, nn

from pyro_vae.penalty import is_penalty


class KLWeightMessenger(Messenger):
    r"""Scale the latent sites of a program by a live tensor.

    Put around the model *and* the guide it turns the ELBO into

    .. math:: E_q[\log p(x|z)] - \beta\, KL(q(z|x) \,\|\, p(z))

    A guide's factors are a part of log q, and weighted too; penalties are not.

    Args:
        weight: beta, a 0-dimensional tensor; changing its value in place changes the weight, with nothing to
            build or record again.
        of_guide: whether the program is the guide.

    Source: Bowman et al. 2016, arXiv:1511.06349 (annealing); Higgins et al. 2017 (beta-VAE).
    """

    def __init__(self, weight: Tensor, of_guide: bool = False) -> None:
        super().__init__()
        self.weight, self.of_guide = weight, of_guide

    def _pyro_sample(self, msg: Message) -> None:
        weighted = not is_penalty(msg) if self.of_guide else not msg["is_observed"]
        if weighted and type(msg["fn"]).__name__ != "_Subsample":
            msg["scale"] = msg["scale"] * self.weight


class KLWeighted(nn.Module):
    """A program under :class:`KLWeightMessenger`, as a module; the weight is a buffer that is not saved.

    Args:
        program: any Pyro program.
        weight: beta, a 0-dimensional tensor, shared by the model's and the guide's wrapper.
        of_guide: whether the program is the guide.
    """

    weight: Tensor

    def __init__(self, program: Callable[..., Any], weight: Tensor, of_guide: bool = False) -> None:
        super().__init__()
        self.program, self.of_guide = program, of_guide
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program with its latent sites scaled."""
        with KLWeightMessenger(self.weight, self.of_guide):
            return self.program(*args, **kwargs)
