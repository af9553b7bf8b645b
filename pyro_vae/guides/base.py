"""Helpers of guides: a model's data and latent shapes, and its top-down pass run with posteriors."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions.transforms import ReshapeTransform

from pyro_vae.errors import InputError, below_one
from pyro_vae.networks import diagonal_normal, make_encoder
from pyro_vae.programs.context import X, accepted_arguments, required_arguments
from pyro_vae.programs.data_sites import site_of_run
from pyro_vae.programs.enumeration import is_countable
from pyro_vae.programs.once import ModelRun, begun_run
from pyro_vae.programs.program import as_program, evaluation_mode, without_param_statements
from pyro_vae.programs.sites import REAL, density_of, elementwise, factors, innermost
from pyro_vae.programs.traces import is_latent, traced
from pyro_vae.runtime import same_random_state


def data_and_latent_shapes(model: Callable[..., Any]) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """Event shapes of the data site (x, or else the only one) and of the latent sites, in the order of drawing.

    The model is run once without data, in evaluation mode; modes and random state are put back.

    Raises:
        InputError: if the model has no such data site, has no latent site, or has one that is not real-valued or
            not in the data plate; if the model needs context.
    """
    program = as_program(model)
    needed = required_arguments(program)
    if needed:
        raise InputError(
            f"the model needs {', '.join(needed)}, which this guide does not look at: use the guide that belongs "
            "to the model, or write one with these arguments"
        )
    with evaluation_mode(program), same_random_state(), torch.no_grad():  # of one datum no batch statistics
        with _AnyValues():
            trace = traced(program, num_samples=1)
        sites = {n: s for n, s in trace.nodes.items() if is_latent(s)}
        try:
            data = X if X in sites else site_of_run(program, trace, {}, None, None)
        except InputError as error:
            raise InputError(
                f"which of the model's sites is its data cannot be told ({', '.join(sites)}): call the site x, or "
                "write a guide of your own"
            ) from error
    sites = {n: s for n, s in trace.nodes.items() if is_latent(s)}  # those of steps are joined
    latents, arguments = {}, accepted_arguments(program.program) or ()
    for name, site in sites.items():
        if name == data or name in arguments or density_of(site) or is_countable(site["fn"]):  # data, too; summed over
            continue
        support = site["fn"].support
        if elementwise(support) not in REAL:
            raise InputError(
                f"latent site '{name}' has support {support}, a Gaussian guide needs real values: "
                "write a guide of your own for it"
            )
        if not any(frame.dim == -1 for frame in site["cond_indep_stack"]):
            raise InputError(f"latent site '{name}' is outside the data plate at dim -1")
        latents[name] = tuple(site["fn"].event_shape)
    if not latents:
        raise InputError("the model has no latent site for a guide to sample")
    return tuple(trace.nodes[data]["fn"].event_shape), latents


class _AnyValues(Messenger):
    """Any value at sites whose distribution is not there yet, and cannot be drawn from: a prior made of the guide."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = innermost(msg["fn"])
        if hasattr(fn, "any_value") and not msg["is_observed"]:
            msg["value"], msg["done"] = fn.any_value(), True


class EncoderGuide(PyroModule):
    """A guide that makes the distribution of each latent site, independent of the others', of an encoder's features.

    The model is run once to read its latent sites and their shapes; it is not kept. Its module ``seen``, if it has
    one, says what the encoder is shown of x.

    Args:
        model: the generative program; its latent sites must have real support and lie in the data plate.
        encoder: ``"mlp"``, ``"conv"``, or a module from ``(..., *data_shape)``, or what is seen of it, to the features.
        hidden_dims: widths of the encoder's layers from x to z (conv: channels).
        activation: its nonlinearity, by name.
        min_scale: lower bound of the scales.
        more: how many features a site of so many numbers takes beside a location and a scale of each.

    Raises:
        InputError: as :func:`data_and_latent_shapes`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: str | nn.Module,
        hidden_dims: Sequence[int],
        activation: str,
        min_scale: float,
        more: Callable[[int], int] = lambda size: 0,
    ) -> None:
        super().__init__()
        data_shape, latents = data_and_latent_shapes(model)
        self.latent_shapes = latents
        self.min_scale = below_one("min_scale", min_scale)
        self.sizes = {name: math.prod(shape) for name, shape in latents.items()}
        self.more = {name: more(size) for name, size in self.sizes.items()}
        count = 2 * sum(self.sizes.values()) + sum(self.more.values())
        self.seen = getattr(model, "seen", None)
        if self.seen is not None:
            data_shape = tuple(self.seen(torch.zeros(1, *data_shape)).shape[1:])
        self.encoder = make_encoder(encoder, data_shape, hidden_dims, count, activation)

    def posterior(self, name: str, normal: dist.Normal, features: Tensor) -> Any:
        """The distribution of a site's numbers, of event shape (size,).

        Args:
            name: of the site.
            normal: of the encoder's locations and scales, ``(batch, size)``.
            features: the others, ``(batch, more)``.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Sample every latent site given data ``x``, ``(batch, *data_shape)``."""
        sizes = list(self.sizes.values())
        features = self.encoder(x if self.seen is None else self.seen(x))
        paired, rest = features.split([2 * sum(sizes), sum(self.more.values())], -1)
        q = diagonal_normal(paired, self.min_scale)  # (batch, total latent size)
        parts = q.loc.split(sizes, -1), q.scale.split(sizes, -1), rest.split(list(self.more.values()), -1)
        samples = {}
        with pyro.plate("data", x.shape[0], dim=-1):
            for (name, shape), m, s, others in zip(self.latent_shapes.items(), *parts, strict=True):
                fn = self.posterior(name, dist.Normal(m, s), others)
                samples[name] = pyro.sample(name, _of_event_shape(fn, shape))
        return samples


def _of_event_shape(fn: Any, shape: tuple[int, ...]) -> Any:
    """A distribution of vectors as one of events of another shape."""
    if tuple(fn.event_shape) == shape:
        return fn
    base, _ = factors(fn)
    if isinstance(base, dist.Normal):
        event = fn.batch_shape + shape
        return dist.Normal(base.loc.reshape(event), base.scale.reshape(event)).to_event(len(shape))
    return dist.TransformedDistribution(fn, [ReshapeTransform(fn.event_shape, shape, cache_size=1)])


def vectors_bottom_up(latents: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Sizes of latent vectors, the one nearest to the data first: the reverse of the order of drawing.

    Raises:
        InputError: names a latent that is not a vector.
    """
    for name, shape in latents.items():
        if len(shape) != 1:
            raise InputError(f"latent site '{name}' has event shape {shape}; this guide needs vectors (dim,)")
    return {name: latents[name][0] for name in reversed(latents)}


