"""Sequences of tokens: a training step against a loop of cells by hand, and drawing from a state that is kept.

The step by hand pads to the maximal length, goes through encoder and decoder one ``nn.LSTMCell`` (``nn.GRUCell``) at a
time, and makes logits at all places, as tutorials do; its loss is held against ours first. Lengths vary (at most 39
tokens, 11 on average); batches are of data in any order, or of like lengths. Drawing: 256 tokens that do not end, each
from the state that the last one left, or by a pass over all those before it ("estimated": from some of the passes).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import pyro
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad, softplus

import pyro_vae
from pyro_vae.distributions import Sequences
from pyro_vae.distributions.autoregressive import draw
from pyro_vae.programs.program import as_programs
from pyro_vae.training.compiled import CompiledStep, Step, Update
from pyro_vae.training.optimizer import make_optimizer, wanted

Clock = Callable[[], float]
LENGTH, TOKENS, LATENT, BATCH = 40, 5000, 16, 32


def sentences(count: int) -> Tensor:
    """Sequences of 2 to 39 tokens, most of them short, ``(count, 40)``."""
    lengths = 2 + torch.distributions.Geometric(0.1).sample((count,)).long().clamp(max=LENGTH - 3)
    x = torch.randint(1, TOKENS, (count, LENGTH))
    return torch.where(torch.arange(LENGTH) < lengths[:, None], x, 0)


class ByHand(nn.Module):
    """The same network and loss as one would write them first.

    Args:
        model, guide: whose weights they are.
        cell: ``"lstm"`` or ``"gru"``.
    """

    def __init__(self, model: Any, guide: Any, cell: str) -> None:
        super().__init__()
        self.decoder, self.likelihood, self.encoder, self.cell = model.decoder, model.likelihood, guide.encoder, cell
        self.down = self.made(model.likelihood.layers)
        self.forwards, self.backwards = (self.made(direction) for direction in guide.encoder.reader.layers[0])

    def made(self, layers: Any) -> nn.Module:
        """One cell with a layer's weights."""
        own = layers.layers[0]
        made = (nn.LSTMCell if self.cell == "lstm" else nn.GRUCell)(own.input_size, own.hidden_size)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(made, name, getattr(own, f"{name}_l0"))
        return made

    def run(self, cell: nn.Module, inputs: Tensor, state: Tensor | None, kept: Tensor | None = None) -> Tensor:
        """h at all places; where it is not kept, the state stays as it is."""
        h = inputs.new_zeros(len(inputs), cell.hidden_size) if state is None else state.chunk(self.parts, 1)[0]
        c = torch.zeros_like(h) if state is None else state.chunk(self.parts, 1)[-1]
        found = []
        for t in range(inputs.shape[1]):
            new = cell(inputs[:, t], (h, c)) if self.parts == 2 else (cell(inputs[:, t], h), c)
            h, c = (
                new
                if kept is None
                else (torch.where(kept[:, t : t + 1], n, o) for n, o in zip(new, (h, c), strict=True))
            )
            found.append(h)
        return torch.stack(found, 1)

    @property
    def parts(self) -> int:
        """Tensors that a state has."""
        return 2 if self.cell == "lstm" else 1

    def forward(self, x: Tensor) -> Tensor:
        """The negative ELBO of one draw, averaged over data."""
        there = x != 0
        embedded = self.encoder.embedding(x)
        ends = self.run(self.forwards, embedded, None, there)[:, -1]
        starts = self.run(self.backwards, embedded.flip(1), None, there.flip(1))[:, -1]
        loc, raw = self.encoder.out(torch.cat([ends, starts], 1)).chunk(2, 1)
        q = torch.distributions.Normal(loc, softplus(raw + 0.5411666) + 1e-4)
        p = torch.distributions.Normal(torch.zeros_like(loc), 1.0)
        features = self.decoder(q.rsample())
        inputs = self.likelihood.embedding(pad(x[:, :-1], (1, 0)))
        inputs = torch.cat([inputs, features[:, None].expand(-1, LENGTH, -1)], 2)
        logits = self.likelihood.out(self.run(self.down, inputs, self.likelihood.start(features).tanh()))
        nats = cross_entropy(logits[:, :-1].mT, x[:, :-1], reduction="none")
        counted = pad(there[:, :-2], (1, 0), value=True)
        return (torch.where(counted, nats, 0.0).sum(1) + torch.distributions.kl_divergence(q, p).sum(1)).mean()


def made_pair(cell: str) -> tuple[Any, Any]:
    """A VAE of sentences, and its guide; the same weights each time."""
    torch.manual_seed(0)
    likelihood = pyro_vae.likelihoods.RecurrentTokens((LENGTH,), TOKENS, cell=cell)
    model = pyro_vae.models.VAE((LENGTH,), LATENT, likelihood, hidden_dims=())
    encoder = pyro_vae.networks.RecurrentEncoder((LENGTH,), TOKENS, 2 * LATENT, cell=cell)
    return model, pyro_vae.guides.GaussianGuide(model, encoder)


