"""The examples in docstrings run, and give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import pyro_vae

VERBS = ("fit", "sample", "reconstruct", "encode", "decode", "log_likelihood", "elbo", "ais", "bidirectional", "refine")


def documented():
    for module in pkgutil.walk_packages(pyro_vae.__path__, "pyro_vae."):
        if not module.name.endswith("__main__"):
            for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module.name)):
                if test.examples:
                    yield test


@pytest.mark.parametrize("test", [*documented()], ids=lambda test: test.name)
def test_an_example(test):
    said = []
    registries = pyro_vae.plots.registry._entries, pyro_vae.evaluation.results._metrics
    before = [dict(registry) for registry in registries]
    try:
        doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    finally:
        for registry, known in zip(registries, before, strict=True):
            registry.clear()
            registry.update(known)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_an_example(name):
    assert ">>> " in getattr(pyro_vae, name).__doc__
