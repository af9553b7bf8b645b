"""log_likelihood by two processes, each of which measures a part of the data."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from linear_gaussian import PPCA

from pyro_vae.errors import InputError
from pyro_vae.evaluation import log_likelihood

SCRIPT = textwrap.dedent(
    """
    import sys
    import torch
    import torch.distributed as dist
    from torch.utils.data import TensorDataset
    from linear_gaussian import PPCA
    from pyro_vae.evaluation import log_likelihood

    out, rank = sys.argv[1], int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=2)
    ppca = PPCA(data_dim=5, latent_dim=2)
    x = ppca.sample(5).repeat(3, 1)[:11]  # parts of 5 and 6 data
    found = {"x": x}
    state = torch.get_rng_state()
    for name, data in (("memory", x), ("dataset", TensorDataset(x))):
        exact = log_likelihood(ppca.model, ppca.exact_guide, data, num_particles=3, divided=True)
        rough = log_likelihood(ppca.model, ppca.rough_guide(), data, num_particles=400, seed=4, divided=True)
        found |= {f"{name} exact": exact.per_datum, f"{name} rough": rough.per_datum, f"{name} k": rough.pareto_k}
    alike = log_likelihood(ppca.model, ppca.rough_guide(), x[:10], num_particles=400, seed=4, divided=True)
    found["alike"] = alike.per_datum  # the two parts hold the same data
    assert torch.equal(state, torch.get_rng_state())
    torch.save(found, f"{out}/{rank}.pt")
    dist.destroy_process_group()
    """
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("divided")
    (folder / "script.py").write_text(SCRIPT)
    here = str(Path(__file__).parents[1])
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(folder / "script.py"), str(folder)]
    started = [
        subprocess.Popen([*words, rank], env=environment | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    for process in started:
        _, errors = process.communicate(timeout=150)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("kind", ["memory", "dataset"])
def test_all_processes_have_the_whole(results, kind):
    one, other = results
    ppca = PPCA(data_dim=5, latent_dim=2)
    assert all(torch.equal(one[name], other[name]) for name in one if name != f"{kind} k")
    torch.testing.assert_close(one[f"{kind} exact"], ppca.log_prob(one["x"]), rtol=1e-9, atol=1e-9)
    error = one[f"{kind} rough"] - ppca.log_prob(one["x"])
    assert error.abs().max() < 0.5 and len(error) == 11


def test_parts_have_draws_of_their_own(results):
    parts = results[0]["alike"].reshape(2, 5)
    assert not (parts[0] == parts[1]).any()


def test_without_processes():
    ppca = PPCA(data_dim=5, latent_dim=2)
    with pytest.raises(InputError, match=r"torch.distributed, which is not initialized: start by torchrun"):
        log_likelihood(ppca.model, ppca.exact_guide, ppca.sample(3), divided=True)
