"""The dataset ``tunes``, of a corpus made here."""

import json
import random

import numpy as np
import pytest
import torch

from pyro_vae.data import Melody, load_data
from pyro_vae.data.music.windows import in_any_key, plain, same_tunes, windows
from pyro_vae.data.sources import tunes
from pyro_vae.errors import CorruptFileError, InputError

LETTERS = "CDEFGABcdefgab"
COMMON = ("GABcdedc", "BAGABGGG")  # with which all tunes begin; too little to make them one


def tune(generator, number, metre="C|", bars=8, key="G"):
    body = "|".join([*COMMON, *("".join(generator.choices(LETTERS, k=8)) for _ in range(bars - len(COMMON)))])
    return f"X:{number}\nT:Tune {number}\nM:{metre}\nL:1/8\nK:{key}\n{body}|\n\n"


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Twenty tunes, one of them in another key in the other collection too, a waltz, and one that is not understood."""
    generator = random.Random(0)
    texts = [tune(generator, i) for i in range(20)]
    body = texts[3].splitlines()[-2].lower().replace("b", "a")
    texts[3] = texts[3].replace(texts[3].splitlines()[-2], body)
    fifth = body.translate(str.maketrans("cdefga", "gabcde"))  # G major a fifth higher, in which there is no b
    fifth = "".join(c + "'" * (c in "cde") for c in fifth)
    other = f"X:1\nT:By another name -- Reel\nM:4/4\nL:1/8\nK:D\n{fifth}\n\n"
    folders = [tmp_path / "corpus" / name for name in tunes.COLLECTIONS]
    for folder, content in zip(folders, ("".join(texts), other), strict=True):
        folder.mkdir(parents=True)
        waltz = "X:90\nT:A waltz\nM:3/4\nL:1/8\nK:G\nGABcde|\n\n"
        (folder / "a.abc").write_text(content + waltz + waltz.replace("GABcde", "&"))
    monkeypatch.setattr(tunes, "_corpus", lambda: folders)
    return folders


def title(name):
    return name.rsplit(",", 1)[0]


def test_windows_splits_and_names(corpus, caplog):
    with caplog.at_level("INFO"):
        data = load_data("tunes")
    assert "21 tunes are read, once" in caplog.text and "2 are in other metres, and 2 left out" in caplog.text
    melody = data.extra(Melody)
    assert melody == Melody(2) and "melodies of 2 bars, 16 steps a bar" in data.description
    seen, titles = set(), {}
    for part, split in data.splits.items():
        x = split.tensors["x"]
        assert x.dtype == torch.int64 and split.shape == (32,) and split.integers
        assert x.min() >= 1 and torch.equal(melody.encode(melody.decode(x)), x)
        keys = {in_any_key(row) for row in melody.events(x)}
        assert len(keys) == len(x) and not keys & seen  # none twice, none in two parts
        seen |= keys
        titles[part] = {title(name) for name in split.names}
    assert not titles["train"] & titles["test"] and not titles["train"] & titles["validation"]
    # each of 8 bars has 7, of which one is all tunes'; the one that is there twice begins otherwise
    assert len(data.train) + len(data.validation) + len(data.test) == 19 * 6 + 1 + 7
    with_both = [part for part, names in titles.items() if "Tune 3" in names or "By another name -- Reel" in names]
    assert len(with_both) == 1
    name, row = data.train.names[0], data.train.tensors["x"][0]
    number, bar = title(name).split()[1], int(name.rsplit(" ", 1)[1])
    text = corpus[0].joinpath("a.abc").read_text().split(f"T:Tune {number}\n")[1].splitlines()[3]
    assert (row[::2] < 129).all() and (row[1::2] == 129).all()  # eighths
    first = text.split("|")[bar - 1][0]
    expected = {"C": 60, "D": 62, "E": 64, "F": 66, "G": 67, "A": 69, "B": 71}
    assert row[0] - 1 == expected[first.upper()] + 12 * first.islower() + (first in "Ff")


def test_strides_lengths_and_transpositions(corpus):
    data = load_data("tunes", bars=4, stride=2, transpose=2, limit=10)
    assert data.train.shape == (64,) and len(data.train) == 10
    assert {int(name.rsplit(" ", 1)[1]) % 2 for name in data.train.names} == {1}
    variants = data.train.tensors["x"]
    assert variants.shape == (10, 5, 64)
    moved = variants - variants[:, :1]
    notes = variants[:, 0] < 129
    for shift, rows in zip((0, 1, -1, 2, -2), moved.unbind(1), strict=True):
        assert (rows[notes] == shift).all() and (rows[~notes] == 0).all()
    drawn = data.train.batch(torch.zeros(100, dtype=torch.long), torch.Generator().manual_seed(0))["x"]
    assert drawn.dtype == torch.int64 and len({tuple(row) for row in drawn.tolist()}) == 5
    assert torch.equal(data.train.batch(slice(0, 3))["x"], variants[:3, 0])  # as they are, in evaluation
    assert data.test.tensors["x"].dim() == 2
    for options, message in (
        ({"bars": 65}, "bars must be an integer from 1 to 64"),
        ({"transpose": 13}, "transpose must be"),
        ({"bars": 9}, "no tune has 9 bars"),
        ({"stride": 0}, "stride must be a positive integer"),
        ({"binarization": "static"}, "binarization"),
    ):
        with pytest.raises(InputError, match=message):
            load_data("tunes", **options)


def test_what_was_read_is_kept(corpus, empty_home, monkeypatch):
    first = load_data("tunes").train.tensors["x"]
    monkeypatch.setattr(tunes, "_corpus", lambda: pytest.fail("read again"))
    assert torch.equal(load_data("tunes").train.tensors["x"], first)
    path = empty_home / ".cache" / "pyro_vae" / tunes.CACHE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFileError, match=r"damaged .*; remove it, and it is made anew"):
        load_data("tunes")
    with path.open("wb") as file:
        np.savez(file, recipe=np.array(json.dumps([tunes.READER, *tunes.COLLECTIONS])), titles=np.array(["a"]))
    with pytest.raises(CorruptFileError, match="damaged"):
        load_data("tunes")


def test_without_music21_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(tunes, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'pyro-vae\[music\]'"):
        load_data("tunes")


def test_windows_begin_with_the_note_that_sounds_and_have_no_bar_of_rest():
    events = np.full(64, 129)
    events[12:20] = [60] + [128] * 7
    events[40] = 62
    found = dict(windows(events, 1, 1))
    assert sorted(found) == [0, 1, 2] and found[1][:5].tolist() == [60, 128, 128, 128, 129]
    assert [bar for bar, _ in windows(events, 2, 1)] == [0, 1]
    assert in_any_key(np.array([60, 128, 129, 64])) == in_any_key(np.array([70, 128, 129, 74]))
    assert in_any_key(np.array([60, 128, 129, 64])) != in_any_key(np.array([60, 129, 129, 64]))


def test_settings_of_one_tune_are_found():
    generator = np.random.default_rng(0)
    a, b, c = (generator.integers(60, 80, 8 * 16) for _ in range(3))
    mixed = np.concatenate([b[: 4 * 16] + 5, c[: 4 * 16]])  # half of b, in another key, and half of c
    assert same_tunes([a, b, c], ["a", "b", "c"]).tolist() == [0, 1, 2]
    assert same_tunes([a, b, c, mixed], ["a", "b", "c", "d"]).tolist() == [0, 1, 1, 1]
    assert same_tunes([a, b], ["The Boys' Hornpipe", "Boys Hornpipe, The -- Reel"]).tolist() == [0, 0]
    assert plain("The Miller's Maid") == plain("Miller’s Maid, The -- Reel") == "millersmaid"


@pytest.mark.slow
def test_the_tunes_of_music21_are_what_the_description_says():
    data = load_data("tunes")
    sizes = [len(split) for split in data.splits.values()]
    assert f"{sizes[0]:,} train / {sizes[1]:,} validation / {sizes[2]:,} test" in tunes_description()
    assert not {title(n) for n in data.train.names} & {title(n) for n in data.test.names}


def tunes_description():
    from pyro_vae.data import dataset_names

    return dataset_names()["tunes"]
