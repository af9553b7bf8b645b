"""The examples in docstrings run, and give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import pyro_vae
from pyro_vae.data import registry as sources
from pyro_vae.evaluation import results
from pyro_vae.plots import registry as figures

VERBS = ("fit", "sample", "reconstruct", "encode", "decode", "log_likelihood", "elbo", "ais", "bidirectional", "refine")


def documented():
    for module in pkgutil.walk_packages(pyro_vae.__path__, "pyro_vae."):
        if not module.name.endswith("__main__"):
            for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module.name)):
                if test.examples:
                    yield test


@pytest.mark.parametrize("test", [*documented()], ids=lambda test: test.name)
def test_an_example(test, monkeypatch):
    said = []
    monkeypatch.setattr(figures, "_entries", dict(figures._entries))  # what examples register is forgotten
    monkeypatch.setattr(sources, "_sources", dict(sources._sources))
    monkeypatch.setattr(results, "_metrics", dict(results._metrics))
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_an_example(name):
    assert ">>> " in getattr(pyro_vae, name).__doc__
