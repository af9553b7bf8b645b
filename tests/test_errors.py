"""Bad input and bad luck: what is said, and that nothing saved is lost."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import pyro_vae
from pyro_vae import files
from pyro_vae.cli import main
from pyro_vae.data import Data, Split, load_data
from pyro_vae.errors import CorruptFileError, InputError, NonFiniteLossError
from pyro_vae.guides import GaussianGuide
from pyro_vae.likelihoods import Categorical, DiscretizedLogisticMixture
from pyro_vae.models import VAE
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.runs import Run
from pyro_vae.training import fit
from pyro_vae.training import loop as trainer_module
from pyro_vae.training.checkpoint import save_weights

TINY = "--data.limit 20 --data.binarization threshold --fit.epochs 3 --fit.batch_size 10 --fit.device cpu"
TINY += " --fit.checkpoint_every 0 --fit.patience null --model.hidden_dims [4] --guide.hidden_dims [4]"


def pair(likelihood=None, shape=(6,)):
    torch.manual_seed(3)
    model = VAE(shape, latent_dim=2, hidden_dims=[8], likelihood=likelihood)
    return model, GaussianGuide(model, hidden_dims=[8])


def binary(n=40):
    return (torch.rand(n, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()


def train(*programs, data=None, **more):
    options = {"epochs": 3, "batch_size": 10, "learning_rate": 0.01, "device": "cpu", "progress": False, **more}
    return fit(*programs, binary() if data is None else data, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of the command line, to be copied and damaged."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    assert main(["train", "vae", *TINY.split(), "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(trained, tmp_path / "run")


def cli_error(capsys, *arguments):
    """The one line that a failing command prints."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) in (1, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in captured.err
    assert captured.err.splitlines()[-1] == lines[0], "the error comes last, in one line"
    return lines[0]


# ---------------------------------------------------------------------------- data
def test_grey_data_under_bernoulli():
    x = torch.rand(40, 6)
    with pytest.raises(InputError, match=r"data 'x'.*Bernoulli.*100% of the values.*binarization='dynamic'"):
        train(*pair(), data=x)
    uint8 = (255 * x).to(torch.uint8)
    with pytest.raises(InputError, match="neither 0 nor 1"):
        train(*pair(), data=Split({"x": uint8}))
    train(*pair(), data=Split({"x": uint8}, binarization="dynamic"), epochs=1)  # the advice holds


def test_one_grey_value_among_many_is_found():
    x = binary(2500)
    x[2345, 2] = 0.5
    with pytest.raises(InputError, match="neither 0 nor 1"):
        train(*pair(), data=x)
    clean, grey = binary(), binary(5)
    grey[3, 0] = 0.25
    with pytest.raises(InputError, match="Bernoulli"):  # validation data are looked at as well
        train(*pair(), data=Data(Split({"x": clean}), Split({"x": grey})))


@pytest.mark.parametrize(
    ("likelihood", "bad"),
    [(Categorical(), 1.5), (Categorical(), -0.1), (DiscretizedLogisticMixture(), 1.5)],
)
def test_data_out_of_support(likelihood, bad):
    x = torch.randint(0, 256, (40, 6)).float() / 255
    x[7, 3] = bad
    with pytest.raises(InputError, match=r"data 'x' \(values from .*\) lie outside the support .* of its likelihood"):
        train(*pair(likelihood), data=x)


def test_nan_in_data():
    x = binary()
    x[3, 3] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        train(*pair(), data=x)


def test_wrong_shape():
    with pytest.raises(InputError, match=r"shape"):
        train(*pair(), data=(torch.rand(40, 7) < 0.5).float())
    with pytest.raises(InputError, match=r"shape"):
        train(*pair(shape=(1, 4, 4)), data=(torch.rand(40, 1, 4, 5) < 0.5).float())


def test_truncated_image_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    for i in range(5):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    bad = tmp_path / "3.png"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(CorruptFileError, match=r"3\.png"):
        load_data(str(tmp_path))


