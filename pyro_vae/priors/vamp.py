"""The VampPrior: a mixture of the guide's own posteriors at learned pseudo-inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.distributions import DiagonalMixture
from pyro_vae.errors import InputError, positive
from pyro_vae.priors.latent import LatentPrior, checked_sizes
from pyro_vae.programs.context import X, required_arguments
from pyro_vae.programs.inside import distribution_at
from pyro_vae.programs.program import Program, evaluation_mode
from pyro_vae.programs.sites import REAL, elementwise_support, factors, is_delta

MARGIN = 0.05  # of the data's range, by which learned pseudo-inputs start inside of it


class VampPrior(LatentPrior):
    r"""p(z) = sum_k w_k q(z | u_k), the guide's posteriors at K pseudo-inputs u_k.

    The guide is run on the pseudo-inputs up to the latent site, in evaluation mode (batch statistics and dropout are of
    the data), and is trained through them; its weights stay its own. ``fit``, every estimator and a run's
    configuration connect the pair's guide by themselves; :meth:`through` does it by hand. Before that there is no
    prior: what asks for a number or a draw is refused.

    Any guide will do whose distribution at the site is one of the data alone: Gaussian, flow, ladder. One that draws
    another latent before is refused.

    Args:
        shape: see :class:`LatentPrior`.
        data_shape: of one datum. None: in a configuration, the data's.
        num_components: K.
        start: where the pseudo-inputs start. "data": at training data, which ``fit`` gives them; "random": at
            random, near the middle of the range.
        learn: whether they are learned; otherwise they stay the training data that they start at.
        learn_weights: whether w is learned; otherwise it is 1 / K.
        data_range: in which learned pseudo-inputs stay, u = low + (high - low) sigmoid(v); None: any real numbers.

    Raises:
        InputError: for no component or no shapes, an empty range, an unknown start, or random pseudo-inputs that are
            not learned; when it is used, for a guide that it cannot be made of, or none.

    Source: Tomczak & Welling 2018, arXiv:1705.07120.

    Example:
        >>> import pyro_vae, torch
        >>> prior = pyro_vae.priors.VampPrior((2,), data_shape=(1, 8, 8), num_components=10)
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,), prior=prior)
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(20, 1, 8, 8) > 0.5).float()
        >>> result = pyro_vae.fit(model, guide, x, epochs=2, batch_size=10, device="cpu", progress=False)
        >>> pyro_vae.sample(result.model, 5)["z"].shape
        torch.Size([5, 2])
    """

    initialized: Tensor

    def __init__(
        self,
        shape: Sequence[int] | None = None,
        data_shape: Sequence[int] | None = None,
        num_components: int = 500,
        start: str = "data",
        learn: bool = True,
        learn_weights: bool = False,
        data_range: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__(shape)
        if data_shape is None:
            raise InputError("VampPrior needs data_shape, that of one datum: data_shape=(1, 28, 28)")
        if start not in ("data", "random") or (start == "random" and not learn):
            raise InputError(
                f"VampPrior: start must be 'data', or 'random' for pseudo-inputs that are learned, got {start!r}"
            )
        if data_range is not None and not _is_range(data_range):
            raise InputError(f"VampPrior: data_range must be (low, high) with low < high, or None, got {data_range!r}")
        self.data_shape, self.learn = checked_sizes("VampPrior: data_shape", data_shape), learn
        self.num_components = positive("VampPrior: num_components", num_components)
        self.data_range = None if data_range is None else (float(data_range[0]), float(data_range[1]))
        inputs = 0.1 * torch.randn(num_components, *self.data_shape)  # v, or u itself
        self.register_parameter("inputs", nn.Parameter(inputs) if learn else None)
        self.register_buffer("fixed", None if learn else torch.zeros_like(inputs))
        self.logits = nn.Parameter(torch.zeros(num_components)) if learn_weights else None
        self.register_buffer("initialized", torch.tensor(start == "random"))
        self._guide: tuple[Program, ...] = ()  # in a tuple, so that it is no submodule
        self._running = False

    @property
    def guide(self) -> Program | None:
        """The guide whose posteriors it is made of; None: not connected yet."""
        return self._guide[0] if self._guide else None

    def connect_guide(self, guide: Callable[..., Any]) -> None:
        """Take the posteriors of this guide from now on; see :meth:`through`."""
        self.through(guide)

    def through(self, guide: Callable[..., Any], site: str | None = None) -> VampPrior:
        """Make the prior of the posteriors of a guide.

        Args:
            guide: of the pair; it is not copied, and its weights are not the prior's.
            site: name of the latent site. None: what the model says, or ``"z"``.

        Returns:
            the prior itself.

        Raises:
            InputError: for a guide that needs more than the data.
        """
        program = guide if isinstance(guide, Program) else Program(guide)
        needed = required_arguments(program)
        if needed:
            raise InputError(
                f"VampPrior: the guide needs {', '.join(needed)}, which pseudo-inputs do not have: take a guide of the "
                "data alone, or a prior that is given what it needs (MixtureDensityPrior)"
            )
        self._guide, self.site = (program,), site or self.site
        return self

    @property
    def pseudo_inputs(self) -> Tensor:
        """The pseudo-inputs u ``(K, *data_shape)``, in the data's range."""
        if not self.learn:
            return self.fixed
        if self.data_range is None:
            return self.inputs
        low, high = self.data_range
        return low + (high - low) * self.inputs.sigmoid()

    @property
    def data_wanted(self) -> int:
        """How many training data it is to be given by :meth:`take_data`; 0: none (any more)."""
        return 0 if self.initialized else self.num_components

    @torch.no_grad()
    def take_data(self, x: Tensor) -> None:
        """Let the pseudo-inputs start at data; learned ones a little inside of the range.

        Args:
            x: training data ``(K or more, *data_shape)``, of which the first K are taken.

        Raises:
            InputError: for data of another shape, too few of them, or such that have missing entries or leave the
                range.
        """
        if tuple(x.shape[1:]) != self.data_shape:
            raise InputError(f"VampPrior has data_shape {self.data_shape}, got data of shape {tuple(x.shape[1:])}")
        if len(x) < self.num_components:
            raise InputError(
                f"VampPrior starts its {self.num_components} pseudo-inputs at as many training data, and there are "
                f"{len(x)}: take fewer components, or start='random'"
            )
        x = x[: self.num_components].to(self.pseudo_inputs)
        if not bool(x.isfinite().all()):
            raise InputError("VampPrior: its pseudo-inputs cannot start at data with missing entries: start='random'")
        if self.learn and self.data_range is not None:
            low, high = self.data_range
            if float(x.min()) < low or float(x.max()) > high:
                raise InputError(
                    f"VampPrior: data_range is {self.data_range}, and the data go from {float(x.min()):g} to "
                    f"{float(x.max()):g}: give their range, or None"
                )
            x = (MARGIN + (1 - 2 * MARGIN) * (x - low) / (high - low)).logit()
        (self.inputs if self.learn else self.fixed).copy_(x)
        self.initialized.fill_(True)

    def forward(self, **context: Tensor) -> TorchDistribution:
        """p(z), through the guide; the context does not matter.

        Raises:
            InputError: if the guide's distribution at the site is no density of the data alone, or of another shape.
        """
        if not self._guide or self._running:  # a guide that runs the model, to see its sites or to use its networks
            return _NotConnected(self.shape, self.inputs if self.learn else self.fixed)
        guide = self._guide[0]
        u = self.pseudo_inputs  # (K, *data_shape)
        with evaluation_mode(guide), self._while_running():
            try:
                q = distribution_at(guide, self.site, **{X: u})
            except InputError as error:
                raise InputError(
                    f"VampPrior, the guide at its pseudo-inputs of shape {tuple(u.shape)}: {error}"
                ) from error
            except (RuntimeError, TypeError) as error:
                raise InputError(
                    f"VampPrior: the guide cannot be run on pseudo-inputs, {u.dtype} {tuple(u.shape)} ({error}); there "
                    "are none between integers, tokens say: MixturePrior and FlowPrior are not made of data"
                ) from error
        self._check(q)
        logits = u.new_zeros(self.num_components) if self.logits is None else self.logits
        normal, dims = factors(q)
        if isinstance(normal, dist.Normal) and dims == len(self.shape):
            return DiagonalMixture(logits.log_softmax(-1), normal.loc, normal.scale, dims)
        return _Mixture(dist.Categorical(logits=logits), q)

    def _check(self, q: Any) -> None:
        k = self.num_components
        if tuple(q.event_shape) != self.shape or tuple(q.batch_shape) != (k,):
            raise InputError(
                f"VampPrior has shape {self.shape} and {k} pseudo-inputs, but the guide's site '{self.site}' has event "
                f"shape {tuple(q.event_shape)} and batch shape {tuple(q.batch_shape)} for them: give the prior the "
                "site's shape; the guide must draw one value a datum"
            )
        if is_delta(q) or elementwise_support(q) not in REAL:
            raise InputError(
                f"VampPrior: the guide's {type(factors(q)[0]).__name__} at site '{self.site}' has no density over real "
                "numbers, of which a prior could be made"
            )

    @contextmanager
    def _while_running(self) -> Iterator[None]:
        self._running = True
        try:
            yield
        finally:
            self._running = False


