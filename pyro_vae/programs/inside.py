"""One program run inside another: the distribution that a guide has at a site, for a prior that is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from pyro.poutine import runtime
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_vae.errors import InputError
from pyro_vae.programs.context import unwrapped
from pyro_vae.programs.sites import is_delta


@runtime_checkable
class OfGuide(Protocol):
    """A module of a model that works with the model's guide, such as a prior that is made of its posteriors.

    Attributes:
        guide: the one that it works with; None: none yet.
    """

    @property
    def guide(self) -> Callable[..., Any] | None:
        """The guide that it works with."""

    def connect_guide(self, guide: Callable[..., Any]) -> None:
        """Work with a guide from now on."""


def connect(model: nn.Module, guide: Callable[..., Any]) -> None:
    """Tell those modules of a model that work with its guide which one that is, if they have none yet.

    One that has a guide keeps it: a guide that is measured in its place (refined, under handlers) changes no model.

    Args:
        model: whose modules are asked.
        guide: of the pair.
    """
    for module in _of_guide(model):
        if module.guide is None or unwrapped(module.guide) == unwrapped(guide):
            module.connect_guide(guide)


def reconnect(model: nn.Module, guide: Callable[..., Any]) -> None:
    """Tell those modules of a model that work with its guide that it is this one, whichever they have."""
    for module in _of_guide(model):
        module.connect_guide(guide)


def check_connected(model: nn.Module, guide: Callable[..., Any]) -> None:
    """Check, before training, that a model's modules work with the guide that is trained.

    Raises:
        InputError: if one has another; says how both are copied, or connected.
    """
    for module in _of_guide(model):
        if module.guide is not None and unwrapped(module.guide) != unwrapped(guide):
            raise InputError(
                f"the model's {type(module).__name__} is made of another guide than the one that is to be trained. To "
                "train this pair, connect them: prior.through(guide); a pair is copied together, "
                "copy.deepcopy((model, guide))"
            )


def guides_of(model: nn.Module) -> list[nn.Module]:
    """The guides that modules of a model work with, as far as they are modules."""
    return [module.guide for module in _of_guide(model) if isinstance(module.guide, nn.Module)]


def _of_guide(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, OfGuide)]


def distribution_at(program: Callable[..., Any], site: str, **arguments: Tensor) -> Any:
    """The distribution that a program has at a latent site, by a run of it up to there that nobody outside sees.

    Handlers and plates that are open outside do not reach into the run, so that it may stand within another program's.

    Args:
        program: whose site it is.
        site: its name.
        arguments: what the program is called with.

    Raises:
        InputError: if there is no such site, or another latent is drawn before it, on which the distribution would
            depend.
    """
    run = _UpTo(site)
    with _apart():
        try:
            with run:
                program(**arguments)
        except _Reached:
            return run.fn
    seen = ", ".join(f"'{name}'" for name in run.seen) or "none"
    raise InputError(f"the guide has no latent site '{site}' (it has {seen})")


class _Reached(BaseException):
    """The site has been reached; not an Exception, which a program might catch."""


class _UpTo(Messenger):
    def __init__(self, site: str) -> None:
        super().__init__()
        self.site, self.fn, self.seen = site, None, list[str]()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        self.seen.append(msg["name"])
        if msg["name"] == self.site:
            self.fn = msg["fn"]
            raise _Reached
        if not is_delta(msg["fn"]):
            raise InputError(
                f"the guide draws '{msg['name']}' before '{self.site}', so that its distribution there depends on a "
                "draw and is none of the data alone: take a guide that draws this site first (GaussianGuide, "
                "LadderGuide), or another prior (MixturePrior, FlowPrior)"
            )


@contextmanager
def _apart() -> Iterator[None]:
    """Without the handlers and plates that are open, which are put back afterwards."""
    stacks: tuple[list[Any], ...] = runtime._PYRO_STACK, runtime._DIM_ALLOCATOR._stack  # type: ignore[assignment]
    kept = [stack.copy() for stack in stacks]
    for stack in stacks:
        stack.clear()
    try:
        yield
    finally:
        for stack, entries in zip(stacks, kept, strict=True):
            stack[:] = entries