# ---------------------------------------------------------------------------- arguments
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a positive integer, got 0"),
        ({"epochs": -2}, "epochs must be a positive integer, got -2"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"patience": 0}, "patience must be a positive integer"),
        ({"patience": 3}, "patience needs validation data"),
        ({"ema_decay": 1.0}, "ema_decay must lie between 0 and 1"),
        ({"optimizer": "adan"}, "unknown optimizer 'adan'. Did you mean 'adam'"),
        ({"optimizer_options": {"epz": 1.0}}, "refuses its options"),
        ({"learning_rate": -1.0}, "at rate -1.0"),
        ({"clip_norm": 0.0}, "clip_norm must be positive, got 0.0"),
        ({"clip_norm": -1.0}, "clip_norm must be positive, got -1.0"),
        ({"num_devices": 0}, "num_devices must be a positive integer, got 0"),
        ({"device": "cuda:x"}, "got 'cuda:x'"),
        ({"device": "gpux"}, "cannot train with device 'gpux'"),
        ({"precision": "32"}, "unknown precision '32'"),
        ({"resume": True}, "resume needs out"),
        ({"objective": pyro.infer.Trace_ELBO()}, "objective must be one of pyro_vae.training's"),
        ({"data": 3}, "data must be a Data, a Split"),
    ],
)
def test_arguments_of_fit(options, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        train(*pair(), **options)


@pytest.mark.parametrize("objective", [ELBO, IWAE])
@pytest.mark.parametrize("particles", [0, -1, 1.5, True])
def test_particles(objective, particles):
    with pytest.raises(InputError, match="num_particles must be a positive integer"):
        objective(num_particles=particles)


@pytest.mark.parametrize("particles", [0, -5])
def test_particles_of_evaluation(particles, run, capsys):
    model, guide = pyro_vae.load(run)
    with pytest.raises(InputError, match="num_particles must be a positive integer"):
        pyro_vae.evaluation.log_likelihood(model, guide, torch.zeros(2, 1, 28, 28), num_particles=particles)
    assert "particles must be a positive integer" in cli_error(capsys, "evaluate", run, f"--particles={particles}")


def test_nothing_to_train():
    def program(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z.unsqueeze(-1).expand(*z.shape, 6)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match="neither the model nor the guide has a parameter"):
        train(program, guide)


# ---------------------------------------------------------------------------- names on the command line
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train vea", "unknown recipe 'vea'. Did you mean 'vae'?"),
        ("trian vae", "unknown command 'trian'. Did you mean 'train'?"),
        ("train vae --data.name mnist5", "unknown dataset 'mnist5'. Did you mean 'mnist5k'?"),
        ("train vae --fit.epoch 3", "unknown option --fit.epoch. Did you mean --fit.epochs?"),
        ("train vae --model.latent_dims 3", "unknown option --model.latent_dims. Did you mean --model.latent_dim?"),
        ("train vae --fit.epochs many", "fit.epochs"),
        ("train vae --fit.epochs 0", "epochs must be a positive integer, got 0"),
        ("train vae --fit.batch_size -1", "batch_size must be a positive integer, got -1"),
        ("train vae --objective.num_particles 0", "num_particles must be a positive integer, got 0"),
        ("train vae --model.latent_dim 0", "latent_dim must be a positive integer"),
        ("train vae --fit.optimizer adm", "optimizer"),
        ("train vae --data.binarization none", "Binarize them"),
        ("train missing.yaml", "recipe file missing.yaml does not exist"),
        ("recipes vea", "unknown recipe 'vea'. Did you mean 'vae'?"),
        ("train", "the recipe comes first"),
    ],
)
def test_command_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = ["--out", tmp_path / "out"] if arguments.startswith("train ") else []
    small = ["--data.limit", "5"] if arguments.startswith("train vae") else []
    first, *rest = arguments.split()
    assert message in cli_error(capsys, first, *rest, *out, *small)
    assert not (tmp_path / "out" / "config.yaml").exists(), "a refused experiment leaves no run behind"


