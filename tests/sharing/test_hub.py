"""Runs pushed to a hub and pulled from it, over loopback: what goes, what the card says, and what is refused."""

import json
import shutil

import pytest
import torch
import yaml
from hub_server import Hub

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.sharing import pull, push
from pyro_vae.sharing.names import is_shared

LOADED = {"config.yaml", "model.safetensors", "summary.json", "metrics.jsonl"}
MEASURED = {"evaluation-test.json", "evaluation-test.npz"}
CONFIG = {
    "data": {"name": "mnist5k", "binarization": "threshold", "limit": 40},
    "model": {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [4]}},
    "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [4]}},
    "fit": {"epochs": 1, "batch_size": 20, "device": "cpu", "compile": "off"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pyro_vae.runs.measurements.metrics", dict)  # which take long
        return train(tmp_path_factory)


def train(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharing")
    (folder / "my.yaml").write_text(yaml.safe_dump(CONFIG))
    assert main(["train", str(folder / "my.yaml"), "--out", str(folder / "run")]) == 0
    assert main(["evaluate", str(folder / "run"), "--particles", "100"]) == 0
    (folder / "run" / "figures").mkdir()
    (folder / "run" / "figures" / "samples.png").write_bytes(b"png")
    (folder / "run" / "notes.txt").write_text("mine")
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def hub(monkeypatch):
    found = Hub()
    monkeypatch.setenv("HF_ENDPOINT", found.url)
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield found
    found.close()


def weights(pair):
    return torch.cat([value.flatten() for program in pair for value in program.state_dict().values()])


def test_a_run_goes_and_comes_back(run, hub, tmp_path, capsys, caplog):
    (tmp_path / ".pyro_vae-01234567-back").mkdir()  # of a pull that was killed
    assert main(["push", str(run), "me/vae"]) == 0
    assert set(hub.files("me/vae")) == {".gitattributes", "README.md", *LOADED, *MEASURED}
    assert main(["pull", "me/vae", str(tmp_path / "back")]) == 0
    back = tmp_path / "back"
    assert {p.name for p in back.iterdir()} == {"README.md", *LOADED, *MEASURED}
    assert all((back / name).read_bytes() == (run / name).read_bytes() for name in LOADED | MEASURED)
    assert torch.equal(weights(pyro_vae.load(back)), weights(pyro_vae.load(run)))
    assert "Bearer hf_verysecret" in hub.tokens
    said = capsys.readouterr()
    assert "verysecret" not in said.out + said.err + caplog.text and hub.url in said.out
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_card_tells_what_was_measured(run, hub):
    push(run, "me/vae")
    card = hub.files("me/vae")["README.md"].decode()
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "pyro-vae"
    stored = json.loads((run / "evaluation-test.json").read_text())
    assert f"**{stored['log_likelihood']:.2f} ± {stored['standard_error']:.2f} nats**" in card
    assert f"k-hat of a datum's weights: {stored['pareto_k_max']:.2f} at most" in card and "100 particles" in card
    assert "models.VAE" in card and "pyro-vae pull me/vae DIR" in card and "Never measured" not in card
    assert str(run.parent) not in card


def test_a_run_without_a_measurement_of_its_weights_says_so(run, hub, caplog):
    stored = json.loads((run / "evaluation-test.json").read_text())
    push(run, "me/vae")
    from safetensors.torch import load_file, save_file

    tensors = load_file(run / "model.safetensors")
    save_file({name: value + 0.01 for name, value in tensors.items()}, run / "model.safetensors")
    push(run, "me/vae")
    files = hub.files("me/vae")
    card = files["README.md"].decode()
    assert "Never measured" in card and f"{stored['log_likelihood']:.2f}" not in card
    assert not MEASURED & set(files) and "is not of the weights" in caplog.text  # removed from the repository too


@pytest.mark.slow
def test_checkpoints_and_figures_go_only_where_asked(run, hub, tmp_path):
    push(run, "me/all", everything=True, figures=True)
    assert {"checkpoints/last.pt", "figures/samples.png"} <= set(hub.files("me/all"))
    assert "notes.txt" not in hub.files("me/all")
    pull("me/all", tmp_path / "some")
    assert not (tmp_path / "some" / "checkpoints").exists()
    pull("me/all", tmp_path / "every", everything=True)
    assert main(["resume", str(tmp_path / "every"), "--fit.epochs", "2"]) == 0


def test_nothing_is_overwritten(run, hub, tmp_path):
    push(run, "me/vae")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    before = (run / "config.yaml").read_bytes()
    for out in (run, tmp_path / "there", tmp_path / "there" / "file"):
        with pytest.raises(InputError, match="is there already"):
            pull("me/vae", out)
    assert (run / "config.yaml").read_bytes() == before and (tmp_path / "there" / "file").read_text() == "mine"


def test_strange_files_are_left_out(run, hub, tmp_path, caplog):
    push(run, "me/vae")
    strange = {
        name: b"import os" for name in ("evil.py", "model.pkl", "x.pt", "../up.json", "priors/z/run.py", ".hidden")
    }
    hub.files("me/vae").update(strange)
    pull("me/vae", tmp_path / "back")
    assert "evil.py" in caplog.text and "model.pkl" in caplog.text and "../up.json" in caplog.text
    assert {p.name for p in (tmp_path / "back").rglob("*")} == {"README.md", *LOADED, *MEASURED}
    assert not (tmp_path / "up.json").exists()


def changed_score(files):
    stored = json.loads(files["evaluation-test.json"])
    files["evaluation-test.json"] = json.dumps(stored | {"log_likelihood": -1.0}).encode()


def cut_weights(files):
    files["model.safetensors"] = files["model.safetensors"][:-9]


DAMAGES = {
    "weights that are cut": (
        lambda files: files.update({"model.safetensors": files["model.safetensors"][:-9]}),
        "model.safetensors",
    ),
    "a configuration that is none": (lambda files: files.update({"config.yaml": b"{"}), "config.yaml"),
    "no weights": (lambda files: files.pop("model.safetensors"), "is no run of pyro_vae"),
    "a number that was changed": (changed_score, "has been changed"),
    "half a measurement": (lambda files: files.pop("evaluation-test.npz"), "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_repository_is_a_clear_error(run, hub, tmp_path, damage):
    push(run, "me/vae")
    change, words = DAMAGES[damage]
    change(hub.files("me/vae"))
    with pytest.raises(InputError, match=words) as told:
        pull("me/vae", tmp_path / "back")
    assert ".pyro_vae-" not in str(told.value)
    assert not (tmp_path / "back").exists() and not list(tmp_path.glob(".pyro_vae*"))


def test_a_file_that_does_not_come_whole_is_noticed(run, hub, tmp_path):
    push(run, "me/vae")
    hub.cut.add("metrics.jsonl")
    with pytest.raises(InputError, match=r"metrics\.jsonl did not come whole|cannot be reached"):
        pull("me/vae", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_run_of_ones_own_code_says_so_and_runs_none(run, hub, tmp_path, caplog):
    push(run, "me/vae")
    config = yaml.safe_load(hub.files("me/vae")["config.yaml"])
    config["model"] = {"class_path": "evil.Model"}
    hub.files("me/vae")["config.yaml"] = yaml.safe_dump(config).encode()
    pull("me/vae", tmp_path / "back")
    assert "names code outside pyro_vae (evil.Model)" in caplog.text
    with pytest.raises(InputError, match=r"evil\.Model"):
        pyro_vae.load(tmp_path / "back")


def test_what_the_hub_refuses_is_told_in_a_line(run, hub, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="there is no such repository"):
        pull("me/none", tmp_path / "back")
    push(run, "me/vae")
    with pytest.raises(InputError, match="there is no such revision"):
        pull("me/vae", tmp_path / "back", revision="old")
    hub.refuse = 403
    with pytest.raises(InputError, match=r"the hub refused \(status 403\): log in"):
        push(run, "me/vae")
    with pytest.raises(InputError, match="is no repository's name"):
        push(run, "../x")
    hub.repositories["me/bert"] = [{"config.json": b"{}", "pytorch_model.bin": b""}]
    hub.refuse = None
    with pytest.raises(InputError, match="holds something else than a run"):
        push(run, "me/bert")
    assert set(hub.files("me/bert")) == {"config.json", "pytorch_model.bin"}


def test_without_the_hub_there_is_a_clear_error(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="cannot be reached"):
        pull("me/vae", tmp_path / "back")
    with pytest.raises(InputError, match="is not a run directory"):
        push(tmp_path / "nowhere", "me/vae")


@pytest.mark.parametrize(
    "name, shared",
    [
        ("priors/z/model.safetensors", True),
        ("priors/z[0]/config.yaml", True),
        ("priors/tokenizer.json", True),
        ("ranker/config.yaml", True),
        ("priors/../config.yaml", False),
        ("priors/z/codes.npz", False),
        ("checkpoints/last.pt", False),
        ("config.yaml/x", False),
        ("/config.yaml", False),
        ("config.yaml\n", False),
        ("report.html", False),
        ("gap-test.json", True),
    ],
)
def test_which_files_are_shared(name, shared):
    assert is_shared(name) == shared


def test_links_are_not_followed(run, hub, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (run / "gap-test.json").symlink_to(tmp_path / "secret.json")
    push(run, "me/vae")
    assert "gap-test.json" not in hub.files("me/vae")


def test_damaged_files_of_a_run_are_not_pushed(run, hub):
    (run / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CorruptFileError):
        push(run, "me/vae")
