"""What is said of context that a program does not take: before work starts, by every entrance."""

import logging

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import fit
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError
from pyro_vae.evaluation import elbo, log_likelihood
from pyro_vae.evaluation.encoding import encode
from pyro_vae.evaluation.generate import decode, reconstruct, sample
from pyro_vae.guides import CompletionGuide, ConditionalGuide, GaussianGuide
from pyro_vae.models import CompletionVAE, ConditionalVAE
from pyro_vae.networks import Attributes, OneHot
from pyro_vae.plots import NotApplicable, aggregated_posterior, manifold
from pyro_vae.programs.context import (
    Context,
    attribute_context,
    label_context,
    needed_to_generate,
    num_attributes,
    num_classes,
    required_arguments,
)
from pyro_vae.programs.program import Program

X = (torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def labelled():
    model = ConditionalVAE((6,), OneHot(3), 2, hidden_dims=(4,))
    return model, ConditionalGuide(model, hidden_dims=(4,))


def attributes():
    model = ConditionalVAE((6,), Attributes(2), 2, hidden_dims=(4,))
    return model, ConditionalGuide(model, hidden_dims=(4,))


def completion():
    model = CompletionVAE((6,), 2, hidden_dims=(4,), prior_hidden_dims=(4,), baseline_hidden_dims=(4,))
    return model, CompletionGuide(model, hidden_dims=(4,))


MASK = torch.arange(6).expand(12, 6) < 3
BAD = [
    (labelled, {"y": torch.arange(12)}, r"argument 'y' takes class labels from 0 to 2: torch.int64 of shape \(N,\)"),
    (labelled, {"y": torch.full((12,), -1)}, "got values from -1 to -1"),
    (labelled, {"y": torch.zeros(12)}, "got torch.float32"),
    (labelled, {"y": torch.zeros(12, 1, dtype=torch.int64)}, r"got shape \(N, 1\)"),
    (attributes, {"y": torch.zeros(12, 3)}, r"vectors of 2 attributes: floating point of shape \(N, 2\); got.*N, 3\)"),
    (attributes, {"y": torch.zeros(12, 2, dtype=torch.int64)}, "got torch.int64"),
    (attributes, {"y": torch.full((12, 2), float("nan"))}, "NaN or infinite numbers"),
    (
        completion,
        {"y": X, "mask": MASK.float()},
        "argument 'mask' takes which elements are observed.*got torch.float32",
    ),
    (completion, {"y": X, "mask": MASK[:, :4]}, r"argument 'mask'.*shape \(N, 6\); got shape \(N, 4\)"),
    (completion, {"y": X[:, :3], "mask": MASK}, r"argument 'y' takes the observed part.*got shape \(N, 3\)"),
]


@pytest.mark.parametrize(("make", "context", "message"), BAD)
def test_every_entrance_refuses_bad_context(make, context, message):
    model, guide = make()
    batch = {"x": X, **context}
    good = {"x": X, **{k: v for k, v in good_context(make).items()}}
    calls = [
        lambda: fit(model, guide, batch, epochs=1, device="cpu", progress=False),
        lambda: fit(model, guide, Data(Split(good), Split(batch)), epochs=1, device="cpu", progress=False),
        lambda: log_likelihood(model, guide, batch, num_particles=2),
        lambda: elbo(model, guide, batch, num_particles=2),
        lambda: sample(model, 12, batch=context),
        lambda: decode(model, {"z": torch.zeros(12, 2)}, batch=context),
        lambda: reconstruct(model, guide, batch),
        lambda: encode(model, guide, batch),
    ]
    before = [p.clone() for p in model.parameters()]
    for call in calls:
        with pytest.raises(InputError, match=message):
            call()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def good_context(make):
    return {
        labelled: {"y": torch.arange(12) % 3},
        attributes: {"y": torch.randn(12, 2)},
        completion: {"y": X * MASK, "mask": MASK},
    }[make]


@pytest.mark.parametrize("make", [labelled, attributes, completion])
def test_missing_context_is_named(make):
    model, guide = make()
    names = ", ".join(good_context(make))
    for call in (fit, log_likelihood, elbo):
        with pytest.raises(InputError, match=rf"the model needs {names}, which the data do not have \(they have: x\)"):
            call(model, guide, X)
    for call in (encode, reconstruct):
        with pytest.raises(InputError, match=f"the guide needs {names}"):
            call(model, guide, {"x": X})
    with pytest.raises(InputError, match=f"the model needs {names} to generate"):
        sample(model, 3)


def test_one_bad_label_among_many_is_found():
    y = torch.arange(2500) % 3
    y[2345] = 3
    with pytest.raises(InputError, match="got values from 0 to 3"):
        fit(*labelled(), {"x": X.repeat(209, 1)[:2500], "y": y}, epochs=1, device="cpu", progress=False)


def test_programs_that_declare_nothing_are_not_checked_and_functions_may_declare():
    def model(x=None, *, y):
        with pyro.plate("data", len(y), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            mean = (z + y.float()[:, None]).expand(*z.shape[:-1], 6)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    batch = {"x": X, "y": torch.full((12,), 77.0)}
    options = {"num_particles": 1}
    log_likelihood(model, guide, batch, **options)
    model.context = {"y": label_context(3)}
    with pytest.raises(InputError, match="argument 'y' takes class labels"):
        log_likelihood(model, guide, batch, **options)
    log_likelihood(model, guide, {**batch, "y": torch.full((12,), 2)}, **options)


def test_a_guide_without_context_is_refused():
    with pytest.raises(InputError, match="the model needs y, which this guide does not look at"):
        GaussianGuide(labelled()[0])


@pytest.mark.parametrize("make", [labelled, attributes, completion])
def test_double_precision_and_repeated_data(make):
    model, guide = make()
    batch = {"x": X, **good_context(make)}
    fit(model, guide, batch, epochs=2, batch_size=6, device="cpu", precision="64-true", progress=False)
    assert all(p.dtype == torch.float64 for p in model.parameters())
    double = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    together = log_likelihood(model, guide, double, num_particles=100_000)
    repeated = log_likelihood(model, guide, double, num_particles=100_000, vectorize=False)
    assert together.num_dimensions == repeated.num_dimensions == (3 if make is completion else 6)
    assert together.mean == pytest.approx(repeated.mean, abs=0.05)


def test_what_contexts_are():
    assert num_classes(label_context(7)) == 7 and num_attributes(label_context(7)) is None
    assert num_attributes(attribute_context(4)) == 4 and num_classes(attribute_context(4)) is None
    image = Context("parts", (1, 4, 4))
    assert num_classes(image) is None and num_attributes(image) is None
    attribute_context(2).check("y", torch.zeros(3, 2, dtype=torch.float64))  # any floating type


@pytest.mark.parametrize("make", [labelled, completion])
def test_conditional_steps_are_recorded(make, caplog):
    """Training does not fall back on eager steps, and recorded training ends where eager training does."""
    ends = []
    for mode in ("graph", "off"):
        torch.manual_seed(1)
        model, guide = make()
        with caplog.at_level(logging.INFO, logger="pyro_vae"):
            fit(
                model,
                guide,
                {"x": X, **good_context(make)},
                epochs=3,
                batch_size=6,
                device="cpu",
                compile=mode,
                progress=False,
            )
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert "eagerly" not in caplog.text and "training step recorded" in caplog.text
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ context that is needed to generate only
def optional_label(x=None, *, y=None, z=None, num_samples=1):
    """A label that the model declares and can do without in its signature; z is not declared."""
    with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
        w = pyro.sample("w", dist.Normal(torch.zeros(6), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(w + y[:, None], 1.0).to_event(1), obs=x)


optional_label.context = {"y": label_context(3), "unheard_of": label_context(2)}


def of_optional_label(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("w", dist.Normal(x, 1.0).to_event(1))


class Changing(torch.nn.Module):
    """A model whose declared context is that of its present part."""

    def __init__(self):
        super().__init__()
        self.labelled = False

    @property
    def context(self):
        return {"y": label_context(3)} if self.labelled else {}

    def forward(self, x=None, *, y=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            return pyro.sample("x", dist.Normal(0.0 if y is None else 10.0 * y, 1.0), obs=x)


def test_declared_context_that_may_be_none_is_needed_to_generate():
    assert required_arguments(optional_label) == []
    assert needed_to_generate(optional_label) == needed_to_generate(Program(optional_label)) == ["y"]
    assert needed_to_generate(labelled()[0]) == required_arguments(labelled()[0]) == ["y"]
    assert needed_to_generate(completion()[0]) == ["y", "mask"]
    model = Changing()
    assert needed_to_generate(model) == []
    assert abs(sample(model, 400)["x"].mean()) < 0.5
    model.labelled = True
    assert needed_to_generate(model) == needed_to_generate(Program(model)) == ["y"]
    with pytest.raises(InputError, match="the model needs y to generate: give it in batch"):
        sample(model, 4)
    assert sample(model, 4, batch={"y": torch.tensor([0, 1, 2, 2])})["x"].round(decimals=-1).tolist() == [0, 10, 20, 20]
    with pytest.raises(InputError, match="class labels from 0 to 2"):
        sample(model, 1, batch={"y": torch.tensor([3])})


def test_generation_from_data_gives_the_label_of_the_data():
    y = torch.arange(12) % 3
    x = torch.randn(12, 6) + y[:, None]
    batch = {"x": x, "y": y}
    w = decode(optional_label, {"w": torch.zeros(12, 6)}, batch=batch)
    assert torch.equal(w, y[:, None].expand(12, 6).float())
    with pytest.raises(InputError, match="the model needs y to generate"):
        decode(optional_label, {"w": torch.zeros(12, 6)})
    assert reconstruct(optional_label, of_optional_label, batch).shape == (12, 6)
    assert elbo(optional_label, of_optional_label, batch).per_datum.isfinite().all()
    assert aggregated_posterior(optional_label, of_optional_label, Split(batch), num_draws=50) is not None


def test_a_manifold_is_of_models_without_context():
    with pytest.raises(NotApplicable, match="the model needs y"):
        manifold(optional_label)