def test_unknown_section(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("modle: {class_path: pyro_vae.models.VAE}\nguide: {class_path: pyro_vae.guides.GaussianGuide}\n")
    assert "unknown section" in (line := cli_error(capsys, "train", file, "--out", tmp_path / "out"))
    assert "Did you mean 'model'?" in line and str(file) in line


def test_unwritable_out(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = cli_error(capsys, "train", "vae", *TINY.split(), "--out", tmp_path / "file" / "run")
    assert "cannot write" in line and str(tmp_path / "file" / "run") in line


def test_errors_of_a_real_process_and_json_alone(run):
    """Through the interpreter: exit status 2, one line on standard error; with --json only JSON on standard output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pyro_vae"]
    bad = subprocess.run([*command, "evaluate", run / "nothing"], env=environment, capture_output=True, text=True)
    assert bad.returncode == 1 and bad.stdout == ""
    assert bad.stderr == f"error: {run / 'nothing'} is not a run directory: it has no config.yaml\n"
    good = subprocess.run(
        [*command, "evaluate", run, "--particles", "5", "--json"], env=environment, capture_output=True, text=True
    )
    assert good.returncode == 0, good.stderr
    result = json.loads(good.stdout)
    assert {"log_likelihood", "standard_error", "elbo", "bits_per_dim", "num_particles", "split"} <= result.keys()
    assert result["num_particles"] == 5 and result["split"] == "test"


# ---------------------------------------------------------------------------- damaged files
def flipped(content, at=0.5):
    """Bytes with one bit changed."""
    place = int(at * len(content))
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGED = {
    "empty": lambda good: b"",
    "a third": lambda good: good[: len(good) // 3],
    "a byte short": lambda good: good[:-1],
    "a bit flipped": flipped,
    "garbage": lambda good: b"garbage",
    "no zip": lambda good: b"PK\x03\x04 not a zip",
    "another's": lambda good: saved({"state_dict": {}}),
    "ill-typed": lambda good: saved({"progress": 5}),
    "code": lambda good: saved({"progress": Code()}),
}


class Code:
    def __reduce__(self):
        return os.mkdir, ("/tmp/pyro_vae_executed",)


def saved(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("how", DAMAGED)
def test_damaged_checkpoint(how, run, capsys, caplog):
    """The one before is taken by itself, and leads to the same end; without one that is whole, nothing is touched."""
    last, previous = run / "checkpoints" / "last.pt", run / "checkpoints" / "previous.pt"
    weights, bad = (run / "model.safetensors").read_bytes(), DAMAGED[how](last.read_bytes())
    good = previous.read_bytes()
    previous.write_bytes(bad)
    last.unlink()
    last.write_bytes(bad)
    line = cli_error(capsys, "resume", run)
    assert f"{last} and {previous} are damaged or truncated" in line
    assert (run / "model.safetensors").read_bytes() == weights and last.read_bytes() == bad
    pyro_vae.load(run)
    previous.write_bytes(good)
    assert main(["resume", str(run)]) == 0
    assert f"going on from the checkpoint before it, {previous}" in caplog.text
    assert (run / "model.safetensors").read_bytes() == weights
    assert not os.path.exists("/tmp/pyro_vae_executed")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_weights(keep, run, capsys):
    file = run / "model.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[: int(keep * len(good))])
    with pytest.raises(CorruptFileError, match=r"model\.safetensors is damaged or truncated"):
        pyro_vae.load(run)
    assert "model.safetensors is damaged or truncated" in cli_error(capsys, "evaluate", run)
    assert main(["resume", str(run)]) == 0  # they are made again from the checkpoint
    pyro_vae.load(run)
    assert file.read_bytes() == good


def test_a_bit_of_the_weights_that_has_changed(run, capsys):
    file = run / "model.safetensors"
    good = file.read_bytes()
    file.write_bytes(flipped(good, 0.9))
    with pytest.raises(CorruptFileError, match="bits have changed"):
        pyro_vae.load(run)
    assert main(["resume", str(run)]) == 0
    assert file.read_bytes() == good


def test_weights_that_are_nan(run):
    model, guide = pyro_vae.load(run)
    name, value = next(iter(model.named_parameters()))
    value.data.fill_(torch.nan)
    save_weights(run / "model.safetensors", model, guide)
    with pytest.raises(CorruptFileError, match=rf"'model\.{name}' holds NaN or infinite"):
        pyro_vae.load(run)


def test_missing_or_other_weights(run):
    file = run / "model.safetensors"
    good = file.read_bytes()
    file.unlink()
    with pytest.raises(CorruptFileError, match="does not exist"):
        pyro_vae.load(run)
    file.write_bytes(good)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["init_args"]["hidden_dims"] = [5]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=r"weight 'model\.decoder.*' has shape"):
        pyro_vae.load(run)


@pytest.mark.parametrize(
    "content",
    [b"", b"model: [unclosed", b"\xff\xfe\x00binary", b"just words", b"model: {class_path: pyro_vae.models.VAE}\n"],
)
def test_damaged_config(content, run, capsys):
    (run / "config.yaml").write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"config\.yaml"):
        pyro_vae.load(run)
    assert "config.yaml" in cli_error(capsys, "evaluate", run)


def test_truncated_config(run, capsys):
    text = (run / "config.yaml").read_text()
    for part in (0.2, 0.5, 0.8):
        (run / "config.yaml").write_text(text[: int(part * len(text))])
        try:
            pyro_vae.load(run)
        except InputError as error:
            assert "config.yaml" in str(error) or "model.safetensors" in str(error)


def test_damaged_log(run):
    log = run / "metrics.jsonl"
    good = log.read_text()
    log.write_text(good + '{"epoch": 4, "tr')  # cut by a kill: left out
    assert len(Run(run).records()) == 3
    for bad in ("5\n", "{}\n", '{"epoch"\n'):
        log.write_text(bad + good)
        with pytest.raises(CorruptFileError, match=r"metrics\.jsonl, line 1"):
            Run(run).records()
    log.write_bytes(b"\xff\xfe\n")
    with pytest.raises(CorruptFileError, match=r"metrics\.jsonl, line 1"):
        Run(run).records()


# ---------------------------------------------------------------------------- foreign code
FOREIGN = {
    "class_path": {"class_path": "foreign_code.Mine"},
    "bare string": "foreign_code.Mine",
    "unicode": {"class_path": "fóreign_code.Mine"},
    "unicode at the start": {"class_path": "éforeign_code.Mine"},
    "json in a string": '{"class_path": "foreign_code.Mine"}',
    "yaml in a string": "class_path: foreign_code.Mine",
    "nested": {"class_path": "pyro_vae.models.VAE", "init_args": {"likelihood": "foreign_code.Mine"}},
    "nested json": {
        "class_path": "pyro_vae.models.VAE",
        "init_args": {"likelihood": '{"class_path": "foreign_code.Mine"}'},
    },
    "file": "FOLDER/sub.yaml",
    "file in the working directory": "sub",
    "prefix": {"class_path": "pyro_vae_foreign.Mine"},
}


@pytest.mark.parametrize("how", FOREIGN)
def test_foreign_class_is_not_imported(how, run, tmp_path, monkeypatch, capsys):
    code = f"from torch import nn\nopen({str(tmp_path / 'imported')!r}, 'w')\nclass Mine(nn.Module): pass\n"
    names = ("foreign_code", "fóreign_code", "éforeign_code", "pyro_vae_foreign")
    for name in names:
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("sub", "sub.yaml"):
        (tmp_path / name).write_text("class_path: foreign_code.Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    model = FOREIGN[how]
    config["model"] = model.replace("FOLDER", str(tmp_path)) if isinstance(model, str) else model
    (run / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    says = "also the name of a file" if model == "sub" else r"names code outside pyro_vae .* trust=True"
    with pytest.raises(InputError, match=says):
        pyro_vae.load(run)
    for command in ("resume", "evaluate", "sample", "figures"):
        assert ("also the name of a file" if model == "sub" else "--trust") in cli_error(capsys, command, run)
    assert not (tmp_path / "imported").exists()


def test_trusted_class_is_imported(run, tmp_path, monkeypatch):
    """The counterpart: the module of the test above would have been noticed."""
    code = "from pyro_vae.models import VAE\nopen({!r}, 'w').close()\nclass Mine(VAE): pass\n"
    (tmp_path / "trusted_code.py").write_text(code.format(str(tmp_path / "imported")))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trusted_code", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["class_path"] = "trusted_code.Mine"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    model, _ = pyro_vae.load(run, trust=True)
    assert type(model).__name__ == "Mine" and (tmp_path / "imported").exists()


# ---------------------------------------------------------------------------- full disk
def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_full_disk_while_saving(function, tmp_path, monkeypatch):
    train(*pair(), out=tmp_path / "whole")
    good = {}
    real = getattr(os, function)
    calls = 0

    def full(*arguments):
        nonlocal calls
        calls += 1
        if calls > 8:
            if not good:
                good.update(contents(tmp_path / "run"))
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, function, full)
        with pytest.raises(InputError, match=r"cannot write .*No space left on device.*unharmed.*resume"):
            train(*pair(), out=tmp_path / "run", checkpoint_every=0.0)
    after = contents(tmp_path / "run")
    kept = {p: b for p, b in good.items() if not p.name.startswith(".")}
    assert {p for p in after if p.name != "previous.pt"} == {p for p in kept if p.name != "previous.pt"}
    assert all(after[p] == b for p, b in kept.items() if p.name != "previous.pt")
    train(*pair(), out=tmp_path / "run", resume=True)
    weights = [tmp_path / n / "model.safetensors" for n in ("run", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_full_disk_while_logging(tmp_path, monkeypatch):
    """The log's line comes through half; the run resumes as if nothing had been."""
    from pyro_vae.training import metrics

    train(*pair(), out=tmp_path / "whole")

    class Full:
        def __init__(self, *arguments):
            self.file = open(*arguments)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, text):
            self.file.write(text[:20])
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(metrics, "open", Full, raising=False)
        with pytest.raises(InputError, match=r"cannot write .*metrics\.jsonl: .*No space left"):
            train(*pair(), out=tmp_path / "run", checkpoint_every=0.0)
    train(*pair(), out=tmp_path / "run", resume=True)
    logs = [(tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in ("run", "whole")]
    drop = [[{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in log] for log in logs]
    assert drop[0] == drop[1]


@pytest.mark.slow
def test_file_size_limit_of_the_system(tmp_path):
    """A real refusal by the kernel (RLIMIT_FSIZE), by torch's and safetensors' own writers, on the command line."""
    script = tmp_path / "limited.py"
    script.write_text(
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))\n"
        "from pyro_vae.cli import main\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def limited(size, *arguments):
        command = [sys.executable, script, str(size), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    out = tmp_path / "run"
    # weights are about 27 kB; a checkpoint with its optimizer state more than 3 times that
    failed = limited(60_000, "train", "vae", *TINY.split(), "--out", out)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "cannot write" in failed.stderr and "last.pt" in failed.stderr
    assert load_file(out / "model.safetensors")
    none = limited(10_000, "train", "vae", *TINY.split(), "--out", tmp_path / "none")
    assert none.returncode == 1 and "Traceback" not in none.stderr and "model.safetensors" in none.stderr
    assert not list((tmp_path / "none").iterdir()), "nothing half-written stays"
    pyro_vae.load(out)
    assert main(["resume", str(out)]) == 0
    whole = tmp_path / "whole"
    assert main(["train", "vae", *TINY.split(), "--out", str(whole)]) == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


# ---------------------------------------------------------------------------- NaN
class Exploding(torch.nn.Module):
    """A model whose loss, or only whose gradient, becomes NaN at a step."""

    def __init__(self, step, gradient_only=False):
        super().__init__()
        self.inner, _ = pair()
        self.step, self.gradient_only, self.calls = step, gradient_only, 0
        self.loc = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x=None):
        self.calls += self.training
        bad = self.training and self.calls == self.step
        with pyro.plate("data", len(x), dim=-1):
            loc = self.loc
            if bad:
                loc = loc + (torch.sqrt(loc * 0.0) if self.gradient_only else float("nan"))
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.inner.decoder(z)).to_event(1), obs=x)


