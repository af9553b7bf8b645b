"""Pairs whose guide runs the model, in float64, and how the model's one run is compared with two."""

from contextlib import contextmanager
from unittest import mock

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_vae.guides import BIVAGuide, LadderGuide
from pyro_vae.guides.base import draw_top_down, gaussian
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import BIVA, HierarchicalVAE
from pyro_vae.programs import pair as pairs
from pyro_vae.programs.pair import Pair
from pyro_vae.programs.program import as_programs, prime

N = 6


@contextmanager
def two_runs():
    """The model is run again, as if the guide had not run it."""
    with mock.patch.object(pairs, "OneRun", lambda model: None):
        yield


class Own(PyroModule):
    """A user's hierarchy: a latent in a plate of its own, data that are masked, a factor, what is a function."""

    def __init__(self):
        super().__init__()
        self.middle, self.bottom = nn.Linear(2, 6), nn.Linear(3, 4)

    def forward(self, x=None, w=None, num_samples=1):
        kept = torch.ones(4, dtype=torch.bool) if x is None else x > -1.0
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            loc, raw = self.middle(top).chunk(2, -1)
            with pyro.plate("parts", 2, dim=-2):
                low = pyro.sample("low", dist.Normal(loc, nn.functional.softplus(raw) + 0.1).to_event(1))
            features = self.bottom(low.sum(-3, keepdim=True))  # (..., 1, batch, 4)
            pyro.deterministic("features", features, event_dim=1)
            pyro.factor("size", -0.01 * features.square().sum(-1))
            return pyro.sample("x", dist.Normal(features, 0.7).mask(kept).to_event(1), obs=x)


class OwnGuide(PyroModule):
    """A user's guide of it: by ``draw_top_down``, with a latent that it has drawn itself before."""

    def __init__(self, model):
        super().__init__()
        self.model, self.top, self.low = model, nn.Linear(4, 2), nn.Linear(4, 3)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(self.top(x), 0.5).to_event(1))

        def posterior(name, p, infer):
            p = gaussian(name, p)
            return dist.Normal(0.5 * p.loc + self.low(x), p.scale)

        draw_top_down(self.model, posterior, ["top", "low"], {"x": x}, {"top": top})


def ladder(**options):
    model = HierarchicalVAE((4,), (3, 2), (8, 6), 1, likelihood=Gaussian(), **options)
    return model, LadderGuide(model, (8, 6), 1, batch_norm=options.get("batch_norm", False)), model.decoder


def biva(**options):
    model = BIVA((1, 4, 1), (3, 2), (4, 4), (2, 1), num_blocks=1, likelihood=Gaussian(), **options)
    return model, BIVAGuide(model, num_blocks=1, **options), model.decoder


def own():
    model = Own()
    return model, OwnGuide(model), model.bottom


def function():
    """A plain function with parameters of Pyro's, and a ladder for it."""
    middle, bottom = nn.Linear(2, 3), nn.Linear(3, 4)

    def model(x=None, num_samples=1):
        noise = pyro.param("noise", torch.tensor(0.8).double(), constraint=dist.constraints.positive)
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            low = pyro.sample("low", dist.Normal(middle(top), 0.5).to_event(1))
            return pyro.sample("x", dist.Normal(bottom(low), noise).to_event(1), obs=x)

    middle.double(), bottom.double()
    return model, LadderGuide(model, (8, 6), 1), bottom


PAIRS = {"ladder": ladder, "biva": biva, "own": own, "function": function}


class Made:
    """A pair in float64, its batch, and how often what makes x of the latents has run."""

    def __init__(self, make):
        torch.manual_seed(3)
        model, guide, decoder = make()
        self.guide = guide.double()
        self.model, self.calls = model.double() if isinstance(model, nn.Module) else model, 0
        x = torch.randn(N, 4, dtype=torch.float64)
        self.batch = {"x": x.reshape(N, 1, 4, 1) if isinstance(model, BIVA) else x}
        self.programs = as_programs(self.model, self.guide)
        prime(*self.programs, self.batch)
        self.nesting = 2 if make is own else 1
        self.counter = decoder.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1

    def traces(self, k=1, model=None, guide=None, **batch):
        """Traces with the random numbers of a fixed seed, and the runs of the decoder."""
        torch.manual_seed(1)
        programs = [given or program for given, program in zip((model, guide), self.programs, strict=True)]
        self.calls = 0
        return Pair(*programs, self.nesting).traces(self.batch | batch, k), self.calls


def gradients(loss, programs):
    parameters = {id(p): p for program in programs for p in program.parameters()}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return [torch.zeros(()) if g is None else g for g in found]


def close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def close_traces(ours, theirs):
    """Sites, their distributions and values, plates, scales and masks."""
    assert [n for n in ours.nodes if ours.nodes[n]["type"] != "param"] == [
        n for n in theirs.nodes if theirs.nodes[n]["type"] != "param"
    ]
    for name, site in ours.nodes.items():
        if site["type"] != "sample":
            continue
        other = theirs.nodes[name]
        for key in ("is_observed", "cond_indep_stack", "args", "kwargs"):
            assert site[key] == other[key], (name, key)
        assert site["infer"].keys() == other["infer"].keys()
        assert type(site["fn"]) is type(other["fn"]) and site["fn"].shape() == other["fn"].shape()
        torch.testing.assert_close(site["value"], other["value"])
        for key in ("scale", "mask"):
            a, b = ((torch.as_tensor(s[key]) if s[key] is not None else None) for s in (site, other))
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)
        torch.testing.assert_close(site["fn"].log_prob(site["value"]), other["fn"].log_prob(other["value"]))
