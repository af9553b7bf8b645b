"""The command line on a run of melodies: files in, files out."""

import pytest
from command_line import run as pyro_vae
from command_line import write
from PIL import Image

from pyro_vae.data import Melody, RawData, registry, source
from pyro_vae.data.music.events import Note
from pyro_vae.data.music.midi import read_midi, write_midi
from pyro_vae.runs import Run

SIZES = {"embedding_dim": 4, "hidden_dim": 8}
LIKELIHOOD = {
    "class_path": "pyro_vae.likelihoods.RecurrentTokens",
    "init_args": {**SIZES, "features": 4, "ends": False},
}
ENCODER = {"class_path": "pyro_vae.networks.RecurrentEncoder", "init_args": {**SIZES, "outputs": 4}}
RECIPE = {
    "data": {"name": "scales"},
    "model": {
        "class_path": "pyro_vae.models.VAE",
        "init_args": {"latent_dim": 2, "hidden_dims": [], "likelihood": LIKELIHOOD},
    },
    "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"encoder": ENCODER}},
    "fit": {"epochs": 1, "batch_size": 10, "device": "cpu"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on scales of one bar, trained for an epoch."""
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("melodies")
    patch.setattr(registry, "_sources", {each.name: each for each in registry.sources()})

    @source("scales", "one bar each")
    def load_scales() -> RawData:
        """Load them."""
        melody = Melody(bars=1)
        names = ("C4", "D4", "E4", "F4", "G4", "A4", "B4", "C5")
        x = melody.encode([" ".join(f"{names[(i + j) % 8]} -" for j in range(8)) for i in range(20)])
        return RawData({"train": {"x": x}, "test": {"x": x[:8]}}, extras=(melody,))

    assert pyro_vae("train", write(folder, "scales.yaml", RECIPE), "--out", folder / "run") == 0
    yield folder / "run"
    patch.undo()


def test_melodies_are_kept_drawn_and_written(run):
    assert Run(run).tokens == Melody(bars=1)
    assert pyro_vae("sample", run, "--num", 3) == 0
    written = sorted(file.name for file in (run / "samples").iterdir())
    assert written == [f"00{i}.{kind}" for i in range(3) for kind in ("mid", "wav")]
    for i in range(3):
        read_midi(run / "samples" / f"00{i}.mid")
    with Image.open(run / "figures" / "samples.png") as picture:
        assert picture.size[0] > 100


def test_files_are_sent_through(run, tmp_path, capsys):
    mine, other, waltz = (tmp_path / name for name in ("mine.mid", "other.abc", "waltz.abc"))
    write_midi(mine, [Note(60, 0, 8), Note(64, 8, 8)])
    other.write_text("X:1\nT:Other\nM:4/4\nL:1/8\nK:C\nCDEFGABc|\n")
    waltz.write_text("X:1\nT:A waltz\nM:3/4\nL:1/8\nK:C\nCDEFGA|\n")
    assert pyro_vae("reconstruct", run, mine, other) == 0
    out = capsys.readouterr().out
    assert "C4 - - - - - - - E4 - - - - - - -" in out and "C4 - D4 - E4 -" in out
    assert pyro_vae("interpolate", run, mine, other, "--steps", 3) == 0
    capsys.readouterr()
    assert pyro_vae("reconstruct", run, waltz) == 1
    assert "waltz.abc: no tune that can be read (A waltz: is in 3/4" in capsys.readouterr().err


def test_melodies_are_measured(run, capsys):
    assert pyro_vae("evaluate", run, "--particles", 2) == 0
    out = capsys.readouterr().out
    assert "tokens right, given those before" in out and "perplexity" in out and "bits per dimension" not in out
