"""No test of this folder reads the user's own data or the network."""

import pytest


@pytest.fixture(autouse=True)
def empty_home(tmp_path_factory, monkeypatch):
    """A home without a cache, no $PYRO_VAE_DATA, no system folder."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("PYRO_VAE_DATA", raising=False)
    monkeypatch.setattr("pyro_vae.data.sources.idx.SYSTEM", home / "system")
    return home
