"""Latent noise under data parallelism: each process draws its part of what one process would draw."""

from __future__ import annotations

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message


class RankNoise(Messenger):
    """Draw a site's sample for the joint batch and keep this process's rows.

    With equal random states on all processes, plain sampling would give every process the *same* noise for
    different data. Here a site is sampled as if the batch were ``world`` times as long (its distribution
    repeated), and the rows of this rank are kept: with one particle, and with several at sites whose parameters
    do not depend on the particle, these are the very numbers that a single process draws for the joint batch.
    At deeper sites with several particles they are independent draws from the same distribution.

    It goes around the guide, inside the plate of particles.

    Args:
        rank: this process.
        world: number of processes.
        num_particles: size of the plate of particles that will be put around the guide.
        particle_dim: its dimension.
    """

    def __init__(self, rank: int, world: int, num_particles: int = 1, particle_dim: int = -2) -> None:
        super().__init__()
        self.rank, self.world = rank, world
        self.num_particles, self.particle_dim = num_particles, particle_dim

    def _pyro_sample(self, msg: Message) -> None:
        fn = msg["fn"]
        in_data = any(f.dim == -1 for f in msg["cond_indep_stack"])
        if msg["is_observed"] or msg["value"] is not None or not in_data:
            return
        missing = -self.particle_dim - len(fn.batch_shape) if self.num_particles > 1 else 0
        outer = (self.num_particles, *(1,) * (missing - 1)) if missing > 0 else ()
        joint = fn.expand((*outer, self.world, *fn.batch_shape))  # (K, world, N): the joint batch is (K, world * N)
        value = joint.rsample() if fn.has_rsample else joint.sample()
        msg["value"] = value.select(len(outer), self.rank)
        msg["done"] = True
