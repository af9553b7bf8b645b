"""Texts in files, tables and folders as data."""

import logging

import pytest
import torch

from pyro_vae.data import Classes, Tokens, lengths_of, load_data
from pyro_vae.errors import CorruptFileError, InputError

LINES = [f"number {i} is {'odd' if i % 2 else 'even'}, is it not?" for i in range(40)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


def texts_of(data):
    """All texts, by part."""
    tokens = data.extra(Tokens)
    return {part: tokens.decode(split.tensors["x"]) for part, split in data.splits.items()}


def test_lines(file, caplog):
    with caplog.at_level(logging.INFO):
        data = load_data(str(file))
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 32, "validation": 4, "test": 4}
    assert data.train.shape == (10,) and data.train.tensors["x"].dtype == torch.int64 and data.train.integers
    vocabulary, texts = data.extra(Tokens), texts_of(data)
    learned = {word for text in texts["train"] for word in vocabulary.pieces(text)}
    assert vocabulary.num_tokens == 2 + len(learned)  # of the training part alone
    known = [" ".join(w if w in learned else "<unk>" for w in vocabulary.pieces(line)) for line in LINES]
    found = [" ".join(vocabulary.pieces(text)) for some in texts.values() for text in some]
    assert sorted(found) == sorted(known)
    assert f"{file!s} test: 4 words (" in caplog.text and "become token 1" in caplog.text
    lines = data.description.splitlines()
    assert lines[1] == (
        f"texts as words: {vocabulary.num_tokens} tokens with the end; 9.0 of them a text on average, at most 9 fit; "
        "0.00% of the training words are unknown"
    )
    limited = load_data(str(file), limit=3)  # the vocabulary is that of all
    assert [len(split) for split in limited.splits.values()] == [3, 3, 3]
    assert limited.extra(Tokens).digest == vocabulary.digest
    assert torch.equal(limited.test.tensors["x"], data.test.tensors["x"][:3])


def test_limits_of_length(tmp_path, caplog):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(["a b c d"] * 3 + ["a b"] * 27))
    with pytest.raises(
        InputError, match=r"a.txt (train|test|validation): 'a b c d' is too long: it has 4 .*, but 3 fit"
    ):
        load_data(str(path), max_length=3)
    assert load_data(str(path), max_length=6).train.shape == (7,)
    for how, count in (("cut", 30), ("drop", 27)):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            data = load_data(str(path), max_length=3, too_long=how)
        assert sum(map(len, data.splits.values())) == count and data.train.shape == (4,)
        lengths = torch.cat([lengths_of(split.tensors["x"]) for split in data.splits.values()])
        assert lengths.bincount().tolist() == ([0, 0, 27, 3] if how == "cut" else [0, 0, 27])
        said = "are cut to 3 tokens" if how == "cut" else "are left out, of more than 3 tokens"
        assert said in caplog.text
    with pytest.raises(InputError, match="no text has at most 1 tokens"):
        load_data(str(path), max_length=1, too_long="drop")


