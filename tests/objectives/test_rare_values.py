"""Errors weighed by how rare a pixel's value is: against numpy's histogram, off by default, no part of the density."""

import json

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.guides import FieldGuide
from pyro_vae.models import FieldVAE
from pyro_vae.objectives import ELBO, RareValues
from pyro_vae.objectives.rare_values import _Weights
from pyro_vae.programs.pair import examine
from pyro_vae.programs.program import as_programs

SIZES = {"channels": (4,), "context_dim": 4}


def pair():
    torch.manual_seed(0)
    model = FieldVAE((2, 6, 5), (1, 6, 5), 3, **SIZES)
    return model, FieldGuide(model, **SIZES)


def data(n=30):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(n, 1, 6, 5, generator=generator)
    return {"x": torch.randn(n, 2, 6, 5, generator=generator), "image": image}


def weights_of(x, bins, uniform):
    flat = x.movedim(1, -1).reshape(-1, 2).double().numpy()
    edges = [np.linspace(flat[:, i].min(), flat[:, i].max(), bins + 1) for i in range(2)]
    share, *_ = np.histogram2d(*flat.T, bins=edges)
    weights = 1 / ((1 - uniform) * share / len(flat) + uniform / bins**2)
    place = [np.clip(np.digitize(flat[:, i], edges[i]) - 1, 0, bins - 1) for i in range(2)]
    found = weights[place[0], place[1]]
    return found / found.mean()


@pytest.mark.parametrize("bins, uniform", [(5, 0.5), (7, 0.1), (5, 1.0)])
def test_weights_are_those_of_numpys_histogram(bins, uniform):
    x = data()["x"]
    ours = _Weights(x, bins, uniform)(x)  # (n, H, W)
    assert float(ours.mean()) == pytest.approx(1, abs=1e-5)
    assert (np.abs(ours.flatten().numpy() - weights_of(x, bins, uniform)) > 1e-4).mean() < 0.005  # at edges of bins


def test_the_loss_is_the_elbos_and_the_penalty():
    programs, batch = as_programs(*pair()), data()
    examined = examine(*programs, batch, num_data=len(batch["x"]))
    objective = RareValues(weight=0.3, num_bins=5).prepare(examined, Split(batch))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        traces = examined.traces(batch)
    terms, plain = objective.pair_terms(traces), ELBO().pair_terms(traces)
    site = traces.model.nodes["x"]
    square = (site["value"] - site["fn"].mean).square().sum(-3).flatten().double().detach()
    expected = 0.3 * float((torch.from_numpy(weights_of(batch["x"], 5, 0.5)) * square).sum()) / len(batch["x"])
    assert float((terms.loss - plain.loss).detach()) == pytest.approx(expected, rel=1e-3)
    assert float(terms.penalty["rare values"]) == pytest.approx(expected, rel=1e-3)


def test_it_trains_resumes_and_changes_no_density(tmp_path):
    batch = data()
    how = {"batch_size": 10, "device": "cpu", "progress": False, "learning_rate": 0.01}
    whole = pyro_vae.fit(*pair(), batch, objective=RareValues(num_bins=4), epochs=4, **how)
    pyro_vae.fit(*pair(), batch, objective=RareValues(num_bins=4), epochs=2, out=tmp_path / "run", **how)
    again = pyro_vae.fit(
        *pair(), batch, objective=RareValues(num_bins=4), epochs=4, out=tmp_path / "run", resume=True, **how
    )
    assert again.records[-1]["train/loss"] == pytest.approx(whole.records[-1]["train/loss"], rel=1e-6)
    eager = pyro_vae.fit(*pair(), batch, objective=RareValues(num_bins=4), epochs=4, compile="off", **how)
    assert eager.records[-1]["train/loss"] == pytest.approx(whole.records[-1]["train/loss"], rel=1e-4)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all("train/penalty/rare values" in record for record in records)
    bound = pyro_vae.evaluation.elbo(whole.model, whole.guide, batch, seed=0)
    assert "penalty" not in "".join(bound.rows)


def test_bad_arguments():
    for arguments, said in (({"weight": -1.0}, "weight"), ({"uniform": 0.0}, "uniform"), ({"num_bins": 0}, "num_bins")):
        with pytest.raises(InputError, match=said):
            RareValues(**arguments)
    with pytest.raises(InputError, match="65,536 in all"):
        pyro_vae.fit(*pair(), data(), objective=RareValues(num_bins=300), epochs=1, device="cpu", progress=False)
