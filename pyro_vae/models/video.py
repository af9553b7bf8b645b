"""The generative model of a video's next frames, given frames before and an action for each, in the space of codes."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.errors import InputError, positive
from pyro_vae.likelihoods import DiscretizedLogisticMixture, Likelihood
from pyro_vae.models.base import LatentCodeModel
from pyro_vae.networks import VectorQuantizer, apply_batched
from pyro_vae.networks.grids import GridDecoder, GridEncoder, grid_shape
from pyro_vae.priors import UniformPrior
from pyro_vae.priors.base import actions_context
from pyro_vae.programs.context import Context

GIVEN = "codes_frames"  # to the prior: the codes of the frames that are given


class VideoVQVAE(LatentCodeModel):
    r"""codes ~ p(codes | codes of frames, actions);  z = e[codes];  x_t | z_t ~ likelihood(decoder(z_t)), t = 1 … T.

    .. math:: p(codes \mid \cdot) = K^{-T N} \text{ or a learned prior}, \quad z_{t,i} = e_{codes_{t,i}}, \quad
        x_t \sim likelihood(decoder(z_t))

    A VQ-VAE of every frame by itself; what follows what is the prior's: it is uniform until a learned one, such as
    :class:`~pyro_vae.priors.FramePixelCNN`, takes its place in ``priors["codes"]``. That one is given the codes of the
    frames before, nearest to encoder(frames), and the actions, of which ``actions[:, t]`` leads from the frame before
    to x[:, t]. The encoder is therefore the model's, and the guide uses the same one: log p(x | frames, actions) is
    that of a model that sees the frames before as codes. Samples are drawn in the space of codes alone, and decoded at
    the end.

    Sites: ``codes``, integers with event shape ``(T, *grid)``; ``z`` with event shape ``(T, code_dim, *grid)``, a point
    mass at the codebook's vectors; ``x`` with event shape ``data_shape``. The data plate is as long as the actions.

    Args:
        data_shape: shape of one datum, T frames to be predicted, (T, channels, height, width); the sides must be
            multiples of ``2 ** halvings``.
        frames_shape: of the frames before, (T0, channels, height, width).
        num_actions: A, of actions 0 … A - 1.
        num_codes: K.
        code_dim: D, dimensions of a code's vector.
        halvings: the grid has ``2 ** -halvings`` of a frame's sides.
        channels: of the features of encoder and decoder.
        num_blocks: residual blocks.
        block_channels: channels inside them.
        likelihood: p(x_t | decoder features), of a frame; a discretized logistic mixture of 5 components if not given.
        quantizer: options of :class:`~pyro_vae.networks.VectorQuantizer`.
        data_mean: mean of the training data, shape ``data_shape``; the decoder's output bias starts at its mean.

    Raises:
        InputError: for data that are no frames, or do not divide into a grid; frames before of another size; sizes that
            are not positive; as the quantizer.

    Source: van den Oord et al. 2017, arXiv:1711.00937, section 4.4.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.VideoVQVAE((4, 3, 16, 16), (2, 3, 16, 16), 5, num_codes=32, code_dim=4, channels=8)
        >>> given = {"frames": torch.rand(6, 2, 3, 16, 16), "actions": torch.randint(5, (6, 4))}
        >>> drawn = pyro_vae.sample(model, 6, batch=given)
        >>> drawn["codes"].shape, drawn["x"].shape
        (torch.Size([6, 4, 4, 4]), torch.Size([6, 4, 3, 16, 16]))
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        frames_shape: Sequence[int],
        num_actions: int,
        num_codes: int = 512,
        code_dim: int = 64,
        halvings: int = 2,
        channels: int = 128,
        num_blocks: int = 2,
        block_channels: int = 32,
        likelihood: Likelihood | None = None,
        quantizer: dict[str, bool | int | float | str | None] | None = None,
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.data_shape, self.frames_shape = tuple(data_shape), tuple(frames_shape)
        if len(self.data_shape) != 4:
            raise InputError(f"VideoVQVAE: data_shape must be (T, channels, height, width), got {self.data_shape}")
        self.frame_shape = self.data_shape[1:]
        if self.frames_shape[1:] != self.frame_shape or self.frames_shape[0] < 1:
            raise InputError(
                f"VideoVQVAE: the frames before must be (T0, {', '.join(map(str, self.frame_shape))}), as those that "
                f"follow, got {self.frames_shape}"
            )
        self.num_actions = positive("num_actions", num_actions)
        self.likelihood = likelihood if likelihood is not None else DiscretizedLogisticMixture(5)
        self.grid = grid_shape(self.frame_shape, halvings, "VideoVQVAE")
        self.quantizer = VectorQuantizer(num_codes, code_dim, 2, **(quantizer or {}))
        self.encoder = GridEncoder(self.frame_shape, channels, halvings, num_blocks, block_channels)
        self.to_codes = nn.Conv2d(channels, code_dim, 1)
        features = self.likelihood.feature_shape(self.frame_shape)
        self.decoder = GridDecoder(code_dim, features, channels, halvings, num_blocks, block_channels)
        before = {GIVEN: (num_codes, (self.frames_shape[0], *self.grid))}
        prior = UniformPrior(num_codes, (self.data_shape[0], *self.grid), coarser=before, num_actions=num_actions)
        self.priors = nn.ModuleDict({"codes": prior})
        if data_mean is not None and tuple(data_mean.shape) != self.data_shape:
            raise InputError(f"data_mean must have the data's shape {self.data_shape}, got {tuple(data_mean.shape)}")
        if data_mean is not None:
            mean = data_mean.mean(0)  # of a frame
            self.likelihood.set_output_bias(mean)
            self.decoder.set_output_bias(self.likelihood.initial_bias(mean))

    @property
    def context(self) -> dict[str, Context]:  # type: ignore[override]
        """The frames before, and an action for every frame that is to follow."""
        what = f"{self.frames_shape[0]} frames each, of pixels in [0, 1], before those that follow"
        frames = Context(what, self.frames_shape, support=constraints.unit_interval)
        return {"frames": frames, "actions": actions_context(self.num_actions, self.data_shape[0])}

    def vectors(self, frames: Tensor) -> Tensor:
        """Vectors that codes are chosen for, ``(..., T, code_dim, *grid)``, of frames ``(..., T, *frame_shape)``."""
        return apply_batched(self.to_codes, self.encoder(frames), 3)

    def prior_context(self, *, frames: Tensor, actions: Tensor, **_: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """What a learned prior is given: codes of the frames before, ``(batch, T0, *grid)``, and the actions."""
        return {GIVEN: self.quantizer.nearest(self.vectors(frames)), "actions": actions}

    def forward(self, x: Tensor | None = None, *, frames: Tensor, actions: Tensor) -> Tensor:
        """Run the program on data ``x``, ``(batch, *data_shape)``, or sample what follows each datum's frames."""
        prior = self.priors["codes"]
        given = self.prior_context(frames=frames, actions=actions) if prior.context else {}
        with self.data_plate(actions):
            codes = pyro.sample("codes", prior(**given))  # (..., batch, T, *grid)
            e = self.quantizer.embed(codes)  # (..., batch, T, code_dim, *grid)
            z = pyro.sample("z", dist.Delta(e, event_dim=4))
            features = self.decoder(z)  # (..., batch, T, P * channels, height, width)
            return pyro.sample("x", self.likelihood(features, 3).to_event(1), obs=x)
