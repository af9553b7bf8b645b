"""Updates of the guide alone, as an option of training."""

from __future__ import annotations

from pyro_vae.errors import InputError, positive


class Aggressive:
    """Train the guide by itself before each update of the model, until it has caught up with it.

    A guide that lags behind the true posterior makes z worth nothing to a strong decoder, which then learns to do
    without: the posterior collapses. So in every step the guide alone is updated, on further batches, until the mean
    loss over a window of updates is not below that of the window before; then the model alone, on the step's batch. At
    the end of each epoch the mutual information of validation data and latents
    (:func:`pyro_vae.evaluation.mutual_information`) is measured; when it is not above that of the epoch before,
    training goes on as usual, both updated together, for good. Epochs before the end of the KL weight's schedule do not
    count. ``metrics.jsonl`` has ``guide_updates`` (in all) and ``mutual_information`` (nats).

    What guide and model share is the model's, and stays in the guide's updates. The moving average of weights moves
    once a step.

    Args:
        most_updates: of the guide before one of the model, at most.
        window: updates over which the loss is averaged. Two are made at least, unless ``most_updates`` is less.
        num_data: validation data whose mutual information is measured, the first ones; it is at most their log, and its
            time grows as their square.

    Raises:
        InputError: for numbers that are not positive integers, or a single datum.

    Source: He et al. 2019, arXiv:1901.05534, algorithm 1.

    Example:
        >>> import pyro_vae, torch
        >>> from pyro_vae.data import Data, Split
        >>> from pyro_vae.training import Aggressive
        >>> model = pyro_vae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=(16,))
        >>> guide = pyro_vae.guides.GaussianGuide(model, hidden_dims=(16,))
        >>> x = (torch.rand(60, 1, 8, 8) > 0.5).float()
        >>> data, how = Data(Split({"x": x[:40]}), Split({"x": x[40:]})), Aggressive(most_updates=6, window=2)
        >>> result = pyro_vae.fit(model, guide, data, aggressive=how, epochs=1, batch_size=20, progress=False)
        >>> 2 * 4 <= result.records[0]["guide_updates"] <= 2 * 6
        True
    """

    def __init__(self, most_updates: int = 100, window: int = 10, num_data: int = 500) -> None:
        self.most_updates = positive("most_updates", most_updates)
        self.window = positive("window", window)
        self.num_data = positive("num_data", num_data)
        if num_data < 2:
            raise InputError("Aggressive: num_data must be 2 at least, of a single datum latents can say nothing")