Posterior = Callable[[str, Any, dict[str, Any]], dist.Normal]


def draw_top_down(
    model: Callable[..., Any],
    posterior: Posterior,
    latents: Collection[str],
    batch: dict[str, Any],
    drawn: Mapping[str, Tensor] | None = None,
) -> None:
    """Run the model as a guide: at each latent site it draws from a posterior that may depend on p's conditional there.

    The model is run on its data, its top-down networks with it, up to its last latent site: what makes x of the
    latents is not run. Where model and guide are run together it is, for that run is then the model's as well
    (:mod:`pyro_vae.programs.once`); of the guide it is no part either way.

    Args:
        model: the generative program.
        posterior: gives q(z_i | .), elementwise, from the site's name, p(z_i | z_{>i}) (of which :func:`gaussian` makes
            an elementwise Gaussian, where it is one) and the site's ``infer`` entries.
        latents: names of the model's latent sites.
        batch: what the model may be called with; it is given the entries that it has arguments for.
        drawn: values of latents that the guide has sampled already, ``(..., batch, *event)``, in a data plate of its
            own. None: it has none, and the plate is the model's.
    """
    known = accepted_arguments(model)
    arguments = {k: v for k, v in batch.items() if known is None or k in known}
    run = begun_run(model, arguments, latents)
    top_down = _TopDown(posterior, latents, drawn, run)
    try:
        with top_down, run or nullcontext():
            result = _called(model)(**arguments)
        if run is not None:
            run.end(result)
    except _AllDrawn:
        pass
    except Exception:
        if top_down.missing:
            raise  # else it is the model's, who is run for it again, and tells it


def _called(model: Callable[..., Any]) -> Callable[..., Any]:
    """How a program calls its model, too; under Pyro's own objectives reading a parameter is a statement."""
    own = isinstance(model, nn.Module) and pyro.settings.get("module_local_params")
    return without_param_statements(model) if own else model


class _AllDrawn(BaseException):
    """Every latent site has its value; not an Exception, which a model might catch."""


class _TopDown(Messenger):
    def __init__(
        self, posterior: Posterior, latents: Collection[str], drawn: Mapping[str, Tensor] | None, run: ModelRun | None
    ) -> None:
        super().__init__()
        self.posterior, self.missing, self.drawn, self.run = posterior, set(latents), drawn or {}, run
        self.own_plate, self.asking = drawn is not None, False

    def _pyro_sample(self, msg: Any) -> None:
        if self.asking:  # what the posterior says is the guide's
            return
        if not self.missing:  # the rest is the model's alone
            self._stop_if_of_no_use()
            msg["stop"] = True
            return
        if msg["name"] not in self.missing:
            # data sites are the model's business, and so is its plate, if the guide has one of its own
            msg["stop"] = self.own_plate or type(msg["fn"]).__name__ != "_Subsample"
            return
        if msg["name"] in self.drawn:
            msg["value"], msg["done"], msg["stop"] = self.drawn[msg["name"]], True, True
            return
        p = msg["fn"]
        q = self._asked(msg["name"], p, msg["infer"])
        q = q.expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape + p.event_shape))  # in all the model's plates
        msg["fn"] = q.to_event(p.event_dim)

    def _asked(self, name: str, p: Any, infer: dict[str, Any]) -> dist.Normal:
        """What the posterior is; statements on the way are the guide's, and not the model's."""
        self.asking = True
        try:
            with self.run.aside() if self.run is not None else nullcontext():
                return self.posterior(name, p, infer)
        finally:
            self.asking = False

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.asking:
            return
        self.missing.discard(msg["name"])
        if not self.missing:
            self._stop_if_of_no_use()

    def _stop_if_of_no_use(self) -> None:
        if self.run is None or not self.run.whole:
            raise _AllDrawn


def gaussian(name: str, fn: Any) -> dist.Normal:
    """The elementwise Gaussian that a site's distribution is made of.

    Raises:
        InputError: if it is not Gaussian; names the site.
    """
    fn, _ = factors(fn)
    if not isinstance(fn, dist.Normal):
        raise InputError(
            f"latent site '{name}' is {type(fn).__name__}; a top-down guide merges Gaussians: make it a Normal, or "
            "write a guide of your own"
        )
    return fn
