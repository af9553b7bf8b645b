"""What a sweep says belongs to it: grids, ranges, names, extension, and a file that is read without trust."""

import json
from contextlib import nullcontext

import optuna
import pytest
import yaml

from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.sweeps import Plan, read_plan
from pyro_vae.sweeps.search import next_setting
from pyro_vae.sweeps.settings import Range, parse_grid, parse_range, run_name, setting_name, spelled
from pyro_vae.sweeps.stages import check_member

GRID = {"fit.learning_rate": ["1e-3", "3e-4"], "model.latent_dim": ["10", "20"]}


def plan(**changed):
    return Plan(
        **{"recipe": "vae", "recipe_digest": "", "options": [], "seeds": [0, 1], "grid": GRID, **changed}
    ).begun()


def test_grids_are_split_at_commas_outside_of_brackets():
    assert parse_grid("model.hidden_dims=[200,200],[400]") == ("model.hidden_dims", ["[200,200]", "[400]"])
    assert parse_grid('--fit.options={"a": 1, "b": 2}')[1] == ['{"a": 1, "b": 2}']


def test_ranges():
    assert parse_range("fit.learning_rate=1e-4..1e-2:log") == ("fit.learning_rate", Range(1e-4, 1e-2, True))
    assert parse_range("model.latent_dim=2..64:log")[1] == Range(2, 64, True, True)
    assert parse_range("a.b=-1.5..2")[1] == Range(-1.5, 2.0)
    assert spelled(0.000123456) == "0.0001235" and spelled(7) == "7"


@pytest.mark.parametrize("text", ["a.b", "a.b=", "seed=1,2", "a.b=1,1", "a.b=1,,2", "../x=1", "out=1"])
def test_what_is_no_grid_is_refused(text):
    with pytest.raises(InputError):
        parse_grid(text)


