"""Options of the command line: over a recipe's, of a class of their own, and in any place."""

import logging
import re
import shlex
import subprocess
import sys
from importlib import import_module

import pytest
import yaml

from pyro_vae.cli import COMMANDS, command, main
from pyro_vae.cli.parsing import _options_last, directory_first, make_parser, parser_of
from pyro_vae.reports.stored import train_command
from pyro_vae.runs import Run
from pyro_vae.runs.sections import HARMLESS


def configured(tmp_path, monkeypatch, *arguments):
    """The configuration that a command line makes; nothing is trained."""
    monkeypatch.setattr(import_module("pyro_vae.cli.train"), "train_run", lambda *a, **k: None)
    assert main(["train", *arguments, "--data.limit", "20", "--out", str(tmp_path / "run")]) == 0
    return yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())


def last(section):
    return section["class_path"].split(".")[-1]


@pytest.mark.parametrize("form", [["--objective", "IWAE"], ["--objective=pyro_vae.objectives.IWAE"]])
def test_a_class_that_is_changed_has_its_own_defaults(form, tmp_path, monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        objective = configured(tmp_path, monkeypatch, "vae", *form)["objective"]
    assert last(objective) == "IWAE" and objective["init_args"]["num_particles"] == 5
    lines = [m for m in caplog.messages if m.startswith("objective: ")]
    assert len(lines) == 1 and "in place of the recipe's pyro_vae.objectives.ELBO, with its own defaults" in lines[0]


def test_the_command_that_repeats_a_run_says_all_of_another_class(tmp_path, monkeypatch):
    """One particle is ELBO's default and not IWAE's, so it must be said."""
    options = ["--objective", "IWAE", "--objective.num_particles", "1"]
    config = configured(tmp_path, monkeypatch, "vae", *options)
    command = shlex.split(train_command(Run(tmp_path / "run")))
    assert "--objective.num_particles=1" in command
    command[command.index("--out") + 1] = str(tmp_path / "again")
    assert main(command[1:]) == 0
    again = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    assert again["objective"]["init_args"] == config["objective"]["init_args"]


def test_what_the_recipe_says_of_the_other_class_is_kept_or_named_as_dropped(tmp_path, monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        config = configured(tmp_path, monkeypatch, "iwae", "--objective", "ELBO", "--objective.free_bits", "0.5")
    options = config["objective"]["init_args"]
    assert last(config["objective"]) == "ELBO" and (options["num_particles"], options["free_bits"]) == (5, 0.5)
    told = "of the recipe's options num_particles = 5 kept; gradient dropped, which it does not have"
    assert [m for m in caplog.messages if m.startswith("objective: ") and m.endswith(told)]


def test_the_class_that_it_was_and_other_options_of_it_change_nothing_else(tmp_path, monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        config = configured(tmp_path, monkeypatch, "iwae", "--objective", "IWAE", "--model.latent_dim", "3")
    assert config["objective"]["init_args"] == {"num_particles": 5, "gradient": "dreg"}
    assert config["model"]["init_args"]["latent_dim"] == 3
    assert config["model"]["init_args"]["hidden_dims"] == [200, 200]
    assert not [m for m in caplog.messages if "in place of" in m]


def test_a_file_of_ones_own_with_a_class_within_a_class(tmp_path, monkeypatch, caplog):
    """The likelihood's scale is Gaussian's own default, not what stands in the file for the Laplace one's bound."""
    file = tmp_path / "mine.yaml"
    model = {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [4]}}
    model["init_args"]["likelihood"] = {"class_path": "pyro_vae.likelihoods.Laplace", "init_args": {"min_scale": 0.25}}
    guide = {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [4]}}
    file.write_text(yaml.safe_dump({"data": {"name": "mnist5k"}, "model": model, "guide": guide}))
    with caplog.at_level(logging.INFO):
        config = configured(tmp_path, monkeypatch, str(file), "--model.likelihood", "pyro_vae.likelihoods.Gaussian")
    likelihood = config["model"]["init_args"]["likelihood"]
    assert last(likelihood) == "Gaussian" and likelihood["init_args"]["min_scale"] == 0.25
    assert [m for m in caplog.messages if m.startswith("model.likelihood: ") and "min_scale = 0.25 kept" in m]


def test_the_pair_trained_first_may_have_another_objective(tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    model = {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [4]}}
    guide = {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [4]}}
    pair = {"model": model, "guide": guide, "objective": {"class_path": "pyro_vae.objectives.ELBO"}}
    file.write_text(yaml.safe_dump({"data": {"name": "mnist5k", "binarization": "static"}, **pair, "first": pair}))
    config = configured(tmp_path, monkeypatch, str(file), "--first.objective", "IWAE")
    assert config["first"]["objective"]["init_args"]["num_particles"] == 5
    assert config["objective"]["init_args"]["num_particles"] == 1


