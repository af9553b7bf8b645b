"""A PixelCNN of one frame's codes after another, each given the last ones and an action."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pyro_vae.distributions.autoregressive import Condition
from pyro_vae.errors import InputError, positive
from pyro_vae.priors.base import AutoregressivePrior, CodeGrid
from pyro_vae.priors.conditioning import ResidualBlock
from pyro_vae.priors.pixelcnn import GatedPixelCNN

DILATIONS = (1, 2, 4, 1)  # of the residual blocks: together they look nine codes around


class FrameFeatures(nn.Module):
    """Of the grids of earlier frames and an action, what the gates of the next one are given: "features".

    All are embedded, put together at every position and looked at together, so that what an action does may depend on
    what is around.

    Args:
        grids: of the codes, and the action as a grid of one place, by name.
        shape: of the next grid.
        channels: of the features.
    """

    def __init__(self, grids: Mapping[str, CodeGrid], shape: Sequence[int], channels: int) -> None:
        super().__init__()
        self.shape, self.channels = tuple(shape), channels
        self.embeddings = nn.ModuleDict({name: nn.Embedding(k, channels) for name, (k, _) in grids.items()})
        self.together = nn.Conv2d(channels * len(grids), channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(channels, 2, dilation) for dilation in DILATIONS))

    def forward(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features ``(batch, channels, *shape)`` of codes ``(batch, *their shape)`` by name."""
        embedded = [embedding(codes[name]).movedim(-1, 1) for name, embedding in self.embeddings.items()]
        embedded = [interpolate(e, size=self.shape, mode="nearest") for e in embedded]  # (batch, channels, *shape)
        return {"features": self.blocks(self.together(torch.cat(embedded, 1)))}


class NextGrid(GatedPixelCNN):
    """p(next grid | earlier grids, action), the PixelCNN of one frame: see :class:`FramePixelCNN`."""

    features_of = FrameFeatures


class FramePixelCNNSteps:
    """Logits of one position after another, of one frame after another.

    The features of the last frames and the action are made once a frame, where it begins.

    Args:
        prior: the network, with the weights that it has now.
        batch: how many sequences of grids.
        condition: what the prior's ``condition`` gave, ``(batch, ...)``.
    """

    def __init__(self, prior: FramePixelCNN, batch: int, condition: Condition) -> None:
        self.prior, self.batch, self.condition = prior, batch, condition
        self.size = math.prod(prior.shape[1:])  # positions of a frame

    def __call__(self, position: int, codes: Tensor) -> Tensor:
        """Logits ``(batch, K)`` at a position, given codes ``(batch, N)`` of which those before it are known."""
        frame, place = divmod(position, self.size)
        begin = frame * self.size
        if place == 0:
            known = codes[:, :begin].unflatten(1, (frame, *self.prior.shape[1:]))
            last = torch.cat([self.condition["before"], known], 1)[:, -self.prior.history :]
            actions = self.condition["actions"][:, frame : frame + 1] if "actions" in self.condition else None
            features = self.prior.features(last, actions)
            self.steps = self.prior.next_grid.steps(self.batch, features)
        return self.steps(place, codes[:, begin : begin + self.size])


