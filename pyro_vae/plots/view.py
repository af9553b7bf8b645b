"""What is drawn of data, and of what a model makes of them: they themselves, or the pictures that they stand for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pyro_vae.data import Pictures
from pyro_vae.errors import NotApplicable
from pyro_vae.plots.images import Limits, grey_range, in_shape
from pyro_vae.plots.registry import check_drawable
from pyro_vae.programs.context import X


class View:
    """How some data are drawn, and whatever is made of them in their place.

    Args:
        shape: of one datum.
        batch: what the data belong to, ``(n, ...)`` each; and ``x``, data that say which numbers are black and white.
        pictures: how data become pictures; None: they are drawn as they are.

    Attributes:
        limits: what is black and what is white.

    Raises:
        NotApplicable: if data of the shape cannot be seen.
    """

    def __init__(self, shape: tuple[int, ...], batch: Mapping[str, Tensor], pictures: Pictures | None = None) -> None:
        check_drawable(shape, pictures)
        self.shape, self.pictures = shape, pictures
        self.beside = {name: value for name, value in batch.items() if name != X}
        self.limits: Limits = (0.0, 1.0) if pictures is not None else grey_range(batch.get(X))

    def __call__(self, values: Tensor, leading: int = 1) -> Tensor:
        """What is drawn of values, on the CPU.

        Args:
            values: ``(n, *event)``, a value a datum; or ``(n, steps, *event)``, several, with as many numbers as x.
            leading: how many dimensions come before the event's, 1 or 2.

        Returns:
            ``(n, *shape)`` or ``(n, steps, *shape)``, of x or of pictures.

        Raises:
            InputError: for values of another number of elements than x.
            NotApplicable: if pictures need what the data do not have.
        """
        values = in_shape(values.cpu(), self.shape, leading)
        if self.pictures is None:
            return values
        beside = {name: value.cpu() for name, value in self.beside.items()}
        try:  # with the n data last of what comes before the event: (n, *shape) or (steps, n, *shape)
            return self.pictures.images(values.movedim(0, leading - 1), beside).movedim(leading - 1, 0)
        except KeyError as error:
            what = f"a picture of x needs {error.args[0]!r}"
            raise NotApplicable(f"{what}, which x is not drawn with here") from error
