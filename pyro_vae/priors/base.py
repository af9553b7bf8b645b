"""Base classes of priors over codes: their grid, the context that they are given, and autoregressive ones."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.distributions import Autoregressive, PaddedText
from pyro_vae.distributions.autoregressive import Condition, Steps
from pyro_vae.errors import InputError
from pyro_vae.networks.gated import transposed
from pyro_vae.programs.context import Context, label_context


class HeadSteps:
    """B relu(A relu(x) + a) + b of vectors x.

    Args:
        head: relu, a convolution of side 1, relu, and another one.
    """

    def __init__(self, head: nn.Sequential) -> None:
        self.maps = [(transposed(head[i].weight), head[i].bias.detach()) for i in (1, 3)]

    def __call__(self, x: Tensor) -> Tensor:
        """Logits ``(batch, K)`` of x ``(batch, channels)``."""
        (first, first_bias), (second, second_bias) = self.maps
        return torch.addmm(second_bias, torch.addmm(first_bias, x.relu(), first).relu_(), second)


class CodeGrid(NamedTuple):
    """A grid of codes: how many there are, and the grid's shape.

    Example:
        >>> from pyro_vae.priors import CodeGrid
        >>> CodeGrid(num_codes=512, shape=(7, 7)).shape
        (7, 7)
    """

    num_codes: int
    shape: tuple[int, ...]


class Prior(nn.Module):
    """p(codes | context), a distribution over a grid of integer codes 0 … K-1, as a module that gives it.

    ``prior(**context)`` is a distribution with event shape ``shape``; its context is by name, and what it has no
    use for is ignored: a class label ``y`` ``(batch,)``, a ``text`` ``(batch, text_length)`` of words 1 … num_words - 1
    with pads 0 behind its end, ``actions`` ``(batch, T)`` of a grid (T, height, width), and the codes of other grids,
    of coarser sites or of frames before, ``(..., batch, *their shape)``.

    Args:
        num_codes: K.
        shape: of the grid: (height, width), (length,), or (T, height, width) of T frames' grids.
        num_classes: labels 0 … num_classes - 1 that ``y`` may have; None: not conditional on a label.
        coarser: the grids of the coarser codes, or of those of frames before, that it is given, by name.
        text_length, num_words: of the texts that it is given; None: not conditional on a text.
        num_actions: actions 0 … num_actions - 1, of which there is one a frame; None: not conditional on them.

    Attributes:
        seen: bool ``(num_classes,)``, which labels there were in training; others are refused.

    Raises:
        InputError: for sizes that are not positive.

    Example:
        >>> from pyro_vae.distributions import UniformCodes
        >>> from pyro_vae.priors import Prior
        >>> class Uniform(Prior):
        ...     def forward(self, **context):
        ...         return UniformCodes(self.num_codes, self.shape)
        >>> Uniform(num_codes=6, shape=(4, 4))().sample((2,)).shape
        torch.Size([2, 4, 4])
    """

    seen: Tensor

    def __init__(
        self,
        num_codes: int,
        shape: Sequence[int],
        num_classes: int | None = None,
        coarser: Mapping[str, tuple[int, Sequence[int]]] | None = None,
        text_length: int | None = None,
        num_words: int | None = None,
        num_actions: int | None = None,
    ) -> None:
        super().__init__()
        self.num_codes, self.shape, self.num_classes = num_codes, tuple(shape), num_classes
        self.coarser = {name: CodeGrid(k, tuple(size)) for name, (k, size) in (coarser or {}).items()}
        for name, grid in {"the prior": CodeGrid(num_codes, self.shape), **self.coarser}.items():
            if grid.num_codes < 1 or not grid.shape or min(grid.shape) < 1:
                raise InputError(f"{name}: codes and the sides of their grid must be positive, got {tuple(grid)}")
        if num_classes is not None and num_classes < 1:
            raise InputError(f"num_classes must be a positive integer or None, got {num_classes}")
        if (text_length is None) != (num_words is None) or (text_length is not None and text_length < 1):
            raise InputError(f"a text needs a positive text_length and num_words; got {text_length} and {num_words}")
        if num_words is not None and num_words < 2:
            raise InputError(f"num_words must be at least 2, the pad and a word, got {num_words}")
        if num_actions is not None and (num_actions < 1 or len(self.shape) < 2):
            raise InputError(
                f"num_actions must be a positive integer, for grids (T, ...), got {num_actions} and {self.shape}"
            )
        self.text_length, self.num_words, self.num_actions = text_length, num_words, num_actions
        self.register_buffer("seen", torch.ones(num_classes or 0, dtype=torch.bool))

    @property
    def context(self) -> dict[str, Context]:
        """What it is given, by name: label, text and actions, if it is conditional on them, and other grids' codes."""
        given = {} if self.num_classes is None else {"y": seen_context(self.seen)}
        if self.text_length is not None and self.num_words is not None:
            given["text"] = text_context(self.text_length, self.num_words)
        if self.num_actions is not None:
            given["actions"] = actions_context(self.num_actions, self.shape[0])
        return given | {name: codes_context(grid) for name, grid in self.coarser.items()}

    @property
    def draws_text(self) -> bool:
        """Whether it is a prior over texts, too: it has methods ``text`` and ``training_scales`` of its own."""
        return False

    def text(self) -> TorchDistribution:
        """p(text), a distribution over ``(text_length,)`` int64.

        Raises:
            InputError: if it is no prior over texts.
        """
        raise InputError(f"{type(self).__name__} is no prior over texts")

    def training_scales(self) -> tuple[float, float]:
        """What the log-probabilities of texts and of codes are multiplied by in training."""
        return 1.0, 1.0

    @abstractmethod
    def forward(self, **context: Tensor | None) -> TorchDistribution:
        """p(codes | context).

        Raises:
            InputError: if the label, the text or a coarser grid is missing.
        """

    def own_context(self, context: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        """That part of a context that the prior has a use for.

        Raises:
            InputError: names what is missing, or has another shape than its own.
        """
        wanted = {"y": self.num_classes, "text": self.text_length, "actions": self.num_actions}
        names = [name for name, count in wanted.items() if count is not None] + [*self.coarser]
        found = {name: value for name in names if (value := context.get(name)) is not None}
        missing = [name for name in names if name not in found]
        if missing:
            words = "; ".join(f"'{name}': {self.context[name].what}" for name in missing)
            raise InputError(f"the prior over codes is conditional on what was not given ({words})")
        if "text" in found and found["text"].shape[-1:] != (self.text_length,):
            raise InputError(
                f"the prior over codes takes 'text' of shape (..., {self.text_length}), with 0 behind the end of "
                f"shorter ones, got {tuple(found['text'].shape)}"
            )
        shapes = {name: grid.shape for name, grid in self.coarser.items()}
        shapes |= {"actions": self.shape[:1]} if "actions" in found else {}
        for name, shape in shapes.items():
            got = tuple(found[name].shape)
            if got[max(len(got) - len(shape), 0) :] != shape:
                raise InputError(f"the prior over codes takes '{name}' of shape (..., *{shape}), got {got}")
        return found

    def context_dim(self, name: str) -> int:
        """How many dimensions one datum's value has: none for a label, one for texts and actions, a grid's rank."""
        return len(self.coarser[name].shape) if name in self.coarser else int(name in ("text", "actions"))


def codes_context(grid: CodeGrid) -> Context:
    """Grids of codes, one a datum."""
    support = constraints.integer_interval(0, grid.num_codes - 1)
    return Context(f"codes from 0 to {grid.num_codes - 1}", grid.shape, torch.int64, support)


def text_context(length: int, num_words: int) -> Context:
    """Texts, padded to one length."""
    what = f"texts of {length} words from 1 to {num_words - 1}, with 0 behind the end of shorter ones"
    return Context(what, (length,), torch.int64, PaddedText(num_words))


def actions_context(num_actions: int, steps: int) -> Context:
    """Actions, one a frame."""
    support = constraints.integer_interval(0, num_actions - 1)
    return Context(f"actions from 0 to {num_actions - 1}, one a frame", (steps,), torch.int64, support)


def seen_context(seen: Tensor) -> Context:
    """Class labels that there were in training: all, or a part of 0 … C-1."""
    whole = label_context(len(seen))
    if bool(seen.all()):
        return whole
    labels = seen.nonzero().flatten().tolist()
    what = f"class labels of which its training data had examples ({', '.join(map(str, labels))})"
    return Context(what, (), torch.int64, _Among(labels))


class _Among(constraints.Constraint):
    """The value is one of a list of integers."""

    is_discrete = True

    def __init__(self, values: Sequence[int]) -> None:
        self.values = tuple(values)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is on the list."""
        return torch.isin(value, torch.tensor(self.values, device=value.device))


class AutoregressivePrior(Prior):
    """p(codes | context) = prod_i p(code_i | the codes before it, context), in the order of rows.

    A prior of one's own has three methods, all of which know one batch dimension only: ``condition`` (once a
    distribution), ``logits`` (all positions in one pass) and ``steps`` (a memory that gives the same logits position by
    position).

    Args: see :class:`~pyro_vae.priors.base.Prior`.

    Example:
        >>> import torch
        >>> from pyro_vae.priors import AutoregressivePrior
        >>> class Independent(AutoregressivePrior):  # the same probabilities at every position
        ...     def condition(self, context):
        ...         return {}
        ...     def logits(self, codes, condition):
        ...         return torch.zeros(len(codes), self.num_codes, *self.shape)
        ...     def steps(self, batch, condition):
        ...         return lambda position, codes: torch.zeros(batch, self.num_codes)
        >>> Independent(num_codes=6, shape=(4, 4))().sample((2,)).shape
        torch.Size([2, 4, 4])
    """

    def forward(self, **context: Tensor | None) -> Autoregressive:
        """p(codes | context), with the batch shape to which the leading dimensions of the context broadcast.

        Raises:
            InputError: if the label, the text or a coarser grid is missing, or has another shape.
        """
        given = self.own_context(context)
        events = {name: value.dim() - self.context_dim(name) for name, value in given.items()}
        leading = torch.broadcast_shapes(*(value.shape[: events[name]] for name, value in given.items()))
        batch = math.prod(leading)
        flat = {name: value.expand((*leading, *value.shape[events[name] :])) for name, value in given.items()}
        flat = {name: value.reshape(batch, *value.shape[len(leading) :]) for name, value in flat.items()}
        condition = {name: value.reshape((*leading, *value.shape[1:])) for name, value in self.condition(flat).items()}
        return Autoregressive(self, self.num_codes, self.shape, condition, leading, self.device)

    @abstractmethod
    def condition(self, context: Condition) -> Condition:
        """What ``logits`` and ``steps`` are given, each ``(batch, ...)``, of the context, each ``(batch, ...)``."""

    @abstractmethod
    def logits(self, codes: Tensor, condition: Condition) -> Tensor:
        """Logits ``(batch, K, *shape)`` at all positions; those at i depend on the codes before i only.

        Args:
            codes: int64 ``(batch, *shape)``.
            condition: what ``condition`` gave.
        """

    @abstractmethod
    def steps(self, batch: int, condition: Condition) -> Steps:
        """A memory for a batch of samples: ``steps(i, codes)`` gives the logits ``(batch, K)`` of position i.

        It is made and called where gradients are off.
        """

    def without(self, condition: Condition) -> Condition:
        """The condition without what samples can be guided by; for priors that have been trained without it at times.

        Raises:
            InputError: if the prior has not, as most.
        """
        raise InputError(
            f"samples of this {type(self).__name__} cannot be guided: it never was without its condition in training "
            "(TransformerPrior with condition_dropout is, at times)"
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are, and samples are made."""
        return self.seen.device
