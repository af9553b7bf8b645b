"""Two ways of training compared over seeds: errors against known variances, and how often a true null is rejected."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from pyro_vae.errors import InputError
from pyro_vae.evaluation import compare_seeds
from pyro_vae.evaluation.student import holm, t_p_value, t_quantile


def crossed(generator, trainings, n, seeds, data, rest, shared=None):
    """Log-likelihoods (trainings, n) of crossed random effects; ``shared``: those of the data, and of the seeds."""
    draw = generator.standard_normal
    of_data, of_seeds = shared or (draw(n) * data, 0.0)
    return torch.as_tensor(of_data + draw((trainings, 1)) * seeds + draw((trainings, n)) * rest + of_seeds)


@pytest.mark.parametrize("freedom", [1, 2, 3.7, 4, 29, 1234.5, 1e6])
def test_student_is_scipys(freedom):
    for t in (0.0, 1e-9, 0.3, -1.0, 2.5, 9.0, 60.0):
        assert t_p_value(t, freedom) == pytest.approx(2 * scipy.stats.t.sf(abs(t), freedom), rel=1e-8, abs=1e-300)
    for level in (0.5, 0.95, 0.999):
        assert t_quantile(level, freedom) == pytest.approx(scipy.stats.t.ppf((1 + level) / 2, freedom), rel=1e-8)


def test_holms_adjustment_is_not_below_any_that_is_smaller():
    assert holm([0.03, 0.001, 0.02, math.nan]) == pytest.approx([0.04, 0.003, 0.04, math.nan], nan_ok=True)


def test_the_tests_over_seeds_are_scipys():
    chance = np.random.default_rng(0)
    a, b = crossed(chance, 4, 30, 1, 2, 1), crossed(chance, 6, 30, 2, 2, 1)
    found = compare_seeds(a, b)
    welch = scipy.stats.ttest_ind(a.mean(1), b.mean(1), equal_var=False)
    assert found.seeds.p_value == pytest.approx(welch.pvalue) and found.seeds.freedom == pytest.approx(welch.df)
    interval = welch.confidence_interval(0.95)
    assert found.seeds.interval == pytest.approx((interval.low, interval.high))
    over_data = scipy.stats.ttest_rel(a.mean(0), b.mean(0))
    assert found.data.p_value == pytest.approx(over_data.pvalue) and found.mean == pytest.approx(
        (a.mean() - b.mean()).item()
    )
    by_seed = compare_seeds(a, b[:4], paired=True)
    assert by_seed.seeds.p_value == pytest.approx(scipy.stats.ttest_rel(a.mean(1), b[:4].mean(1)).pvalue)


@pytest.mark.parametrize("paired", [False, True])
def test_the_error_over_both_is_the_true_one(paired):
    """Its mean square is the variance of the difference over many experiments, also where seeds and data are shared."""
    means, variances = [], []
    trainings, n, seeds, data, rest = 5, 40, 0.3, 2.0, 1.5
    for pair in experiments(1000, trainings, n, seeds, data, rest, paired):
        found = compare_seeds(*pair, paired=paired)
        means.append(found.mean)
        variances.append(found.both.standard_error**2)
    true = 2 * (seeds**2 / trainings + data**2 / n + rest**2 / (trainings * n))
    assert np.var(means) == pytest.approx(true, rel=0.15) and np.mean(variances) == pytest.approx(true, rel=0.05)


def experiments(repeats, trainings, n, seeds, data, rest, paired, same_data=False):
    """Two ways of training that are equally good; data are hard for both, and, paired, seeds are good for both."""
    chance = np.random.default_rng(7)
    held = [of - of.mean() for of in chance.standard_normal((2, n)) * data]
    for _ in range(repeats):
        common, both = chance.standard_normal(n) * 3, chance.standard_normal((trainings, 1)) * paired
        of_data = held if same_data else chance.standard_normal((2, n)) * data
        yield [crossed(chance, trainings, n, seeds, 0, rest, (common + of_data[k], both)) for k in range(2)]


def rejected(question, repeats, trainings, seeds, data, paired, n=50):
    """How often no difference is rejected at 5 % where there is none, by the error of a question."""
    pairs = experiments(repeats, trainings, n, seeds, data, 1.0, paired, same_data=question != "both")
    return np.mean([getattr(compare_seeds(*pair, paired=paired), question).p_value < 0.05 for pair in pairs])


@pytest.mark.parametrize("trainings", [3, 10])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("question", ["seeds", "both"])
def test_a_true_null_is_rejected_as_often_as_is_said(question, trainings, paired):
    assert 0.02 <= rejected(question, 400, trainings, 0.4, 2.0, paired) <= 0.06 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_the_error_over_data_alone_calls_recipes_better_that_are_not():
    assert rejected("data", 100, 3, 1.0, 0.3, False) > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("trainings", [3, 10])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("seeds, data", [(0.1, 2.0), (0.4, 2.0), (1.0, 0.3)])
@pytest.mark.parametrize("question", ["seeds", "both"])
def test_sizes_over_ratios_of_variances(question, seeds, data, paired, trainings):
    size = rejected(question, 1500, trainings, seeds, data, paired)
    print(f"{question} {'paired' if paired else 'welch'} S={trainings} seeds {seeds} data {data}: {size:.4f}")
    assert 0.02 <= size <= 0.06 + 3 * math.sqrt(0.05 * 0.95 / 1500)


def test_one_training_of_a_kind_says_that_seeds_are_not_known():
    found = compare_seeds(torch.randn(1, 20), torch.randn(1, 20))
    assert math.isnan(found.seeds.standard_error) and math.isnan(found.both.p_value) and found.data.p_value >= 0
    assert "how much another seed would differ is not known" in found.warnings[0]
    assert found.rows["new trainings, these data"] == "not known: one training is not enough"
    assert math.isnan(compare_seeds(torch.randn(1, 20), torch.randn(3, 20)).seeds.standard_error)


def test_equal_trainings_have_no_difference_and_a_sure_one_is_sure():
    same = torch.randn(3, 20)
    assert compare_seeds(same, same, paired=True).both.p_value == 1.0
    assert compare_seeds(same + 1.0, same, paired=True).seeds.p_value < 1e-12


@pytest.mark.parametrize(
    "ours, theirs, paired, words",
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), False, "of the same data twice"),
        (torch.zeros(3), torch.zeros(3), False, "needs"),
        (torch.zeros(2, 3), torch.zeros(3, 3), True, "equally many"),
        (torch.full((2, 3), -math.inf), torch.zeros(2, 3), False, "infinite or NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(ours, theirs, paired, words):
    with pytest.raises(InputError, match=words):
        compare_seeds(ours, theirs, paired=paired)