def good_checkpoint(out):
    state = torch.load(out / "checkpoints" / "last.pt", weights_only=True)
    assert all(v.isfinite().all() for v in state["weights"].values())
    assert all(v.isfinite().all() for v in load_file(out / "model.safetensors").values())
    return state["progress"]["step"]


@pytest.mark.parametrize("window", [1, 3, 100])
def test_nan_in_the_loss(window, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "WINDOW", window)
    with pytest.raises(NonFiniteLossError, match=r"site 'z' \(kl\) became nan at step 7 \(epoch 2\).*is unchanged"):
        train(Exploding(7), pair()[1], out=tmp_path, checkpoint_every=0.0)
    assert good_checkpoint(tmp_path) == {1: 6, 3: 4, 100: 4}[window]
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1
    Plain = Exploding(10**9)
    train(Plain, pair()[1], out=tmp_path, resume=True)  # the remedy: change something, go on


def test_nan_in_a_gradient_is_not_saved(tmp_path, monkeypatch):
    """The loss of step 7 is finite, the weights after it are not: looked at just then, they must not be saved."""
    monkeypatch.setattr(trainer_module, "WINDOW", 1)
    with pytest.raises(NonFiniteLossError, match=r"gradient.*weight 'model\.program\.loc'.*step 7 .*is unchanged"):
        train(Exploding(7, gradient_only=True), pair()[1], out=tmp_path, checkpoint_every=0.0)
    assert good_checkpoint(tmp_path) == 6


