"""Every result is one thing to who shows it: rows, numbers of each datum, warnings, plain values."""

import json
import math

import code_pairs
import pyro
import pyro.distributions as dist
import pytest
import token_pairs
import torch
from linear_gaussian import PPCA

from pyro_vae import evaluation
from pyro_vae.evaluation import Scores
from pyro_vae.evaluation.results import Result
from pyro_vae.guides import GaussianGuide
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE, FieldRegressor
from pyro_vae.runs.measurements import plain

PARTS = {"Analogies", "CodeUsage", "Discrepancy", "SiteStatistics"}  # of a result, one site each
SUMMARIES = {  # without numbers of each datum
    *(
        "AggregatedPosterior",
        "CodeStatistics",
        "Disentanglement",
        "LatentStatistics",
        "MutualInformation",
        "SeedComparison",
        "Smoothness",
    ),
}
FAST = {"num_chains": 2, "num_temperatures": 3, "num_leapfrog": 1}
N = 4


def following(x=None, *, frames, actions):
    """Three frames that are like the last one given."""
    with pyro.plate("data", len(actions)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        mean = frames[:, -1:] + z[..., None, None, None] * actions[..., None, None, None]  # (n, 3, 1, 2, 2)
        return pyro.sample("x", dist.Normal(mean, 0.1).to_event(4), obs=x)


def image_pair():
    model = VAE((1, 4, 4), latent_dim=2, likelihood=Gaussian(), hidden_dims=())
    return model, GaussianGuide(model, hidden_dims=())


def fields(n):
    return {"x": torch.rand(n, 2, 4, 4), "image": torch.rand(n, 1, 4, 4)}


def results():
    """One of every class, by the class's name."""
    ppca, codes = PPCA(data_dim=3, latent_dim=2, noise=0.7, dtype=torch.float32), code_pairs.OneLevel()
    pair, x = (ppca.model, ppca.rough_guide(1.5, 0.5)), ppca.sample(N)
    options = {"annealing_options": FAST, "refine_options": {"num_steps": 2, "num_particles": 5}}
    found = [
        evaluation.log_likelihood(*pair, x, num_particles=30),
        evaluation.score(*pair, x, num_particles=30),
        evaluation.elbo(*pair, x),
        evaluation.latent_statistics(*pair, x),
        evaluation.code_statistics(codes.model, codes.guide, code_pairs.images(N)),
        evaluation.ais(*pair, x, **FAST),
        evaluation.bidirectional(*pair, N, **FAST),
        evaluation.refine(*pair, x, num_steps=2, num_particles=5),
        evaluation.likelihood_gap(*pair, x, particles=[1, 3], **options),
        evaluation.feature_error(*image_pair(), torch.rand(N, 1, 4, 4), torch.nn.Conv2d(1, 2, 3)),
        evaluation.parzen(ppca.model, x, num_samples=20, bandwidths=0.5),
        evaluation.aggregated_posterior(*pair, x),
        evaluation.disentanglement_of(
            {name: torch.arange(40.0) + i for i, name in enumerate("ab")},
            {"f": torch.arange(40) % 2, "g": torch.arange(40) // 20},
        ),
        evaluation.mutual_information(*pair, x),
        evaluation.token_accuracy(token_pairs.model, token_pairs.guide, token_pairs.letters(N).train),
        evaluation.interpolation_smoothness(token_pairs.model, token_pairs.guide, token_pairs.letters(), pairs=2),
        evaluation.best_of_draws(FieldRegressor((2, 4, 4), (1, 4, 4), channels=(2,), context_dim=2), fields(N), 2),
        evaluation.rollout_accuracy(following, {"frames": torch.rand(N, 2, 1, 2, 2)}, torch.rand(2, N, 3, 1, 2, 2)),
        Scores(torch.arange(4.0), "how many"),
        evaluation.compare_seeds(torch.randn(3, N), torch.randn(3, N), paired=True),
    ]
    return {type(each).__name__: each for each in found}


RESULTS = results()


def test_every_class_of_a_result_is_one():
    faces = {n for n in evaluation.__all__ if isinstance(value := getattr(evaluation, n), type) and value is not Result}
    assert faces - PARTS - {"NGrams"} == set(RESULTS)  # a model that is fitted, no result


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_shown_and_written_without_knowing_what_it_is(name):
    result = RESULTS[name]
    assert isinstance(result, Result) and result.rows and result.to_dict()
    assert all(isinstance(word, str) and word for row in result.rows.items() for word in row)
    assert all(value.shape == (N,) for value in result.arrays().values())
    assert bool(result.arrays()) == (name not in SUMMARIES)
    assert isinstance(result.warnings, list) and all(isinstance(sentence, str) for sentence in result.warnings)
    assert json.loads(json.dumps(plain(result.to_dict()), allow_nan=False))
    lines = str(result).splitlines()
    assert len(lines) == len(result.rows) + len(result.warnings) and "tensor" not in str(result)
    assert all(label in line and text in line for (label, text), line in zip(result.rows.items(), lines, strict=False))
    page = result._repr_html_()
    assert page.count("<tr>") == len(result.rows) and page.count("<p>") == len(result.warnings)


def test_rows_have_units():
    rows = RESULTS["LogLikelihood"].rows
    assert list(rows) == [
        *("log-likelihood (K = 30)", "bits per dimension", "effective sample size", "Pareto k-hat"),
    ]
    result = RESULTS["LogLikelihood"]
    assert rows["log-likelihood (K = 30)"] == f"{result.mean:.2f} +- {result.standard_error:.2f} nats"
    gap = RESULTS["LikelihoodGap"]
    assert gap.rows["amortization gap of the ELBO"] == f"{gap.elbo.gain[0]:.3f} +- {gap.elbo.gain[1]:.3f} nats"
    assert gap.rows["K = 3"].startswith(f"{gap.importance[3].mean:.3f} nats, lacks ")


def test_what_the_parts_of_a_gap_are_stands_in_it():
    gap, refined = RESULTS["LikelihoodGap"], RESULTS["LikelihoodGap"].elbo
    assert set(gap.annealed.rows) < set(gap.rows) and set(refined.warnings) <= set(gap.warnings)
    assert refined.rows["ELBO"] == f"{refined.amortized.mean():.3f} +- {refined.amortized.std() / 2:.3f} nats"


def test_a_label_is_no_markup():
    page = Scores(torch.zeros(2), "<b>", unit="<i>")._repr_html_()
    assert "<b>" not in page and "<i>" not in page and "&lt;b&gt;" in page


def test_scores_say_which_data_have_none():
    scores = Scores(torch.tensor([1.0, math.nan, 3.0]), "distance", unit="pixels")
    assert scores.warnings == [
        "the distance of 1 of 3 data is not finite (datum 1: nan), and so is the mean over all 3 (the mean over the "
        "other 2: 2.00 pixels)"
    ]
    assert Scores(torch.tensor([1.0, 3.0]), "distance", unit="pixels").rows == {"distance": "2.0 +- 1.0 pixels"}
    assert Scores(torch.tensor([120.0, 160.0]), "distance", unit="").rows == {"distance": "140 +- 20"}
