"""What a model is conditioned on, as features: class labels, attribute vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_vae.context import Context, attribute_context, label_context
from pyro_vae.errors import InputError


class Condition(nn.Module):
    """A map from the argument ``y``, one value a datum, to features ``(batch, dim)``.

    Attributes:
        dim: how many features.
        accepts: which y are right.
    """

    dim: int
    accepts: Context

    def forward(self, y: Tensor) -> Tensor:
        """The features of y."""
        raise NotImplementedError


class OneHot(Condition):
    """y in {0, ..., K-1} as the unit vector e_y: ``(batch,)`` int64 to ``(batch, K)``.

    Args:
        num_classes: K.

    Raises:
        InputError: if K is not at least 2.
    """

    classes: Tensor

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        if num_classes < 2:
            raise InputError(f"num_classes must be at least 2, got {num_classes}")
        self.dim = num_classes
        self.accepts = label_context(num_classes)
        self.register_buffer("classes", torch.arange(num_classes), persistent=False)
        self.register_buffer("_one", torch.ones(()), persistent=False)  # of the module's floating type

    def forward(self, y: Tensor) -> Tensor:
        """The unit vectors ``(batch, K)``; nothing is asked of a value, so that a step can be recorded."""
        return (y.unsqueeze(-1) == self.classes).to(self._one.dtype)


class Attributes(Condition):
    """A vector of real attributes as it is, ``(batch, A)``.

    Args:
        dim: A.

    Raises:
        InputError: if A is not positive.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise InputError(f"dim, the number of attributes, must be a positive integer, got {dim}")
        self.dim = dim
        self.accepts = attribute_context(dim)

    def forward(self, y: Tensor) -> Tensor:
        """y itself."""
        return y
