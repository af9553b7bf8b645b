"""Scores of disentanglement, against codes whose scores are known by hand, sums over tables, and scikit-learn."""

import importlib
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.metrics import mutual_info_score

import pyro_vae
from pyro_vae.data import Data, Split
from pyro_vae.errors import InputError, NotApplicable
from pyro_vae.evaluation import disentanglement, disentanglement_of
from pyro_vae.evaluation.factor_scores import NUM_BINS, disentangled_and_complete, mutual_information
from pyro_vae.runs.measurements import measure

SIZES = {"shape": 3, "size": 4, "x": 6}


def draws(n=3000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(size, (n,), generator=generator) for name, size in SIZES.items()}


def noise(count, n=3000, seed=1):
    return torch.randn(n, count, generator=torch.Generator().manual_seed(seed))


def named(code):
    return {f"z[{i}]": unit for i, unit in enumerate(code.T)}


# ------------------------------------------------------------------ mutual information
def test_information_of_a_joint_table_is_its_sum():
    counts = torch.tensor([[10, 0, 5], [2, 20, 3]])  # of two values of a unit and three classes
    unit = torch.tensor([-1.0, 7.0]).repeat_interleave(counts.sum(1))
    classes = torch.cat([torch.arange(3).repeat_interleave(row) for row in counts])
    p = counts.double() / counts.sum()
    expected = sum(
        p[b, k] * math.log(p[b, k] / (p[b].sum() * p[:, k].sum())) for b in range(2) for k in range(3) if p[b, k] > 0
    )
    information, entropy = mutual_information(unit[:, None], classes[:, None])
    torch.testing.assert_close(information, expected.reshape(1, 1), atol=1e-12, rtol=0)
    torch.testing.assert_close(entropy, dist.Categorical(p.sum(0)).entropy().reshape(1), atol=1e-6, rtol=0)


def test_information_is_that_of_scikit_learn_in_twenty_equal_bins():
    factors, code = draws(500), noise(3, 500)
    code[:, 1] += factors["x"]
    information, _ = mutual_information(code, torch.stack(list(factors.values()), 1))
    for u in range(3):
        edges = torch.linspace(code[:, u].min().item(), code[:, u].max().item(), NUM_BINS + 1, dtype=torch.float64)
        bins = torch.bucketize(code[:, u].double(), edges[1:-1], right=True)
        for f, values in enumerate(factors.values()):
            assert abs(information[u, f] - mutual_info_score(values.numpy(), bins.numpy())) < 1e-9


def test_a_unit_that_is_constant_knows_nothing():
    information, _ = mutual_information(torch.ones(30, 1), (torch.arange(30) % 3)[:, None])
    assert information.item() == 0


# ------------------------------------------------------------------ codes with scores by hand
def test_a_perfect_code():
    factors = draws()
    code = torch.stack([2.0 - factors["x"], factors["shape"].float().exp(), factors["size"].float()], 1)
    found = disentanglement_of(named(torch.cat([code, 0 * noise(1)], 1)), factors)
    assert found.mig == pytest.approx(1, abs=0.01)  # what the other units have by chance is not 0
    assert found.disentanglement == pytest.approx(1) and found.completeness == pytest.approx(1)
    assert found.informativeness == 1
    chance = (
        sum(1 / size for size in SIZES.values()) / 3
    )  # of the best of the units that know nothing, or a little more
    assert 1 - chance - 0.04 < found.sap <= 1 - chance
    assert found.information.argmax(0).tolist() == [1, 2, 0] and found.warnings == []
    torch.testing.assert_close(found.information.amax(0), found.entropy)
    assert found.rows["factor x"] == f"most in z[0], gap {found.gap[2]:.3f}, accuracy 1.000"