def test_a_prior_of_another_class_has_its_own_defaults(monkeypatch):
    seen = []
    command = import_module("pyro_vae.cli.second_stage")
    monkeypatch.setattr(command, "Run", lambda *arguments, **options: None)
    monkeypatch.setattr(command, "train_prior_of", lambda run, config, *_, **options: seen.append(config.prior) or {})
    assert main(["train-prior", "somewhere", "wavenet", "--prior", "GatedPixelCNN"]) == 0
    assert main(["train-prior", "pixelcnn", "--on", "somewhere", "--prior.kernel", "3"]) == 0
    assert [prior.init_args.kernel for prior in seen] == [5, 3]


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        ("DIR a.png b.png --y 1", "DIR a.png b.png --y 1"),
        ("DIR --y 1 a.png b.png", "DIR a.png b.png --y 1"),
        ("--y=1 DIR a.png --flag b.png --num -3", "DIR a.png b.png --y=1 --flag --num -3"),
        ("--num 3 -- DIR -x.png", "--num 3 -- DIR -x.png"),
        ("DIR --num", "DIR --num"),
    ],
)
def test_options_may_stand_before_between_and_after_files(given, ordered):
    parser = make_parser("test", "")
    parser.add_argument("--flag", action="store_true")
    assert _options_last(parser, given.split()) == ordered.split()


@pytest.mark.parametrize("given", ["--on DIR a --y 1", "a --on DIR --y 1", "a --y 1 --on=DIR", "DIR a --y 1"])
def test_the_run_directory_may_be_named(given):
    assert directory_first(given.split()) == "DIR a --y 1".split()


WITHOUT_A_RUN = ("train", "sweep", "pull", "compare", "recipes", "datasets", "check")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in WITHOUT_A_RUN])
@pytest.mark.parametrize("given", [["nowhere"], ["--on", "nowhere"], ["--on=nowhere"]])
def test_every_command_on_a_run_takes_it_both_ways(name, given, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    more = {"train-prior": ["pixelcnn"], "encode": ["--out", "z.npz"], "interpolate": ["test:0", "test:1"]}
    more |= {"export": ["--to", "onnx"], "push": ["me/vae"]}
    assert main([name, *given, *more.get(name, [])]) == 1
    assert "nowhere is not a run directory" in capsys.readouterr().err


# ------------------------------------------------------------------ help, spelling, exit status
@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_and_says_what_the_list_says(name, capsys):
    recipe = {"train": ["vae"], "train-prior": ["DIR", "pixelcnn"]}.get(name, [])
    with pytest.raises(SystemExit) as ended:
        main([name, *recipe, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and said.startswith(f"usage: pyro-vae {name}")
    assert len(said.splitlines()) < (120 if name == "sweep" else 100)  # the options of train, and its own
    assert "known subclasses" not in said
    assert command(name).__doc__.splitlines()[0] == COMMANDS[name][1]
    own = re.findall(r"^  (--[\w-]+)", said, flags=re.MULTILINE)
    assert not [option for option in own if "_" in option]


def test_the_classes_of_an_option_have_help_of_their_own(capsys):
    with pytest.raises(SystemExit):
        main(["train", "vae", "--model.help", "BIVA"])
    assert "--model.latent_dims" in capsys.readouterr().out


@pytest.mark.parametrize("spelled", ["--memory-mib", "--memory_mib"])
def test_hyphens_and_underscores_are_alike(spelled, tmp_path, capsys):
    assert main(["evaluate", str(tmp_path), spelled, "many"]) == 2
    assert "memory" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), spelled, "64"]) == 1  # understood; but there is no run


