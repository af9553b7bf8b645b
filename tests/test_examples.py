"""The examples in docstrings run, and give what they say; no public class is without one."""

import doctest
import importlib
import inspect
import pkgutil

import pyro
import pytest
import torch

import pyro_vae
from pyro_vae.data import registry as sources
from pyro_vae.evaluation import results
from pyro_vae.plots import registry as figures

NO_EXAMPLE = {  # public classes without an example of their own, and why
    "shown by Divergence, Matching": {"Draws", "NetworkTraining"},
    "results, in the examples of what returns them": {
        *(
            "Analogies",
            "AggregatedPosterior",
            "BestOfDraws",
            "AnnealedLikelihood",
            "BidirectionalBounds",
            "CodeStatistics",
            "CodeUsage",
            "DatumScores",
            "Discrepancy",
            "Disentanglement",
            "FeatureError",
            "EvidenceBound",
            "Exported",
            "LatentStatistics",
        ),
        *("LikelihoodGap", "LogLikelihood", "ParzenEstimate", "RefinedBound", "Result", "Scores", "SiteStatistics"),
        *("FitResult", "Quantized", "SceneScore", "Shown", "Terms"),
        *("MutualInformation", "RolloutAccuracy", "SeedComparison", "Smoothness", "TokenAccuracy"),
    },
    "errors": {"NotApplicable", "NotRecordable"},
    "made from data or a training, in docs": {
        *("Classes", "Extra", "RawData"),
        "ContrastiveScorer",
        "Data",
        "Pictures",
        "Run",
        "Scenes",
        "Sound",
        "Split",
        "Tokenizer",
        "Tokens",
    },
}
RESULTS_OF_TYPING = {
    "Compile",
    "Format",
    "Mode",
    "NetworkKind",
    "Outputs",
    "Scorer",
}  # names of types: nothing to document


def modules():
    for module in pkgutil.walk_packages(pyro_vae.__path__, "pyro_vae."):
        if not module.name.endswith("__main__"):
            yield importlib.import_module(module.name)


def documented():
    for module in modules():
        for test in doctest.DocTestFinder(exclude_empty=True).find(module):
            if test.examples:
                yield test


def public():
    """Classes and functions that a face gives, by ``room.name``."""
    for face in (pyro_vae, *(module for module in modules() if hasattr(module, "__path__"))):
        for name in getattr(face, "__all__", ()):
            value = getattr(face, name)
            if (inspect.isclass(value) or inspect.isfunction(value)) and name not in RESULTS_OF_TYPING:
                yield f"{face.__name__.removeprefix('pyro_vae').lstrip('.') or 'pyro_vae'}.{name}", value


PUBLIC = dict(public())


@pytest.mark.parametrize("test", [*documented()], ids=lambda test: test.name)
def test_an_example(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where files of a run go
    monkeypatch.setattr(figures, "_entries", dict(figures._entries))  # what examples register is forgotten
    monkeypatch.setattr(sources, "_sources", dict(sources._sources))
    monkeypatch.setattr(results, "_metrics", results.metrics())
    said = []
    with torch.random.fork_rng(devices=[]):
        doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert not said, "".join(said)
    assert not pyro.get_param_store() and torch.get_default_dtype() == torch.float32


def without_example(public):
    return {name for name, value in public.items() if ">>> " not in (value.__doc__ or "")}


def test_every_public_class_and_verb_has_an_example():
    excused = set().union(*NO_EXAMPLE.values())
    missing = without_example(PUBLIC)
    assert not {n for n in missing if inspect.isclass(PUBLIC[n]) and n.split(".")[-1] not in excused}
    assert not {n for n in missing if n.startswith("pyro_vae.") and n.split(".")[-1] not in {*excused, "load_data"}}
    assert excused == {n.split(".")[-1] for n in missing if inspect.isclass(PUBLIC[n])}  # no excuse for what has one


def test_what_has_no_example_is_found():
    class Bare:
        """A class."""

    assert without_example({"Bare": Bare, "fit": pyro_vae.fit}) == {"Bare"}
    assert {"models.VAE", "plots.kl_per_unit", "pyro_vae.fit", "pyro_vae.ELBO"} <= PUBLIC.keys()
