"""Updates of the guide alone before one of the model: how :class:`~pyro_vae.training.Aggressive` is carried out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation.information import mutual_information
from pyro_vae.programs.owners import own_weights
from pyro_vae.programs.program import Program
from pyro_vae.programs.session import in_evaluation
from pyro_vae.training.aggressive import Aggressive
from pyro_vae.training.batches import EpochBatches, derived_seed
from pyro_vae.training.compiled import Update

ROWS = 2


class GuideUpdates:
    """Trains the guide alone on batches of its own, and says what of training moves when.

    Args:
        how: when they end.
        programs: model and guide, which have been run.
        batches: of the guide's updates, in an order of their own; those of a whole batch size are taken.
        held_out: validation data.
        seed: of training, from which that of the draws is derived by which the mutual information is measured.

    Raises:
        InputError: if the guide or the model has no weight of its own to train, or the data are an iterable of batches.
        NotApplicable: if the latents have no mutual information with the data.
    """

    def __init__(
        self, how: Aggressive, programs: Sequence[Program], batches: EpochBatches, held_out: Split, seed: int
    ) -> None:
        if batches.in_order:
            raise InputError(
                "aggressive: the guide is updated on further batches, and the data are an iterable of batches, which "
                "come once an epoch: give a map-style dataset"
            )
        self.how, self.batches, self.seed = how, batches, derived_seed(seed, "information")
        self.programs, self.held_out = programs, held_out.subset(how.num_data)
        with in_evaluation(programs, batches.split.batch(slice(0, ROWS)), seed=0) as batch:
            self.of_model, self.of_guide = own_weights(programs[0], programs[1], batch)
        for who, other, weights in (("guide", "model", self.of_guide), ("model", "guide", self.of_model)):
            if not any(p.requires_grad for p in weights):
                raise InputError(
                    f"aggressive: the {who} has no weight of its own to train (all that it has is the {other}'s, or is "
                    "frozen), and is to be updated by itself"
                )
        self.information()

    def information(self) -> float:
        """The mutual information of the validation data and the latents, nats."""
        return mutual_information(*self.programs, self.held_out, seed=self.seed).value

    def before_step(self, update: Update, done: int, rates: Sequence[float] | None) -> int:
        """Update the guide until its loss stops falling.

        Args:
            update: makes one, of all weights that are not frozen.
            done: such updates that were made before, in all.
            rates: learning rates of the optimizer's groups; None: as they are.

        Returns:
            how many have been made now.
        """
        whole = max(len(self.batches.split) // self.batches.batch_size, 1)
        before, losses = math.inf, list[Tensor]()
        with frozen(self.of_model):
            for count in range(self.how.most_updates):
                epoch, index = divmod(done + count, whole)
                losses.append(update(self.batches.rows(epoch, index), rates)[0])
                if len(losses) == self.how.window:
                    loss = torch.stack(losses).double().mean().item()
                    if not loss < before:
                        return count + 1
                    before, losses = loss, []
        return self.how.most_updates

    def model_alone(self) -> AbstractContextManager[None]:
        """A block in which the guide's own weights stay."""
        return frozen(self.of_guide)

    def close(self) -> None:
        """Let go of what reads ahead."""
        self.batches.close()


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """A block in which parameters have no gradient, and so do not move."""
    moving = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)


def check_aggressive(validated: bool, world: int, accumulation: int, has_networks: bool) -> None:
    """Refuse what the guide's own updates do not go together with.

    Args:
        validated: whether there are validation data.
        world: data-parallel processes.
        accumulation: batches of an update.
        has_networks: whether the objective trains networks of its own.

    Raises:
        InputError: names it.
    """
    for wrong, words in (
        (not validated, "needs validation data, whose mutual information says when it ends: give a Data with them"),
        (world > 1, f"is for one process, and num_devices times num_nodes is {world}"),
        (accumulation > 1, f"makes an update of every batch, and grad_accumulation is {accumulation}"),
        (has_networks, "is for objectives without trained networks of their own, and this one has a discriminator"),
    ):
        if wrong:
            raise InputError(f"aggressive: training the guide by itself {words}")
