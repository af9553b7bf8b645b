"""Two data-parallel processes give what one process gives with the joint batch.

The last batch of an epoch is cut to a multiple of the number of processes; the comparison therefore uses a number of
data that is one. Free bits are compared with the mean KL of a process's share, not of the joint batch: what holds is
equality where the free bits bind in all shares or in none (tested for none), else they act slightly differently.
"""

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file

from pyro_vae import fit
from pyro_vae.errors import InputError

SCRIPT = textwrap.dedent(
    """
    import os
    import sys
    from pathlib import Path
    import torch
    from torch.utils.data import TensorDataset
    from pyro_vae.data import Data, Split, as_split
    from pyro_vae.guides import GaussianGuide
    from pyro_vae.objectives import ELBO, GAN, IWAE, DensityRatio, Matching
    from pyro_vae.training import Linear, fit
    from pyro_vae.models import VAE

    CASES = {
        "elbo": {},
        "particles": {"objective": ELBO(num_particles=3)},
        "free bits": {"objective": ELBO(free_bits=1e-3)},
        "iwae": {"objective": IWAE(num_particles=3, gradient="dreg")},
        "recorded": {"compile": "graph", "clip_norm": 0.5, "objective": ELBO(num_particles=2)},
        "accumulated": {
            "optimizer": "RAdam", "lr_scheduler": "ReduceLROnPlateau", "param_groups": {"guide.*": {"lr": 0.003}},
            "lr_scheduler_options": {"patience": 0, "threshold": 0.5}, "grad_accumulation": 3, "clip_norm": 0.5,
        },
        "accumulated, recorded": {"compile": "graph", "grad_accumulation": 3},
        "streamed": {"num_workers": 1},
        "discriminator": {"objective": Matching(DensityRatio([8], updates=2), weight=3.0, kl=1.0), "clip_norm": 0.5},
        "discriminator, recorded": {"compile": "graph", "objective": Matching(GAN([8], updates=2), weight=3.0)},
        "dynamic": {"ema_decay": 0.8, "clip_norm": 0.5, "patience": 2, "kl_weight": Linear(0.0, 1.0, 1)},
    }
    x = torch.rand(38, 6, generator=torch.Generator().manual_seed(1))
    out, devices, nodes = Path(sys.argv[1]), int(sys.argv[2]), int(os.environ.get("NODES", 1))
    chosen = sys.argv[3:] or list(CASES)
    for name in chosen:
        options = CASES[name]
        dynamic = name == "dynamic"
        values = x if dynamic else (x < 0.4).float()
        torch.manual_seed(3)
        model = VAE((6,), latent_dim=2, hidden_dims=[8])
        guide = GaussianGuide(model, hidden_dims=[8])
        split = Split({"x": values[:28]}, binarization="dynamic" if dynamic else "none")
        if name == "streamed":
            split = as_split(TensorDataset(values[:28]))
        result = fit(
            model, guide, Data(split, Split({"x": (values[28:] < 0.4).float()})), epochs=4,
            batch_size=8,
            learning_rate=0.01, seed=5, device="cpu", precision="64-true", num_devices=devices // nodes,
            num_nodes=nodes, progress=False,
            out=out / name, **options,
        )
    """
)


def launch(script, *arguments, launcher="torchrun"):
    """Two processes, by torchrun or by Fabric's own launcher."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    elastic = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    command = [sys.executable, *(elastic if launcher == "torchrun" else []), str(script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": str(port)}
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        environment.pop(name, None)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Directories of the same experiments by one process and by two."""
    folder = tmp_path_factory.mktemp("ddp")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    single = subprocess.run([sys.executable, script, folder / "one", "1"], capture_output=True, text=True, timeout=120)
    assert single.returncode == 0, single.stderr
    double = launch(script, folder / "two", 2)
    assert double.returncode == 0, double.stderr
    return folder


