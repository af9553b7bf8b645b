"""Sources register themselves: a new dataset is one function, and its options are known everywhere."""

import pytest
import torch

from pyro_vae.cli import main
from pyro_vae.data import Classes, Data, RawData, Scenes, Sound, Split, dataset_names, load_data, registry, source
from pyro_vae.errors import InputError


@pytest.fixture
def ramps(monkeypatch):
    """A new dataset; what its loader was called with."""
    monkeypatch.setattr(registry, "_sources", {each.name: each for each in registry.sources()})
    called = []

    @source("ramps", "grey ramps, 8x8")
    def load_ramps(root, image_size: int | None, *, levels: int = 8, down: bool = False) -> RawData:
        """Load ramps.

        Args:
            image_size: pixels a side.
            levels: how many grey levels
                there are.
            down: from white to black.
        """
        called.append((root, image_size, levels, down))
        x = (torch.arange(8) * levels // 8).mul(255).div(levels).to(torch.uint8).expand(30, 1, 8, 8)
        x = x.flip(3) if down else x
        y = torch.arange(30) % 2
        parts = {"train": {"x": x[:20], "y": y[:20]}, "test": {"x": x[20:], "y": y[20:]}}
        return RawData(parts, captions={"train": ("up",) * 20, "test": ("up",) * 10}, extras=(Classes(("a", "b")),))

    return called


def test_a_new_dataset_is_one_function(ramps, tmp_path):
    assert dataset_names()["ramps"] == "grey ramps, 8x8" and dataset_names().keys() > {"mnist5k", "ramps"}
    data = load_data("ramps", root=tmp_path, limit=12)
    assert ramps == [(tmp_path, None, 8, False)] and list(data.splits) == ["train", "test"]
    assert [len(split) for split in data.splits.values()] == [12, 10] and data.train.captions == ("up",) * 12
    assert data.extra(Classes) == Classes(("a", "b")) and data.extra(Sound) is None
    lines = ["ramps: 12 train / 10 test (at most 12 of each)", "not binarized", "captions, such as 'up'"]
    assert data.description.split("\n") == lines


def test_its_options_are_taken(ramps):
    data = load_data("ramps", image_size=4, levels=2, down=True, binarization="threshold")
    assert ramps == [(None, 4, 2, True)]
    assert data.train.shape == (1, 4, 4) and data.train.tensors["x"].dtype == torch.bool
    assert load_data("ramps", levels=None).train.shape == (1, 8, 8) and ramps[1] == (None, None, 8, False)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "ramps",
            {"level": 3},
            "ramps: level is not for these data, which have levels, down; .* Did you mean 'levels'?",
        ),
        ("ramps", {"scenes": 3}, "ramps: scenes is not for these data, which have levels, down; leave it out"),
        ("ramps", {"binarisation": "none"}, "Did you mean 'binarization'?"),
        ("mnist5k", {"levels": 3}, "mnist5k: levels is not for these data, which have no options of their own"),
        ("ramp", {}, "unknown dataset 'ramp'. Did you mean 'ramps'?"),
    ],
)
def test_what_it_does_not_have_is_refused(ramps, name, options, message):
    with pytest.raises(InputError, match=message):
        load_data(name, **options)
    assert ramps == []


@pytest.mark.parametrize("wrong", ["no_default: int", "no_type=3", "limits: int = 3, binarization: str = 'none'"])
def test_loaders_that_are_refused(ramps, wrong):
    code = f"@source('wrong', 'nothing')\ndef load_wrong(*, {wrong}): ..."
    with pytest.raises(InputError, match=r"wrong: '(no_default|no_type|binarization)' is no option of its own"):
        exec(code, {"source": source})
    assert "wrong" not in dataset_names()


def test_a_source_of_paths(ramps, tmp_path):
    @source("a text file", "one datum a line", reads=lambda path: path.suffix == ".txt")
    def load_lines(path, *, width: int = 3) -> RawData:
        lines = [line.encode().ljust(width)[:width] for line in path.read_text().splitlines()]
        return RawData({"train": {"x": torch.tensor([list(line) for line in lines], dtype=torch.uint8)}})

    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert "a text file" not in dataset_names()
    assert load_data(str(tmp_path / "a.txt"), width=5).train.tensors["x"][1].tolist() == list(b"two  ")


def test_its_options_are_known_to_configurations_and_the_command_line(ramps, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["datasets"]) == 0
    assert "of ramps: how many grey levels there are" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "mine.yaml").write_text(
        "data: {name: ramps, levels: 4}\nmodel: {class_path: VAE, init_args: {likelihood: Gaussian}}\n"
        "guide: GaussianGuide\nfit: {epochs: 1, batch_size: 10, device: cpu, compile: 'off'}\n"
    )
    assert main(["train", "mine.yaml", "--out", "run", "--data.down", "true"]) == 0
    assert set(ramps) == {(None, None, 4, True)}
    written = (tmp_path / "run" / "config.yaml").read_text()
    assert "  levels: 4\n" in written and "  down: true\n" in written and "scenes" not in written
    assert main(["evaluate", "run", "--particles", "2"]) == 0
    capsys.readouterr()
    assert main(["train", "vae", "--out", "other", "--data.level", "3"]) == 2
    assert "unknown option --data.level. Did you mean --data.levels?" in capsys.readouterr().err
    assert main(["train", "vae", "--out", "other", "--data.levels", "3"]) == 1
    assert "mnist5k: levels is not for these data" in capsys.readouterr().err


def test_configurations_that_say_all_options_at_their_defaults(tmp_path):
    """As those of older runs do."""
    small = ["--data.limit", "20", "--fit.epochs", "1", "--fit.batch_size", "10", "--fit.device", "cpu"]
    assert main(["train", "vae", "--out", str(tmp_path / "run"), "--fit.compile", "off", *small]) == 0
    file = tmp_path / "run" / "config.yaml"
    unset = "".join(f"  {option}: null\n" for option in ("sample_rate", "length", "objects", "scenes", "layout"))
    assert "encoding" not in file.read_text()
    file.write_text(file.read_text().replace("data:\n", f"data:\n{unset}  encoding: linear\n"))
    assert main(["evaluate", str(tmp_path / "run"), "--particles", "2"]) == 0
    file.write_text(file.read_text().replace("encoding: linear", "encoding: mu_law"))
    assert main(["evaluate", str(tmp_path / "run"), "--particles", "2"]) == 1


def test_extras_are_checked_against_the_data():
    split = Split({"x": torch.zeros(3, 3, 8, 8, dtype=torch.uint8)})
    bitmaps = torch.zeros(1, 3, 6, 6, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"scenes have shape \(3, 12, 12\), but one x has shape \(3, 8, 8\)"):
        Data(split, extras=(Scenes(("key",), bitmaps),))
    with pytest.raises(InputError, match="two extras of one kind"):
        Data(split, extras=(Classes(("a",)), Classes(("b",))))
    scenes = Scenes(("key",), bitmaps[..., :4, :4])
    assert Data(split, extras=(Classes(("a",)), scenes)).extra(Scenes) is scenes