@pytest.mark.parametrize("text", ["a.b=1", "a.b=2..1", "a.b=0..1:log", "a.b=x..y", "a.b=1..inf", "a.b=1..2:cube"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(InputError):
        parse_range(text)


def test_runs_are_named_by_their_values_and_seed():
    names = [run.name for run in plan().runs()]
    assert names[:3] == [f"learning_rate=1e-3,latent_dim={d},seed={s}" for d, s in (("10", 0), ("10", 1), ("20", 0))]
    assert run_name({}, 4) == "seed=4" and len(names) == 8


def test_names_are_names_of_directories_and_differ():
    odd = [{"a.b": value} for value in ("[1,2]", "[1, 2]", "../x", "/etc", "x" * 300, "x" * 301, "1,2", "ü", "-", "")]
    names = [setting_name(values) for values in odd]
    assert len({*names}) == len(names) and all("/" not in name and len(name) < 150 for name in names)
    assert setting_name({"model.scale": "1", "guide.scale": "2"}) == "model.scale=1,guide.scale=2"


def test_the_command_of_a_run_is_that_of_train(tmp_path):
    several = plan(options=["--fit.epochs=3"])
    command = several.train_command(several.runs()[1], tmp_path, trust=True)
    values = ["--fit.learning_rate=1e-3", "--model.latent_dim=10", "--seed=1"]
    assert command == ["train", "vae", "--fit.epochs=3", *values, f"--out={tmp_path}", "--trust"]


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan().write(tmp_path)
    assert read_plan(tmp_path) == plan()
    with pytest.raises(InputError, match="is not the directory of a sweep"):
        read_plan(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": []},
        {"seeds": ["0"]},
        {"seeds": [-1]},
        {"settings": [{"fit.learning_rate": "1e-3"}]},
        {"settings": [{"fit.learning_rate": "1", "model.latent_dim": 3}]},
        {"settings": "abc"},
        {"options": ["--out=/elsewhere"]},
        {"options": ["--trust"]},
        {"options": [3]},
        {"particles": 0},
        {"grid": {"out": ["x"]}},
        {"splits": ["train"]},
        {"unknown": 1},
        {"ranges": {"a.b": "2..1"}},
    ],
)
def test_a_damaged_plan_is_refused(tmp_path, change):
    plan().write(tmp_path)
    raw = json.loads((tmp_path / "sweep.json").read_text())
    (tmp_path / "sweep.json").write_text(json.dumps(raw | change))
    with pytest.raises(CorruptFileError, match=r"sweep\.json"):
        read_plan(tmp_path)


def test_a_sweep_is_extended_by_values_and_seeds(tmp_path):
    more = plan(grid=GRID | {"model.latent_dim": ["10", "20", "30"]}, seeds=[0, 1, 2])
    found = plan().extended(more, tmp_path)
    assert len(found.runs()) == 18 and {run.name for run in plan().runs()} < {run.name for run in found.runs()}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"grid": GRID | {"model.latent_dim": ["10"]}}, "would be left out"),
        ({"seeds": [0]}, "would be left out"),
        ({"grid": {"fit.learning_rate": ["1e-3"]}}, "is a sweep over"),
        ({"options": ["--fit.epochs=3"]}, "its options was"),
        ({"recipe_digest": "other"}, "its recipe digest was"),
        ({"search": 3}, "is a sweep over"),
    ],
)
def test_another_sweep_is_refused_in_its_directory(tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        plan().extended(plan(**change), tmp_path)


def test_a_recipe_that_has_changed_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not what it was"):
        plan(recipe_digest="of before").check_recipe()


def searched(count=25, **changed):
    """A search for the largest of a function whose top is at a rate of 1e-3 and 20 dimensions."""
    ranges = {"fit.learning_rate": "1e-5..1e-1:log", "model.latent_dim": "2..40"}
    found = plan(search=count, ranges=ranges, grid={"objective": ["ELBO", "IWAE"]}, **changed)
    values = []
    for _ in range(count):
        setting = next_setting(found, values)
        found = Plan(**{**vars(found), "settings": (*found.settings, setting)})
        far = abs(float(setting["fit.learning_rate"]) / 1e-3 - 1) + abs(int(setting["model.latent_dim"]) - 20) / 10
        values.append(None if len(values) == 3 else -far - (setting["objective"] == "IWAE"))
    return found, values


def test_a_search_depends_on_what_was_measured_alone_and_goes_where_it_is_good():
    level = optuna.logging.get_verbosity()
    found, values = searched()
    assert searched(12)[0].settings == found.settings[:12]
    late = [v for v in values[15:] if v is not None]
    early = [v for v in values[:10] if v is not None]
    assert sorted(late)[len(late) // 2] > sorted(early)[len(early) // 2]
    assert len({json.dumps(s) for s in found.settings}) == 25 and optuna.logging.get_verbosity() == level
    assert all(list(s) == ["objective", "fit.learning_rate", "model.latent_dim"] for s in found.settings)


def test_a_search_that_has_tried_all_ends():
    found = plan(search=9, grid={"a.b": ["1", "2"]}, settings=({"a.b": "1"}, {"a.b": "2"}))
    assert next_setting(found, [0.0, None]) is None


@pytest.mark.parametrize(
    "key, text, stored, same",
    [
        ("fit.learning_rate", "1e-3", 0.001, True),
        ("fit.learning_rate", "1e-3", 0.01, False),
        ("fit.compile", "off", "off", True),
        ("fit.compile", "off", "on", False),
        ("model.hidden_dims", "[200, 100]", [200, 100], True),
        ("model.hidden_dims", "[200, 100]", [200], False),
        ("fit.patience", "null", None, True),
        ("fit.patience", "3", None, False),
    ],
)
def test_a_run_is_the_one_that_its_name_says(tmp_path, key, text, stored, same):
    section, option = key.split(".")
    several = plan(grid={key: [text]}, seeds=[3])
    folder = tmp_path / several.runs()[0].name
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({section: {"init_args": {option: stored}}, "seed": 3}))
    with nullcontext() if same else pytest.raises(InputError, match=key):
        check_member(tmp_path, several, several.runs()[0])