def test_exit_status(tmp_path, capsys):
    assert main(["recipes"]) == 0
    assert main(["evaluate", str(tmp_path)]) == 1
    for line in (["evaluat"], ["evaluate"], ["evaluate", str(tmp_path), "--particels", "3"], ["--completion", "cmd"]):
        assert main(line) == 2
    assert "Did you mean --particles?" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command_and_option(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["--completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS) and "--num-chains" in script and "--fit.learning_rate" in script


def test_quiet_and_verbose():
    def said(*words):
        line = [sys.executable, "-m", "pyro_vae", *words, "recipes", "none"]
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 1
        return done.stderr

    assert said("-q").startswith("error:") and said("-v").splitlines()[-1].startswith("error:")


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["recipes"]])
def test_what_needs_no_program_loads_no_torch(words):
    code = (
        f"import sys; from pyro_vae.cli import main; main({words}); assert not {{'torch', 'pyro'}} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.hidden_dims", "3,4"], "--model.hidden_dims takes a list, as [1,2]; got '3,4'"),
        (["--model.latent_dim=abc"], "--model.latent_dim takes an integer; got 'abc'"),
        (["--fit.epochs", "1.5"], "--fit.epochs takes an integer; got '1.5'"),
        (["--data.limit", "x"], "--data.limit takes an integer; got 'x'"),
        (["--fit.compile", "nope"], "--fit.compile takes auto, off, graph, full; got 'nope'"),
        (["--fit.learning_rate", "abc"], "--fit.learning_rate takes a number or the name of a class; got 'abc'"),
        (["--fit.optimizer_options", "3"], "--fit.optimizer_options takes a mapping, as {\"name\": 1}; got '3'"),
        (["--objective.num_particles", "x"], "--objective.num_particles takes an integer; got 'x'"),
        (["--model", "Nope"], "--model takes the name of a class; got 'Nope'"),
        (["--model.likelihood", "foo"], "--model.likelihood takes the name of a class; got 'foo'"),
    ],
)
def test_a_value_of_another_kind_is_told_in_a_sentence(words, told, tmp_path, capsys):
    assert main(["train", "vae", "--out", str(tmp_path / "run"), *words]) == 2
    assert capsys.readouterr().err == f"error: {told}\n"
    assert not (tmp_path / "run").exists()


def test_a_value_of_another_kind_of_a_command_on_a_run(tmp_path, capsys):
    assert main(["gap", str(tmp_path), "--num-steps", "few"]) == 2
    assert capsys.readouterr().err == "error: --num-steps takes an integer; got 'few'\n"
    assert main(["gap", str(tmp_path), "--particles", "1,10"]) == 2
    assert capsys.readouterr().err == "error: --particles takes a list, as [1,2]; got '1,10'\n"


def test_resume_has_an_option_for_all_that_may_change():
    options = {name for action in parser_of(command("resume"))._actions for name in action.option_strings}
    assert {f"--{name}" for name in HARMLESS if not name.startswith("first.")} <= options


def test_quiet_is_of_one_command_alone(caplog):
    """A process that calls several commands hears of each what it is asked for."""
    for arguments, levels in (
        (["--version"], ("INFO", "NOTSET")),
        (["-q", "--version"], ("WARNING", "WARNING")),
        (["-v", "--version"], ("INFO", "DEBUG")),
        (["--version"], ("INFO", "NOTSET")),
    ):
        assert main(arguments) == 0
        found = (logging.getLogger(name).level for name in (None, "pyro_vae"))
        assert tuple(map(logging.getLevelName, found)) == levels
