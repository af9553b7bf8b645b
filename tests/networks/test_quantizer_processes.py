"""Two data-parallel processes with half a batch each have the codebook of one with the whole batch."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest
import torch

SCRIPT = textwrap.dedent(
    """
    import sys
    import torch
    import torch.distributed as dist
    from torch import nn
    from pyro_vae.networks import VectorQuantizer
    from pyro_vae.recording import Recording


    class Network(nn.Module):
        def __init__(self, quantizer):
            super().__init__()
            self.scale, self.quantizer = nn.Parameter(torch.ones(()).double()), quantizer

        def forward(self, x):
            result = self.quantizer(self.scale * x)
            return result.z.sum() + result.penalty.sum(), result.perplexity, result.codes

    OPTIONS = {
        "ema": {}, "cosine": {"distance": "cosine"}, "gradient": {"update": "gradient"},
        "restart": {"restart_below": 0.8, "decay": 0.7},
    }

    def run_all(rank, world):
        results = {}
        for name, options in OPTIONS.items():
            for recorded in (False, True):
                torch.manual_seed(3)
                network = Network(VectorQuantizer(6, 3, 1, **options).double()).train()
                batches = torch.randn(7, 8, 3, 5, generator=torch.Generator().manual_seed(1)).double()
                network.quantizer.initialize(batches[0])
                if name == "restart" and rank == 1:
                    torch.rand(5)  # its random state is another: the first process's draws must count
                share = [b.chunk(world)[rank] for b in batches]
                run = network
                if recorded:
                    graph = Recording(network, network, {"x": share[0]}, True)
                    graph.check({"x": share[0]}, 1e-10)
                    run = lambda x: graph({"x": x})[0]
                for x in share:
                    *_, perplexity, codes = run(x)
                state = {n: v.detach() for n, v in network.state_dict().items()}
                results[f"{name} {recorded}"] = state | {"perplexity": perplexity.detach()}
        return results

    if __name__ == "__main__":
        out, rank = sys.argv[1], int(sys.argv[2])
        dist.init_process_group("gloo", rank=rank, world_size=2)
        torch.save(run_all(rank, 2), f"{out}/{rank}.pt")
        dist.destroy_process_group()
    """
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """State of the same quantizers after the same batches: one process, and each of two."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    started = [
        subprocess.Popen([sys.executable, script, folder, rank], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    space = {"__name__": "single"}
    exec(SCRIPT, space)
    for process in started:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    return [space["run_all"](0, 1), *(torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))]


@pytest.mark.parametrize("recorded", [False, True], ids=["eager", "recorded"])
@pytest.mark.parametrize("options", ["ema", "cosine", "gradient", "restart"])
def test_two_processes_are_one_with_the_whole_batch(options, recorded, results):
    one, *two = (r[f"{options} {recorded}"] for r in results)
    for name, expected in one.items():
        torch.testing.assert_close(two[0][name], two[1][name], rtol=0, atol=0)
        torch.testing.assert_close(two[0][name], expected, rtol=1e-10, atol=1e-12, msg=name)