class FramePixelCNN(AutoregressivePrior):
    r"""p(codes of T frames | codes of the frames before, actions): a Markov chain of grids, each a gated PixelCNN.

    .. math::
        p(c_{1..T} \mid c_{\le 0}, a_{1..T}) = \prod_{t=1}^T p(c_t \mid c_{t-1}, \dots, c_{t-H}, a_t), \quad
        p(c_t \mid \cdot) = \mathrm{PixelCNN}(c_t; f(c_{t-1}, \dots, c_{t-H}, a_t))

    ``actions[:, t]`` leads from the frame before to frame t. f are convolutions over the embedded last H grids and the
    action, and are added to all the PixelCNN's gates. In training all frames are one batch; samples are drawn code by
    code from what is in memory, the features once a frame.

    Args:
        num_codes: K.
        shape: (T, height, width).
        coarser: the codes of the frames before, by name, the one entry ``{name: (K, (T0, height, width))}``.
        num_actions: A, of actions 0 … A - 1; None: the frames are given no actions.
        history: H, how many grids before each it is given, at most T0.
        channels, num_layers, kernel, attention_heads, attention_every, dropout: of the PixelCNN, see
            :class:`~pyro_vae.priors.GatedPixelCNN`.

    Raises:
        InputError: for a grid that has not three sides, frames before of another grid or fewer than ``history``, and
            for sizes that cannot be.

    Source: van den Oord et al. 2017, arXiv:1711.00937, section 4.4 (video in code space, given actions); van den Oord
    et al. 2016, arXiv:1606.05328 (the PixelCNN).

    Example:
        >>> import torch
        >>> from pyro_vae.priors import FramePixelCNN
        >>> before = {"codes_frames": (6, (2, 4, 4))}
        >>> prior = FramePixelCNN(6, (3, 4, 4), before, num_actions=5, channels=8, num_layers=2)
        >>> frames, actions = torch.randint(6, (10, 2, 4, 4)), torch.randint(5, (10, 3))
        >>> prior(codes_frames=frames, actions=actions).sample().shape
        torch.Size([10, 3, 4, 4])
    """

    def __init__(
        self,
        num_codes: int,
        shape: Sequence[int],
        coarser: Mapping[str, tuple[int, Sequence[int]]] | None = None,
        num_actions: int | None = None,
        history: int = 2,
        channels: int = 64,
        num_layers: int = 8,
        kernel: int = 3,
        attention_heads: int = 0,
        attention_every: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_codes, shape, coarser=coarser, num_actions=num_actions)
        self.history = positive("FramePixelCNN: history", history)
        if len(self.shape) != 3:
            raise InputError(f"FramePixelCNN needs the grids of frames, (T, height, width), got {self.shape}")
        if len(self.coarser) != 1:
            raise InputError(
                f"FramePixelCNN needs the codes of the frames before, one entry of coarser, got {[*self.coarser]}"
            )
        ((self.before, grid),) = self.coarser.items()
        if grid.num_codes != num_codes or grid.shape[1:] != self.shape[1:]:
            raise InputError(
                f"FramePixelCNN: '{self.before}' must be {num_codes} codes on grids (T0, "
                f"{self.shape[1]}, {self.shape[2]}), as those that follow, got {grid.num_codes} on {grid.shape}"
            )
        if grid.shape[0] < history:
            raise InputError(
                f"FramePixelCNN: history={history} grids before each need as many that are given, got {grid.shape[0]}"
            )
        grids = {f"back_{i}": (num_codes, self.shape[1:]) for i in range(1, history + 1)}
        grids |= {} if num_actions is None else {"action": (num_actions, (1, 1))}
        self.next_grid = NextGrid(
            num_codes,
            self.shape[1:],
            coarser=grids,
            channels=channels,
            num_layers=num_layers,
            kernel=kernel,
            attention_heads=attention_heads,
            attention_every=attention_every,
            dropout=dropout,
        )

    def condition(self, context: Condition) -> Condition:
        """The last grids before the first frame, ``(batch, H, height, width)``, and the actions ``(batch, T)``."""
        condition = {"before": context[self.before][:, -self.history :]}
        return condition | ({"actions": context["actions"]} if "actions" in context else {})

    def features(self, grids: Tensor, actions: Tensor | None) -> Condition:
        """What the PixelCNN of each frame is given, of all frames in one batch.

        Args:
            grids: ``(batch, H - 1 + frames, height, width)``, each before the one that follows it.
            actions: ``(batch, frames)``.

        Returns:
            "features" ``(batch * frames, channels, height, width)``.
        """
        frames = grids.shape[1] - self.history + 1
        given = {
            f"back_{i}": grids[:, self.history - i :][:, :frames].flatten(0, 1) for i in range(1, self.history + 1)
        }
        if actions is not None:
            given["action"] = actions.reshape(-1, 1, 1)
        return self.next_grid.condition(given)

    def logits(self, codes: Tensor, condition: Condition) -> Tensor:
        """Logits ``(batch, K, T, height, width)`` of codes ``(batch, T, height, width)``, in one pass."""
        grids = torch.cat([condition["before"], codes[:, :-1]], 1)  # (batch, H - 1 + T, height, width)
        features = self.features(grids, condition.get("actions"))
        logits = self.next_grid.logits(codes.flatten(0, 1), features)  # (batch * T, K, height, width)
        return logits.unflatten(0, codes.shape[:2]).movedim(1, 2)

    def steps(self, batch: int, condition: Condition) -> FramePixelCNNSteps:
        """A memory of the frames so far, and of the rows of the one that is being written."""
        return FramePixelCNNSteps(self, batch, condition)
