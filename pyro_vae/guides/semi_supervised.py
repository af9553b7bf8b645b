"""The recognition model of semi-supervised learning: a classifier, and latents given the class."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor
from torch.nn.functional import cross_entropy

from pyro_vae.errors import InputError, below_one
from pyro_vae.models.semi_supervised import SemiSupervisedVAE
from pyro_vae.networks import ConditionalEncoder, NetworkKind, diagonal_normal, make_encoder
from pyro_vae.programs.handlers import penalty


class SemiSupervisedGuide(PyroModule):
    r"""q(y | x) = Categorical(softmax(classifier(x))), where y is not known;  q(z | x, y) = N(mu(x, y), sigma(x, y)^2).

    All values of y are run at once, and the bound is the exact sum over them (``infer={"enumerate": "parallel"}``).
    Where y is known, training adds :math:`-\alpha \log q(y \mid x)` to the loss, so that the classifier learns from
    labels as well.

    Args:
        model: the generative model, whose sizes are taken.
        encoder: ``"mlp"`` or ``"conv"``, of both networks.
        hidden_dims: widths of the layers of each (conv: channels).
        activation: their nonlinearity, by name.
        classifier_weight: alpha, not negative.
        min_scale: lower bound of sigma.

    Raises:
        InputError: for an unknown encoder or activation, a negative weight.

    Source: Kingma et al. 2014, arXiv:1406.5298, equations 6 to 9.

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.SemiSupervisedVAE((1, 8, 8), num_classes=3, latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.SemiSupervisedGuide(model, hidden_dims=(16,))
        >>> batch = {"x": torch.ones(4, 1, 8, 8), "y": torch.tensor([0, 2, -1, -1])}  # -1: not known
        >>> sorted(pyro_vae.elbo(model, guide, batch).kl)
        ['y_unobserved', 'z']
    """

    def __init__(
        self,
        model: SemiSupervisedVAE,
        encoder: NetworkKind = "mlp",
        hidden_dims: Sequence[int] = (500, 500),
        activation: str = "softplus",
        classifier_weight: float = 50.0,
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__()
        if classifier_weight < 0:
            raise InputError(f"classifier_weight must not be negative, got {classifier_weight}")
        self.condition, self.context = model.condition, model.context
        self.classifier_weight, self.min_scale = classifier_weight, below_one("min_scale", min_scale)
        num_classes = model.condition.dim
        self.classifier = make_encoder(encoder, model.data_shape, hidden_dims, num_classes, activation)
        self.encoder = ConditionalEncoder(
            encoder, model.data_shape, num_classes, hidden_dims, 2 * model.latent_dim, activation
        )

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        """Run q on data ``x`` (batch, *data_shape) and labels ``y`` (batch,), -1 where one is not known."""
        logits = self.classifier(x)  # (batch, C)
        with pyro.plate("data", x.shape[0], dim=-1):
            q, all_values = dist.Categorical(logits=logits), {"enumerate": "parallel"}
            if y is None:
                label = pyro.sample("y", q, infer=all_values)  # (C, 1, ..., 1)
            else:
                with pyro.poutine.mask(mask=y < 0):
                    label = torch.where(y >= 0, y, pyro.sample("y_unobserved", q, infer=all_values))
                of_labels = cross_entropy(logits, y.clamp(min=0), reduction="none") * (y >= 0)  # (batch,)
                penalty("classification", self.classifier_weight * of_labels)
            c = self.condition(label)  # (..., batch, C)
            c = c.expand(torch.broadcast_shapes(c.shape, (x.shape[0], 1)))
            features = self.encoder(x.expand(*c.shape[:-1], *x.shape[1:]), c)  # (..., batch, 2 * latent_dim)
            pyro.sample("z", diagonal_normal(features, self.min_scale).to_event(1))