def _is_range(value: Any) -> bool:
    """Whether a value is two finite numbers, the lower one first."""
    numbers = isinstance(value, Sequence) and len(value) == 2 and all(isinstance(end, int | float) for end in value)
    return numbers and -math.inf < value[0] < value[1] < math.inf


class _Mixture(dist.MixtureSameFamily):
    """A mixture whose components are given values of their own batch shape, which flows with a context need."""

    def _pad(self, x: Tensor) -> Tensor:
        cut = x.dim() - self.event_dim
        return x.unsqueeze(cut).expand(*x.shape[:cut], self._num_component, *x.shape[cut:])


class _NotConnected(TorchDistribution):
    """What a site has in the prior's place before there is one: it has a shape, and neither draws nor a density."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, shape: tuple[int, ...], like: Tensor, batch_shape: tuple[int, ...] = ()) -> None:
        self._like = like
        super().__init__(torch.Size(batch_shape), torch.Size(shape), validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.real, self.event_dim)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _NotConnected:
        return _NotConnected(tuple(self.event_shape), self._like, tuple(batch_shape))

    def any_value(self) -> Tensor:
        """Zeros, for a run that asks for nothing but sites and their shapes."""
        return self._like.new_zeros(self.batch_shape + self.event_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        raise self._error()

    def log_prob(self, value: Tensor) -> Tensor:
        raise self._error()

    def _error(self) -> InputError:
        return InputError(
            "VampPrior is made of a guide's posteriors, and has none: fit the pair, or connect its guide, "
            "prior.through(guide); a guide that runs the model cannot ask for this prior's density or draws"
        )