def ours(cell: str, mode: str, device: str) -> tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor]]:
    """A training step as ``fit`` makes it, and the loss."""
    model, guide = (program.to(device) for program in as_programs(*made_pair(cell)))
    fabric = Fabric(accelerator=torch.device(device).type, devices=1)
    step = Step(model, guide, pyro_vae.ELBO())
    optimizer = make_optimizer(wanted("adam", {}, 1e-3), step.programs, {}, {}, fabric.device, mode).optimizer
    module, optimizer = fabric.setup(step, optimizer)
    update = Update(fabric, CompiledStep(fabric, step, mode, differentiate=True, eager=module), optimizer, module)

    def run(x: Tensor) -> None:
        with pyro.validation_enabled(False):
            update({"x": x}, [1e-3])

    return run, lambda x: step(x=x)[0]


def by_hand(cell: str, device: str) -> tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor]]:
    """The same, written by hand."""
    loss = ByHand(*made_pair(cell), cell).to(device)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-3)

    def run(x: Tensor) -> None:
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()

    return run, loss


def training(cell: str, like: bool, repeats: int, device: str, clock: Clock) -> list[dict[str, Any]]:
    """Steps over four batches of 32."""
    x = sentences(40 * BATCH).to(device)
    x = x[(x != 0).sum(1).argsort()] if like else x
    batches = x.split(BATCH)[4::10]
    made = {"by hand": by_hand(cell, device), "ours, eager": ours(cell, "off", device)}
    if device != "cpu":  # there it is not recorded: see pyro_vae.likelihoods.tokens
        made["ours, recorded"] = ours(cell, "graph", device)
    losses = []
    for _, loss in made.values():
        torch.manual_seed(1)
        losses.append(loss(batches[-1]).detach())
    torch.testing.assert_close(losses, [losses[0]] * len(losses), rtol=1e-4, atol=1e-3)

    def all_batches(step: Callable[[Tensor], Any]) -> None:
        for batch in batches:
            step(batch)

    variants = {name: partial(all_batches, step) for name, (step, _) in made.items()}
    order = "like lengths" if like else "any order"
    return common.interleaved(f"training, {cell}, {order}", variants, "by hand", repeats, device, clock=clock)


@torch.no_grad()
def full_passes(p: Sequences, batch: int, passes: int) -> Tensor:
    """Draws by a pass over all tokens before each place, of some places only."""
    tokens = torch.zeros(batch, *p.event_shape, dtype=torch.int64, device=p.device)
    for i in range(0, p.event_shape[0], p.event_shape[0] // passes):
        hidden = p.network.hidden(tokens[:, : i + 1], p._condition(torch.Size((batch,))))
        tokens[:, i] = draw(p.network.output(hidden[:, -1]))
    return tokens


def drawing(case: str, likelihood: Any, passes: int, repeats: int, device: str, clock: Clock) -> list[dict[str, Any]]:
    """256 tokens, 16 sequences."""
    p = likelihood.to(device).eval()(torch.zeros(likelihood.features, device=device))
    variants = {"cached": lambda: p.sample((16,)), "full passes": lambda: full_passes(p, 16, passes)}
    rows = common.interleaved(f"drawing, {case}", variants, "full passes", repeats, device, clock=clock)
    scale = p.event_shape[0] / passes
    rows[1]["median_ms"] = round(rows[1]["median_ms"] * scale, 3)
    rows[0]["ratio"] = round(rows[0]["ratio"] / scale, 5)
    rows[0]["speedup"] = round(1 / rows[0]["ratio"], 1)
    if passes < p.event_shape[0]:
        rows[1]["estimated"] = f"from {passes} of {p.event_shape[0]} passes"
    return rows


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--cpu-time", action="store_true", help="the process's own time, on a busy machine")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = []
    for cell in ("lstm", "gru"):
        for like in (False, True):
            rows += training(cell, like, 1 if options.quick else 3, options.device, clock)
    size, repeats, passes = {"ends": False}, 1 if options.quick else 3, 8 if options.quick else 32
    made = {
        "lstm": pyro_vae.likelihoods.RecurrentTokens((256,), 128, **size),
        "transformer": pyro_vae.likelihoods.TransformerTokens((256,), 128, **size),
        "conductor": pyro_vae.likelihoods.ConductorTokens((256,), 128, num_segments=16, **size),
    }
    for case, likelihood in made.items():
        rows += drawing(case, likelihood, passes, repeats, options.device, clock)
    common.report(rows, options)


if __name__ == "__main__":
    main()