def test_empty_lines_are_counted(tmp_path, caplog):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\r\ntwo\n  \nthree".encode())
    with caplog.at_level(logging.INFO):
        data = load_data(str(tmp_path / "a.txt"))
    assert sorted(texts_of(data)["train"]) == ["one", "three", "two"]
    assert "2 empty lines are passed over, the first is line 2" in caplog.text


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", InputError, "holds no text"),
        (b"\n \n", InputError, "holds no text"),
        (b"good\nb\xffd\n", CorruptFileError, r"a.txt, line 2: not UTF-8"),
        (b"good\n\ngo\0d\n", CorruptFileError, r"a.txt, line 3: holds a zero byte"),
    ],
)
def test_broken_files(tmp_path, content, error, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(error, match=message):
        load_data(str(tmp_path / "a.txt"))


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(1 << 43)
    with pytest.raises(InputError, match=r"a.txt: would take 3 times"):
        load_data(str(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": "word"}, "unknown vocabulary 'word'. Did you mean 'words'"),
        ({"too_long": "cat", "max_length": 3}, "unknown too_long 'cat'. Did you mean 'cut'"),
        ({"too_long": "cut"}, "say max_length"),
        ({"max_length": 0}, "max_length must be a positive integer"),
        ({"column": "a"}, "column is not for these data"),
        ({"image_size": 3}, "image_size is not for these data, which are sequences of tokens"),
        ({"binarization": "static"}, "binarization is not for these data"),
        ({"observed_quadrants": 1}, "observed_quadrants is not for these data"),
    ],
)
def test_options_that_are_refused(file, options, message):
    with pytest.raises(InputError, match=message):
        load_data(str(file), **options)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_tables(tmp_path, suffix):
    path, by = tmp_path / f"a{suffix}", "," if suffix == ".csv" else "\t"
    rows = [["text", "stars", "more"], *([f'"so{by} it is {i}"', str(10 - i % 3), "x"] for i in range(20))]
    path.write_text("\n".join(by.join(row) for row in rows))
    data = load_data(str(path), label_column="stars", num_words=3)
    assert data.extra(Classes).names == ("8", "9", "10")  # by size
    for part, split in data.splits.items():
        for text, y in zip(texts_of(data)[part], split.tensors["y"].tolist(), strict=True):
            assert text.startswith(("so", "<unk>")) and 0 <= y <= 2
    assert "y" not in load_data(str(path)).train.tensors
    assert load_data(str(path), column="more").train.shape == (2,)
    assert load_data(str(path), column="stars", lower=False, min_count=2).extra(Tokens).num_tokens == 5


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "it has: nothing"),
        ("a,b\n1,2\n", {}, "say which column holds the texts, column=…; it has: a, b"),
        ("a,b\n1,2\n", {"column": "c"}, "column: it has no column 'c'; its first row names: a, b"),
        ("a,a\n1,2\n", {"column": "a"}, "it has several columns 'a'"),
        ("text\n", {}, "holds no rows"),
        ("text,b\nx,y\nx\n", {}, "line 3: has 1 columns, but the first row names 2"),
        ('text,b\n"x\ny",1\n ,2\n', {}, "line 4: the text in column 'text' is empty"),
        ("text,b\nx,\n", {"label_column": "b"}, "line 2: the label in column 'b' is empty"),
        ("text,b\nx,1\n", {"label_column": "c"}, "label_column: it has no column 'c'"),
        ('text\n"x" y\n', {}, "line 2: no CSV"),
        ("text\n" + "x" * 200_000, {}, "line 2: a column has more than 131,072 characters"),
    ],
)
def test_broken_tables(tmp_path, content, options, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        load_data(str(tmp_path / "a.csv"), **options)


def test_a_folder_of_one_text_a_file(tmp_path):
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_text(f"Text\n{i}.")
    data = load_data(str(tmp_path))
    assert [len(split) for split in data.splits.values()] == [16, 2, 2]
    texts, known = texts_of(data), {}
    for part, split in data.splits.items():
        known |= dict(zip(split.names, texts[part], strict=True))
    assert known.keys() == {f"{i:02}.txt" for i in range(20)}
    assert all(known[name] == f"text {int(name[:2])}." for name in data.train.names)
    (tmp_path / "20.txt").write_text(" ")
    with pytest.raises(InputError, match=r"20.txt is empty"):
        load_data(str(tmp_path))


def test_folders_of_parts_and_classes(tmp_path):
    for part in ("train", "test"):
        for kind in ("good", "bad"):
            (tmp_path / part / kind).mkdir(parents=True)
            for i in range(2):
                (tmp_path / part / kind / f"{i}.txt").write_text(f"a {kind} text")
    data = load_data(str(tmp_path))
    assert data.extra(Classes).names == ("bad", "good") and data.validation is None
    assert texts_of(data)["test"] == ["a bad text"] * 2 + ["a good text"] * 2
    assert data.test.tensors["y"].tolist() == [0, 0, 1, 1]
    (tmp_path / "train" / "good" / "x.png").write_bytes(b"")
    with pytest.raises(InputError):  # a folder of images then
        load_data(str(tmp_path))


def test_a_folder_of_a_file_a_part(tmp_path):
    (tmp_path / "train.txt").write_text("a b\nb a\n")
    (tmp_path / "test.txt").write_text("a c\n")
    data = load_data(str(tmp_path))
    assert texts_of(data) == {"train": ["a b", "b a"], "test": ["a <unk>"]}
    (tmp_path / "dev.txt").write_text("x")
    with pytest.raises(InputError, match=r"dev.txt: beside train.txt there may only be validation.txt and test.txt"):
        load_data(str(tmp_path))


def test_one_token_alone(tmp_path):
    (tmp_path / "a.txt").write_text("yes\nyes\n")
    data = load_data(str(tmp_path / "a.txt"))
    assert data.train.tensors["x"].tolist() == [[2, 0], [2, 0]] and data.extra(Tokens).num_tokens == 3