@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 1e3), (1e-30, 0.0), (1e200, 0.0)])
def test_units_of_any_scale_and_place_are_told_apart(scale, shift):
    """Trees look at numbers in single precision, where small differences of large numbers are none."""
    v = torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(60))
    noise = torch.rand(len(v), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factors = {"a": v[:, 0], "b": v[:, 1]}
    near = disentanglement_of({"p": v[:, 0] + noise[:, 0], "q": v[:, 1] + noise[:, 1]}, factors)
    units = {name: u * scale + shift for name, u in (("p", v[:, 0] + noise[:, 0]), ("q", v[:, 1] + noise[:, 1]))}
    far = disentanglement_of(units, factors)
    assert far.sap > 0.5 and far.disentanglement > 0.9
    torch.testing.assert_close(far.importance, near.importance, atol=0.02, rtol=0)
    torch.testing.assert_close(far.accuracy, near.accuracy, atol=0.02, rtol=0)
    torch.testing.assert_close(far.one_unit, near.one_unit, atol=0.05, rtol=0)


def test_a_code_of_two_copies_has_no_gap_and_is_not_complete():
    factors = draws()
    code = torch.stack(list(factors.values()), 1).float()
    found = disentanglement_of(named(torch.cat([code, -code], 1)), factors)
    assert found.mig == pytest.approx(0, abs=1e-12) and found.sap == pytest.approx(0, abs=1e-12)
    assert found.disentanglement == pytest.approx(1)
    assert found.completeness == pytest.approx(1 - math.log(2) / math.log(6), abs=0.05)  # two of six, half each


def test_a_code_that_is_turned_is_entangled():
    factors = draws()
    one = torch.stack([(v - v.float().mean()) / v.float().std() for v in factors.values()], 1)
    one = torch.cat([one, noise(1)], 1)
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    turned = torch.kron(two, two) / 2  # a rotation (and reflection) that puts as much of each into every unit
    straight, mixed = (disentanglement_of(named(code), factors) for code in (one, one @ turned))
    assert straight.mig > 0.98 and mixed.mig < 0.03
    assert mixed.disentanglement < 0.1 < 0.99 < straight.disentanglement
    assert mixed.completeness < 0.1 < 0.99 < straight.completeness
    assert mixed.sap < 0.05 and mixed.informativeness > 0.7  # it is all still there


def test_a_code_of_noise_knows_nothing():
    factors = draws(1500)
    found = disentanglement_of(named(noise(3, 1500)), factors)
    assert found.mig < 0.02 and found.sap < 0.05
    assert abs(found.informativeness - sum(1 / size for size in SIZES.values()) / 3) < 0.05
    assert ((found.information / found.entropy).mean(0) < 2 * found.bias).all()
    assert (found.bias < 2 * (found.information / found.entropy).mean(0)).all()  # the bias is what is measured


def test_dci_of_an_importance_matrix_by_hand():
    importance = torch.tensor([[0.5, 0.0], [0.5, 0.25], [0.0, 0.75]], dtype=torch.float64)

    def left(*p):  # 1 - entropy, to the base of how many there are
        return 1 + sum(q * math.log(q, len(p)) for q in p if q)

    disentangled, complete = disentangled_and_complete(importance)
    expected = (0.5 * left(1, 0) + 0.75 * left(2 / 3, 1 / 3) + 0.75 * left(0, 1)) / 2
    assert disentangled == pytest.approx(expected)
    assert complete == pytest.approx((left(0.5, 0.5, 0) + left(0, 0.25, 0.75)) / 2)
    assert disentangled_and_complete(torch.zeros(3, 2, dtype=torch.float64)) == pytest.approx((0, 0))


def test_a_class_between_others_is_found_from_one_unit():
    v = torch.arange(3000) % 3
    found = disentanglement_of(named(torch.stack([v.float(), 1 + 0 * v], 1)), {"a": v, "b": torch.arange(3000) % 2})
    assert found.one_unit[0, 0] == 1 and found.one_unit[1, 0] == pytest.approx(1 / 3)


def test_seeds_repeat_and_leave_the_random_states():
    factors, code = draws(150), named(noise(2, 150))
    state = torch.random.get_rng_state()
    first, again, other = (disentanglement_of(code, factors, seed=seed) for seed in (2**63, 2**63, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.importance, again.importance) and not torch.equal(first.importance, other.importance)


def test_too_few_data_are_warned_of():
    found = disentanglement_of(named(noise(2, 90)), draws(90))
    assert found.warnings and "of 90 data is too high by more than 10% of the entropy of shape (" in found.warnings[0]


@pytest.mark.parametrize(
    ("units", "factors", "error", "message"),
    [
        ({"z": torch.rand(9)}, {"a": torch.arange(9) % 2, "b": torch.arange(9) % 3}, NotApplicable, "1 latent unit"),
        (named(torch.rand(9, 2)), {"a": torch.arange(9) % 2}, NotApplicable, "there is 1 factor"),
        (
            named(torch.rand(9, 2)),
            {"a": torch.arange(9) % 2, "b": torch.zeros(9).long()},
            InputError,
            "'b' has fewer than two classes in the 9 data",
        ),
        (
            named(torch.full((9, 2), torch.nan)),
            {"a": torch.arange(9) % 2, "b": torch.arange(9) % 3},
            InputError,
            "not a finite number",
        ),
        *(
            (units, {"a": torch.arange(9) % 2, "b": b}, InputError, message)
            for units, b, message in (
                (named(torch.rand(8, 2)), torch.arange(9) % 3, r"'a' has shape \(9,\), and the first unit 8 data"),
                (named(torch.rand(9, 2)), torch.arange(8) % 3, r"'b' has shape \(8,\)"),
                ({"z": torch.rand(9), "u": torch.rand(9, 1)}, torch.arange(9) % 3, r"'u' has shape \(9, 1\)"),
                (named(torch.rand(9, 2)), torch.rand(9), "factor 'b' is torch.float32: factors are classes"),
            )
        ),
    ],
)
def test_what_has_no_scores(units, factors, error, message):
    with pytest.raises(error, match=message):
        disentanglement_of(units, factors)


# ------------------------------------------------------------------ of pairs
def model(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
        a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        b = pyro.sample("b", dist.Normal(a[..., 0], 1.0))
        return pyro.sample("x", dist.Normal(torch.stack([*a.unbind(-1), b], -1), 1.0).to_event(1), obs=x)


def guide(x):
    """The means are the three numbers of x, with much noise."""
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("a", dist.Normal(x[..., :2], 5.0).to_event(1))
        pyro.sample("b", dist.Normal(x[..., 2], 5.0))


def toy(n=600, prefix="factor."):
    factors = draws(n)
    return {"x": torch.stack(list(factors.values()), 1).float(), **{f"{prefix}{k}": v for k, v in factors.items()}}


def test_a_pair_is_measured_by_its_posterior_means():
    split = Split(toy(), name="toy")
    found = disentanglement(model, guide, split)
    assert found.units == ("a[0]", "a[1]", "b") and found.factors == ("shape", "size", "x")
    assert found.mig > 0.9 and found.num_data == 600 and found.disentanglement > 0.99
    fewer = disentanglement(model, guide, split, sites=["a"], num_data=200, seed=3)
    assert fewer.units == ("a[0]", "a[1]") and fewer.num_data == 200 and fewer.gap[2] < 0.1
    data = Data(split, test=Split(toy(300), name="toy test"))
    assert disentanglement(model, guide, data).num_data == 300


def test_factors_may_be_any_entries_of_classes_or_matrices():
    tensors = toy(300, prefix="f_")
    tensors = {
        "x": tensors["x"],
        "kind": tensors["f_shape"],
        "tags": torch.stack([tensors["f_size"] > 1, tensors["f_shape"] > 1], 1),
    }
    found = disentanglement(model, guide, tensors, factors=["kind", "tags"])
    assert found.factors == ("kind", "tags[0]", "tags[1]")
    assert found.information.argmax(0).tolist() == [0, 1, 0]


def test_a_discrete_latent_alone_has_no_code():
    def classes(x=None, num_samples=1):
        with pyro.plate("data", num_samples if x is None else len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.ones(3)))
            return pyro.sample("x", dist.Normal(c[..., None].float().expand(*c.shape, 3), 1.0).to_event(1), obs=x)

    def of_x(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("c", dist.Categorical(torch.ones(3)))

    with pytest.raises(NotApplicable, match="no latent site has real values"):
        disentanglement(classes, of_x, Split(toy(50)))


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda d: {"x": d["x"]}, {}, "have no known factors, entries 'factor.NAME'"),
        (lambda d: d, {"factors": ["size"]}, "unknown entry of the data in factors"),
        (lambda d: d, {"factors": ["x"]}, "unknown entry of the data in factors"),
        (lambda d: d, {"factors": "factor.x"}, r"did you mean \['factor.x'\]"),
        (lambda d: d, {"sites": ["z"]}, "unknown real-valued latent site 'z'"),
        (lambda d: d, {"num_data": 0}, "num_data must be"),
        (lambda d: d, {"num_data": 1}, "fewer than two classes in the 1 data"),
        (lambda d: d | {"factor.x": d["factor.x"].float()}, {}, "'factor.x' is torch.float32 .* put a continuous one"),
        (lambda d: d | {"factor.x": d["factor.x"] - 1}, {}, "'factor.x' is below 0, not known"),
    ],
)
def test_what_cannot_be_measured_is_said(change, arguments, message):
    with pytest.raises(InputError, match=message):
        disentanglement(model, guide, Split(change(toy(60))), **arguments)


def test_without_scikit_learn(monkeypatch):
    found = importlib.import_module

    def missing(name, *rest):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'pyro-vae\[metrics\]'"):
        disentanglement(model, guide, Split(toy(60)))


def test_evaluate_measures_it_where_the_data_have_factors():
    vae = pyro_vae.models.VAE((1, 8, 8), latent_dim=3, hidden_dims=(8,))
    encoder = pyro_vae.guides.GaussianGuide(vae, hidden_dims=(8,))
    data = pyro_vae.load_data("shapes", limit=300, image_size=8, binarization="threshold")
    measured = measure(vae, encoder, data, particles=2, device="cpu")
    summary = measured.result["metrics"]["disentangled"]["summary"]
    assert summary["factors"] == ["shape", "size", "orientation", "x", "y"] and summary["num_data"] == 300
    assert measured.rows["MIG"] == f"{summary['mig']:.3f}" and any(
        "of 300 data is too high" in w for w in measured.result["warnings"]
    )
    again = disentanglement(vae, encoder, data)
    assert again.to_dict() == summary
    plain = measure(
        vae, encoder, Data(Split({"x": data.test.tensors["x"]}, name="plain")), "train", particles=2, device="cpu"
    )
    assert "disentangled" not in plain.result["metrics"]
