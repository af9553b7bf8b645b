"""Evaluation in chunks of data and particles: in bounded memory, with the same draws whatever the bound."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.programs.densities import bound_terms, log_prob
from pyro_vae.programs.enumeration import with_all_values
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.program import Batch
from pyro_vae.programs.traces import TracePair, in_particle_plate, is_latent, repeat, traced
from pyro_vae.recording import Mode, NotRecordable, Outputs, Recording, expanded_along
from pyro_vae.runtime import bytes_per_row, peak_bytes, private_seed

logger = logging.getLogger(__name__)


class Recorder:
    """Runs functions of tensors by graphs, recorded once for each function and for each shape and type of inputs.

    What cannot be recorded runs eagerly, it and all that comes after it, and one line in the log says why.

    Args:
        who: what runs eagerly if it cannot be recorded, for the log: "log_likelihood", "chunks".
        module: owns all parameters that the functions use.
        mode: off: eagerly; graph: recorded; full: the first recording of each name is compiled as well.
    """

    def __init__(self, who: tuple[str, str], module: nn.Module, mode: Mode = "off") -> None:
        self.who, self.module, self.mode = who, module, mode
        self._recordings: dict[tuple, Recording | None] = {}

    def __call__(self, name: str, function: Callable[..., Outputs], inputs: Mapping[str, Tensor]) -> Outputs:
        """The function's outputs.

        Args:
            name: of the function. Besides the inputs it may depend on what is the same for all calls of one name with
                inputs of the same shapes.
            function: of tensors by name.
            inputs: the tensors.
        """
        if self.mode == "off":
            return function(**inputs)
        key = (name, *((key, value.shape, value.dtype, expanded_along(value)) for key, value in inputs.items()))
        if key not in self._recordings:
            self._recordings[key] = self._record(name, function, inputs)
        recording = self._recordings[key]
        return function(**inputs) if recording is None else recording(inputs)[0]

    def _record(self, name: str, function: Callable[..., Outputs], inputs: Mapping[str, Tensor]) -> Recording | None:
        try:
            recording = Recording(self.module, function, inputs, differentiate=False)
            recording.check(inputs, 1e-4)
            if self.mode == "full" and not any(key[0] == name for key in self._recordings):
                recording.compile(inputs, 1e-4)
            return recording
        except NotRecordable as error:
            self.mode = "off"
            logger.warning("%s runs eagerly, its %s cannot be recorded: %s", *self.who, error)
            return None


MEMORY_BUDGET = 512 * 2**20  # bytes
USED = 0.3  # part of a budget that tensors are to take; operators need room of their own, transposed convolutions most
MOST = 0.8  # what a single particle, which cannot be cut up, may take
ROWS = 1000  # data times particles that are drawn together, at most
PROBE = 4 * 2**20  # bytes that it may take to find out what a particle takes
UNIT = 16 * 2**20  # bytes that what is drawn together takes, at most


@dataclass(frozen=True)
class Piece:
    """Some particles of some data.

    Attributes:
        traces: of the pair.
        rows: which data they are, a slice of the split.
        share: part of these data's particles, in (0, 1].
        last: whether these data have no further particles.
    """

    traces: TracePair
    rows: slice
    share: float
    last: bool


class Chunks:
    """A pair's traces on all data of a split, ``num_particles`` of each, piece by piece.

    What is *drawn* together is a chunk, whose size follows from the programs alone: at most ``ROWS`` rows and ``UNIT``
    bytes. What is *computed* together is a piece of it that fits the budget; where the whole chunk does, that is one
    run. Else the guide is run once on the chunk for its draws, and both programs on each piece at those. So a budget
    changes no number but by rounding. A guide that does not know its density at values from before (flows without an
    inverse) draws anew for each piece.

    Args:
        pair: programs in evaluation mode, and how they are run.
        split: the data.
        num_particles: of each datum.
        memory_budget: bytes.

    Raises:
        InputError: if one particle of one datum takes more than the budget, or the guide's draws of a chunk do.
    """

    def __init__(self, pair: Pair, split: Split, num_particles: int, memory_budget: int) -> None:
        self.pair, self.split, self.num_particles = pair, split, num_particles
        with private_seed(0, split.device):
            self._measure(split.largest(), memory_budget)

    def _measure(self, largest: slice, memory_budget: int) -> None:
        """Sizes of chunks and pieces, in data and particles of each."""
        k, limit, first = self.num_particles, USED * memory_budget, self.split.batch(largest)
        one = peak_bytes(lambda: self._densities(self.split.batch(largest), 1))
        if one > MOST * memory_budget:
            raise InputError(
                f"memory_budget {memory_budget} bytes is too small: one particle of one datum takes {one} bytes"
            )
        each = bytes_per_row(lambda n: self._densities(first, n), 1, k, PROBE) if k > 1 else float(one)
        datum = one + (k - 1) * each
        if datum <= UNIT:
            self.data, self.particles = self.pair.batch_size(min(ROWS // k, int(UNIT / datum))), k
        else:
            self.data, self.particles = 1, max(1, int((UNIT - one) / each) + 1)
        whole = self.data * (one + (self.particles - 1) * each)
        self.split_up = whole > limit
        if not self.split_up:
            return
        self.piece_data = max(1, int(limit / datum))
        self.piece_particles = self.particles if datum <= limit else max(1, int((limit - one) / each) + 1)
        self.shared = self.pair.traces(first).shared
        if not self._known_again(first):
            self.data, self.particles, self.split_up = min(self.data, self.piece_data), self.piece_particles, False
            return
        drawn = self.data * bytes_per_row(lambda n: self._draws(repeat(first, n), self.particles), 1, 3, PROBE)
        if drawn > MOST * memory_budget:
            raise InputError(
                f"memory_budget {memory_budget} bytes is too small: the guide draws for {self.data} data at once, and "
                f"that takes {drawn:.0f} bytes; {math.ceil(min(whole / USED, drawn / MOST))} are enough"
            )

    def _densities(self, batch: Batch, count: int) -> None:
        """What is computed of a piece, or more."""
        for term in bound_terms(self.pair.traces(batch, count), analytic=False):
            term.raw.double()

    def _known_again(self, first: Batch) -> bool:
        """Whether the guide's densities can be had at values that it has drawn before: some flows keep no inverse."""
        held = self._held(self._draws(first, 2), slice(0, 1), slice(0, 2), 2)
        try:
            latent = replace(self.pair, guide=poutine.replay(self.pair.guide, trace=held)).traces(first, 2).latent()
            [log_prob(q) for q, _ in latent.values()]
        except Exception:  # a transform may say so in any way
            return False
        return True

    def run(self, look: Callable[[Piece], None]) -> None:
        """Look at all pieces: data in order, and of some data all particles before the next data.

        Args:
            look: is handed a piece, which is let go before the next one is computed.
        """
        for piece in self._all():
            look(piece)
            del piece

    def _all(self) -> Iterator[Piece]:
        total = self.num_particles
        for start in range(0, len(self.split), self.data):
            rows = slice(start, min(start + self.data, len(self.split)))
            batch = self.split.batch(rows)
            for done in range(0, total, self.particles):
                count = min(self.particles, total - done)
                last = done + count == total
                if self.split_up:
                    yield from self._pieces(batch, rows, count, last)
                else:
                    yield Piece(self.pair.traces(batch, count), rows, count / total, last)

    def _pieces(self, batch: Batch, rows: slice, count: int, last: bool) -> Iterator[Piece]:
        """A chunk's pieces, at the draws of the whole chunk."""
        draws, size = self._draws(batch, count), rows.stop - rows.start
        for start in range(0, size, self.piece_data):
            data = slice(start, min(start + self.piece_data, size))
            some = {name: value[data] for name, value in batch.items()}
            for done in range(0, count, self.piece_particles):
                particles = slice(done, min(done + self.piece_particles, count))
                held = self._held(draws, data, particles, count)
                pair = replace(self.pair, guide=poutine.replay(self.pair.guide, trace=held))
                k = particles.stop - particles.start
                yield Piece(
                    pair.traces(some, k),
                    slice(rows.start + data.start, rows.start + data.stop),
                    k / self.num_particles,
                    last and particles.stop == count,
                )

    def _draws(self, batch: Batch, count: int) -> dict[str, _Drawn]:
        """Values of the guide's latent sites on a batch, so many particles of each datum."""
        copies = count if self.pair.repeated else 1
        guide = in_particle_plate(self.pair.guide, count // copies, -(self.pair.nesting + 1))
        sums = self.pair.sums
        guide = with_all_values(self.pair.model, guide, sums, self.pair.nesting)[1]
        nodes = traced(guide, **(repeat(batch, copies) if copies > 1 else batch)).nodes
        return {
            n: _Drawn(s["value"], s["fn"].event_dim, s["infer"])
            for n, s in nodes.items()
            if is_latent(s) and n not in sums.guide
        }

    def _held(self, draws: Mapping[str, _Drawn], data: slice, particles: slice, count: int) -> Trace:
        """A trace to replay the guide against: some data and particles of what was drawn."""
        held = Trace()
        for name, drawn in draws.items():
            value = self._part(name, drawn, data, particles, count).clone()
            held.add_node(name, name=name, type="sample", is_observed=False, infer=drawn.infer, value=value)
        return held

    def _part(self, name: str, drawn: _Drawn, data: slice, particles: slice, count: int) -> Tensor:
        """The values of some data and particles of a site."""
        value, own = drawn.value, name not in self.shared
        rank = value.dim() - drawn.event_dim
        if self.pair.repeated:
            if not own or value.shape[rank - 1] == 1:
                return value
            value = value.unflatten(rank - 1, (-1, count))
            return _narrowed(_narrowed(value, rank - 1, data), rank, particles).flatten(rank - 1, rank)
        if own:
            value = _narrowed(value, rank - 1, data)
        plate = rank - 1 - self.pair.nesting  # of the particles; left of it are values of what is summed over
        if count == 1 or plate < 0:  # not in the plate of particles
            return value
        value = _narrowed(value, plate, particles)
        return value[0] if particles.stop - particles.start == 1 and plate == 0 else value


@dataclass(frozen=True)
class _Drawn:
    """What a guide drew at a site."""

    value: Tensor
    event_dim: int
    infer: dict[str, Any]


def _narrowed(value: Tensor, axis: int, part: slice) -> Tensor:
    """A part along a dimension; of size 1 all have the same."""
    return value if value.shape[axis] == 1 else value.narrow(axis, part.start, part.stop - part.start)