def test_nan_in_the_last_gradient(tmp_path):
    with pytest.raises(NonFiniteLossError, match="step 12"):
        train(Exploding(12, gradient_only=True), pair()[1], out=tmp_path)
    good_checkpoint(tmp_path)
    with pytest.raises(NonFiniteLossError, match="step 12"):
        train(Exploding(12, gradient_only=True), pair()[1])  # without a directory as well


def test_infinite_loss_names_the_data_site():
    class Impossible(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(6))

        def forward(self, x=None):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                logits = self.weight - (float("inf") if self.training else 0.0)
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    with pytest.raises(NonFiniteLossError, match=r"site 'x' \(log_likelihood\) became (nan|-inf) at step 1 "):
        train(Impossible(), pair()[1])


def test_nan_on_the_command_line(tmp_path, capsys):
    line = cli_error(capsys, "train", "vae", *TINY.split(), "--fit.learning_rate", "1e30", "--out", tmp_path / "run")
    assert "became" in line and "step" in line and "Try a smaller learning rate" in line
    pyro_vae.load(tmp_path / "run")


def test_an_error_without_a_word_has_an_empty_first_line():
    """Readers of damaged files raise such; taking the first of no lines once hid the reason behind an IndexError."""
    from pyro_vae.errors import first_line, why_not

    assert first_line(EOFError()) == "" and why_not(EOFError()) == "EOFError"
    assert first_line(ValueError("\n one\ntwo")) == "one"
