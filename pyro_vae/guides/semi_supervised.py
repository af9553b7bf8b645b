"""The recognition model of semi-supervised learning: a classifier, and latents given the class."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.errors import below_one, not_negative
from pyro_vae.models.semi_supervised import PartlyLabelled, SemiSupervisedVAE, StackedSemiSupervisedVAE
from pyro_vae.networks import MLP, ConditionalEncoder, NetworkKind, beside, diagonal_normal, make_encoder
from pyro_vae.programs.handlers import penalty


class PartlyLabelledGuide(PyroModule):
    """What guides of models share whose class label is known for some data: the label, and what is accepted as one.

    Args:
        model: the generative model.
        classifier_weight: of -log q(y | x) where y is known, in training; not negative.
        min_scale: lower bound of the scales.
    """

    def __init__(self, model: PartlyLabelled, classifier_weight: float, min_scale: float) -> None:
        super().__init__()
        self.condition, self.context = model.condition, model.context
        self.classifier_weight = not_negative("classifier_weight", classifier_weight)
        self.min_scale = below_one("min_scale", min_scale)

    def label(self, logits: Tensor, y: Tensor | None) -> Tensor:
        """y where it is known, all its values elsewhere; what known labels say of the classifier is a penalty."""
        q, all_values = dist.Categorical(logits=logits), {"enumerate": "parallel"}
        if y is None:
            return pyro.sample("y", q, infer=all_values)  # (C, 1, ..., 1)
        with pyro.poutine.mask(mask=y < 0):
            label = torch.where(y >= 0, y, pyro.sample("y_unobserved", q, infer=all_values))
        log_q = logits.log_softmax(-1)  # (..., batch, C)
        of_labels = log_q.gather(-1, y.clamp(min=0).expand(log_q.shape[:-1])[..., None])[..., 0] * (y >= 0)
        penalty("classification", -self.classifier_weight * of_labels)
        return label


class SemiSupervisedGuide(PartlyLabelledGuide):
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
        super().__init__(model, classifier_weight, min_scale)
        num_classes = model.condition.dim
        self.classifier = make_encoder(encoder, model.data_shape, hidden_dims, num_classes, activation)
        self.encoder = ConditionalEncoder(
            encoder, model.data_shape, num_classes, hidden_dims, 2 * model.latent_dim, activation
        )

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        """Run q on data ``x``, ``(batch, *data_shape)`` and labels ``y`` (batch,), -1 where one is not known."""
        logits = self.classifier(x)  # (batch, C)
        with pyro.plate("data", x.shape[0], dim=-1):
            c = self.condition(self.label(logits, y))  # (..., batch, C)
            features = self.encoder(x, c)  # (..., batch, 2 * latent_dim)
            pyro.sample("z", diagonal_normal(features, self.min_scale).to_event(1))


class StackedSemiSupervisedGuide(PartlyLabelledGuide):
    r"""q(z1 | x) = N;  q(y | z1) = Categorical, where y is not known;  q(z2 | z1, y) = N.

    Only the small networks after z1 are run at all values of y.

    Args:
        model: the generative model, whose sizes are taken.
        encoder: ``"mlp"``, ``"conv"``, or a module from ``(..., *data_shape)`` to ``(..., 2 * latent_dim)``.
        hidden_dims: widths of its layers (conv: channels).
        latent_hidden_dims: widths of the layers of the networks after z1.
        activation, classifier_weight, min_scale: as of :class:`SemiSupervisedGuide`.

    Raises:
        InputError: as :class:`SemiSupervisedGuide`.

    Source: Kingma et al. 2014, arXiv:1406.5298 (M1+M2, there one after the other).

    Example:
        >>> import pyro_vae, torch
        >>> model = pyro_vae.models.StackedSemiSupervisedVAE((1, 8, 8), 3, 4, 2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.StackedSemiSupervisedGuide(model, hidden_dims=(16,))
        >>> batch = {"x": torch.ones(4, 1, 8, 8), "y": torch.tensor([0, 2, -1, -1])}  # -1: not known
        >>> sorted(pyro_vae.elbo(model, guide, batch).kl)
        ['y_unobserved', 'z1', 'z2']
    """

    def __init__(
        self,
        model: StackedSemiSupervisedVAE,
        encoder: str | nn.Module = "mlp",
        hidden_dims: Sequence[int] = (300, 300),
        latent_hidden_dims: Sequence[int] = (100,),
        activation: str = "relu",
        classifier_weight: float = 50.0,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(model, classifier_weight, min_scale)
        num_classes = model.condition.dim
        self.encoder = make_encoder(encoder, model.data_shape, hidden_dims, 2 * model.latent_dim, activation)
        self.classifier = MLP(model.latent_dim, latent_hidden_dims, num_classes, activation)
        self.style = MLP(model.latent_dim + num_classes, latent_hidden_dims, 2 * model.style_dim, activation)

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        """Run q on data ``x``, ``(batch, *data_shape)`` and labels ``y`` (batch,), -1 where one is not known."""
        q = diagonal_normal(self.encoder(x), self.min_scale)
        with pyro.plate("data", x.shape[0], dim=-1):
            z1 = pyro.sample("z1", q.to_event(1))  # (..., batch, latent_dim)
            c = self.condition(self.label(self.classifier(z1), y))  # (..., batch, C)
            moments = self.style(beside(z1, c))  # (..., batch, 2 * style_dim)
            pyro.sample("z2", diagonal_normal(moments, self.min_scale).to_event(1))
