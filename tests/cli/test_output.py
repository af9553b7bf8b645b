"""Arrays written by commands."""

import numpy as np
import pytest

from pyro_vae.cli.output import savez


@pytest.mark.parametrize("name", ["file", "args", "x", "a/b", "x.mean"])
def test_arrays_of_any_name_come_back(tmp_path, name, capsys):
    arrays = {name: np.arange(6.0).reshape(2, 3).T, "number": np.array(3), "words": np.array(["a", "bc"])}
    savez(tmp_path / "arrays.npz", arrays)
    assert capsys.readouterr().out.strip() == str(tmp_path / "arrays.npz")
    with np.load(tmp_path / "arrays.npz", allow_pickle=False) as found:
        assert {*found} == {*arrays}
        for key, array in arrays.items():
            assert found[key].shape == array.shape and (found[key] == array).all()