CASES = ["elbo", "free bits", "streamed", "dynamic", "particles", "iwae", "recorded"]
CASES += ["accumulated", "accumulated, recorded", "discriminator", "discriminator, recorded"]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one_with_the_joint_batch(case, runs):
    one, two = (load_file(runs / n / case / "model.safetensors") for n in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == torch.float64
        torch.testing.assert_close(two[name], one[name], rtol=1e-9, atol=1e-11)
    logs = [(runs / n / case / "metrics.jsonl").read_text().splitlines() for n in ("one", "two")]
    assert len(logs[0]) == 4 and len(logs[0]) == len(logs[1])
    for ours, theirs in zip(*logs, strict=True):
        ours, theirs = json.loads(ours), json.loads(theirs)
        assert ours.keys() == theirs.keys() and ours["step"] == theirs["step"]
        for name in ours.keys() - {"seconds"}:
            assert theirs[name] == pytest.approx(ours[name], rel=1e-6), name  # (the log is float32)


@pytest.mark.slow
def test_two_machines_with_a_process_each(runs):
    """Two agents of torchrun on this machine, which are two nodes to the programs."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NODES": "2"}
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        environment.pop(name, None)
    words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    words += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"localhost:{port}", "--rdzv_id", "7"]
    words += [str(runs / "script.py"), str(runs / "nodes"), "2", "elbo"]
    agents = [subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for agent in agents:
        _, said = agent.communicate(timeout=120)
        assert agent.returncode == 0, said
    one, two = (load_file(runs / n / "elbo" / "model.safetensors") for n in ("two", "nodes"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=0)


def test_several_machines_need_to_be_told_apart():
    with pytest.raises(InputError, match="torchrun --nnodes 2"):
        fit(lambda x: None, lambda x: None, torch.zeros(4, 1), num_nodes=2, device="cpu", progress=False)
    with pytest.raises(InputError, match="num_nodes must be a positive"):
        fit(lambda x: None, lambda x: None, torch.zeros(4, 1), num_nodes=0, device="cpu", progress=False)


@pytest.mark.slow
def test_started_by_fabric(runs):
    """``fit(num_devices=2)`` in a plain script starts the second process itself."""
    done = launch(runs / "script.py", runs / "fabric", 2, "elbo", launcher="fabric")
    assert done.returncode == 0, done.stderr
    one, two = (load_file(runs / n / "elbo" / "model.safetensors") for n in ("two", "fabric"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=0)


STOPPED = textwrap.dedent(
    """
    import os, signal
    from pyro_vae.training import loop as trainer

    trainer.WINDOW = 2
    one_step = trainer.Trainer._one_step

    def pressing(self, epoch):
        if self.at.step == 5 and self.fabric.global_rank == 1:
            os.kill(os.getpid(), signal.SIGINT)  # one process only
        return one_step(self, epoch)

    trainer.Trainer._one_step = pressing
    """
)


@pytest.mark.slow
def test_interrupt_of_one_process_stops_and_saves_all(runs):
    (runs / "stopped.py").write_text(STOPPED + SCRIPT)
    done = launch(runs / "stopped.py", runs / "stopped", 2, "dynamic")
    assert done.returncode != 0 and "Interrupted: stopped at step 6, saved (SIGINT)" in done.stderr
    saved = torch.load(runs / "stopped" / "dynamic" / "checkpoints" / "last.pt", weights_only=True)["progress"]
    assert saved["step"] == 6
    (runs / "resume.py").write_text(SCRIPT.replace("out=out / name", "out=out / name, resume=True"))
    done = launch(runs / "resume.py", runs / "stopped", 2, "dynamic")
    assert done.returncode == 0, done.stderr
    files = [runs / n / "dynamic" / "model.safetensors" for n in ("stopped", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_command_line_with_two_devices(tmp_path):
    """The second process runs the same command; it must not stumble over the first one's run directory."""
    arguments = "train vae --data.limit 40 --data.binarization threshold --fit.epochs 1 --fit.batch_size 20"
    arguments += " --fit.device cpu --fit.num_devices 2 --model.hidden_dims [8] --guide.hidden_dims [8] --out"
    done = launch("-m", "pyro_vae", *arguments.split(), tmp_path / "run", launcher="fabric")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "summary.json").exists()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
