"""Texts as tokens, and the file that a run keeps of them."""

import json
import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_vae.data import Data, Split, Tokens, Vocabulary, lengths_of
from pyro_vae.data.token_file import read_tokens, token_facts, write_tokens
from pyro_vae.data.tokenizer import normalized
from pyro_vae.errors import CorruptFileError, InputError

TEXTS = ['The cat, the dog: "go!"', "A dog's well-known 3.5 (or 4) bones", "the cat"]
KINDS = ("words", "characters", "byte-pairs")


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind):
    vocabulary = Vocabulary.learn(TEXTS, kind=kind)
    x = vocabulary.encode(TEXTS)
    assert x.dtype == torch.int64 and x.shape == (3, vocabulary.length)
    assert 1 < x.max() < vocabulary.num_tokens
    assert lengths_of(x).max() == vocabulary.length - 1 and (x[:, -1] == 0).all()
    assert vocabulary.decode(x) == [text.lower() for text in TEXTS]
    vocabulary.check(Data(Split({"x": x}, integers=True)))


def test_tokens_of_words_by_hand():
    vocabulary = Vocabulary.learn(TEXTS)
    # the (3), cat, dog… : by count, then by alphabet
    order = ["the", '"', "cat", "!", "(", ")", ",", "3.5", "4", ":", "a", "bones", "dog", "dog's", "go", "or"]
    order = sorted([*order, "well-known"], key=lambda word: (-{"the": 3, '"': 2, "cat": 2}.get(word, 1), word))
    assert vocabulary.num_tokens == 2 + len(order)
    numbers = {word: number for number, word in enumerate(order, 2)}
    words = ["the", "cat", ",", "the", "dog", ":", '"', "go", "!", '"']
    assert vocabulary.numbers(TEXTS[:1]) == [[numbers[word] for word in words]]
    assert vocabulary.decode(torch.tensor([[numbers["cat"], 0, numbers["dog"]]])) == ["cat"]


def test_unknown_words_are_counted_and_said(caplog):
    vocabulary = Vocabulary.learn(["a b b", "b c"], min_count=2)
    with caplog.at_level(logging.INFO):
        x = vocabulary.encode(["b new a", "<unk> b"])
    assert x.tolist() == [[2, 1, 1, 0], [1, 2, 0, 0]]
    assert "3 words" in caplog.text and "'new'" in caplog.text and "become token 1" in caplog.text
    assert vocabulary.decode(x) == ["b <unk> <unk>", "<unk> b"]
    assert "40.00% of the training words are unknown" in vocabulary.describe(
        Split({"x": vocabulary.encode(["a b b", "b c"])}, integers=True)
    )
    assert Vocabulary.learn(["a b b", "b c"], num_words=1).num_tokens == 3
    characters = Vocabulary.learn(["ab"], kind="characters")
    assert characters.decode(characters.encode(["bx"])) == ["b\ufffd"]
    pairs = Vocabulary.learn(TEXTS, kind="byte-pairs")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert pairs.decode(pairs.encode(["ü cat"])) == ["ü cat"]
    assert "1 characters ('ü')" in caplog.text and "by their bytes" in caplog.text


def test_upper_case():
    assert Vocabulary.learn(["A a"]).num_tokens == 3
    vocabulary = Vocabulary.learn(["A a"], lower=False)
    assert vocabulary.num_tokens == 4 and vocabulary.decode(vocabulary.encode(["A a"])) == ["A a"]


ANY = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: normalized(text).strip())


@given(ANY, st.sampled_from(["words", "characters"]), st.booleans())
def test_every_text_comes_back(text, kind, lower):
    """Decoding gives a text of the same tokens; of characters, the very text as it is normalized."""
    vocabulary = Vocabulary.learn([text], kind=kind, lower=lower)
    x = vocabulary.encode([text])
    shown = vocabulary.decode(x)
    assert vocabulary.pieces(shown[0]) == vocabulary.pieces(normalized(text, lower=lower))
    if kind == "characters":
        assert shown == [normalized(text, lower=lower)]
    assert "".join(shown[0].split()) == "".join(normalized(text, lower=lower).split())


def test_one_token_alone():
    vocabulary = Vocabulary.learn(["a a", "a"])
    assert (vocabulary.num_tokens, vocabulary.length) == (3, 3)
    assert vocabulary.encode(["a"]).tolist() == [[2, 0, 0]]


@pytest.mark.parametrize("kind", KINDS)
def test_limits(kind):
    vocabulary = Vocabulary.learn(TEXTS, kind=kind)
    with pytest.raises(InputError, match=r"'the cat the cat .*' is too long: it has \d+ tokens .*fit; shorten it"):
        vocabulary.encode(["the cat " * 30])
    with pytest.raises(InputError, match=r"'The cat.*too long: it has .* but 2 fit"):
        Vocabulary.learn(TEXTS, kind=kind, max_length=2)
    assert vocabulary.with_max_length(200).encode(["the cat " * 20]).shape == (1, 201)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no texts"),
        (["a", " \n"], {}, "text 2 of 2 is empty"),
        (["a", 3], {}, "text 2 of 2 is no text but int"),
        (["\ud800"], {}, "halves of characters"),
        ("a text", {}, "must be a list of texts"),
        (["a"], {"kind": "word"}, "unknown vocabulary 'word'. Did you mean 'words'?"),
        (["a"], {"max_length": 0}, "max_length must be a positive integer, got 0"),
        (["a"], {"max_length": 10**6}, "max_length must be at most 65,536"),
        (["a"], {"num_words": 2**30}, "num_words must be at most"),
        (["a"], {"min_count": 0}, "min_count must be a positive integer"),
        (["a"], {"kind": "byte-pairs", "num_words": 100}, "num_words of byte pairs must be at least 257"),
        (["a"], {"kind": "byte-pairs", "lower": False}, "leave out min_count and lower"),
    ],
)
def test_refusals(texts, options, message):
    with pytest.raises(InputError, match=message):
        Vocabulary.learn(texts, **options)


def test_what_is_no_token():
    vocabulary = Vocabulary.learn(["a b"])
    for tokens in ([[2, 4, 0]], [[-1, 0, 0]]):
        with pytest.raises(InputError, match="text 1 has numbers outside 0 … 3"):
            vocabulary.decode(torch.tensor(tokens))
    with pytest.raises(InputError, match="must be integers"):
        vocabulary.decode(torch.rand(2, 3))
    for rows, message in (
        ([[2, 3, 0], [2, 4, 0]], "datum 1 holds numbers outside"),
        ([[2, 0, 3]], "datum 0 has tokens behind its end"),
        ([[2, 3, 3]], "datum 0 has no end"),
    ):
        with pytest.raises(InputError, match=message):
            Data(Split({"x": torch.tensor(rows)}, integers=True), extras=(vocabulary,))
    with pytest.raises(InputError, match="int64 of shape"):
        Data(Split({"x": torch.zeros(2, 4, dtype=torch.int64)}, integers=True), extras=(vocabulary,))


def test_tokens_are_not_scaled():
    split = Split({"x": torch.tensor([[2, 250, 0], [2, 300, 0]])}, integers=True)
    assert split.mean().tolist() == [2.0, 275.0, 0.0]
    assert split.batch(slice(None))["x"].dtype == torch.int64 and split.batch(slice(None))["x"].max() == 300


@pytest.mark.parametrize("kind", KINDS)
def test_file(kind, tmp_path):
    vocabulary = Vocabulary.learn(TEXTS, kind=kind)
    write_tokens(tmp_path / "tokens.json", vocabulary)
    found = read_tokens(tmp_path / "tokens.json", token_facts(vocabulary))
    assert type(found) is type(vocabulary) and found.digest == vocabulary.digest
    assert (found.num_tokens, found.length) == (vocabulary.num_tokens, vocabulary.length)
    assert torch.equal(found.encode(TEXTS), vocabulary.encode(TEXTS))
    other = Vocabulary.learn([*TEXTS, "more of it"], kind=kind)
    assert other.digest != vocabulary.digest
    with pytest.raises(CorruptFileError, match="not the one that the run was begun with"):
        read_tokens(tmp_path / "tokens.json", token_facts(other))
    with pytest.raises(InputError, match="no such file"):
        read_tokens(tmp_path / "none.json")


def with_(**values):
    plain = {"format": "pyro_vae tokens 1", **Vocabulary.learn(TEXTS).plain(), **values}
    return json.dumps(plain)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "[" * 10**6,
        "\x00",
        with_(format="other"),
        with_(kind="pickle"),
        with_(kind=["words"]),
        with_(length=0),
        with_(length=1),
        with_(length=2**40),
        with_(length=True),
        with_(lower=1),
        with_(tokens="abc"),
        with_(tokens=["a", "a"]),
        with_(tokens=["a", ""]),
        with_(tokens=["a", "\ud800"]),  # which nothing could print
        with_(kind="melody", bars=10**9, tempo=120),
        with_(kind="melody", bars=2, tempo=10**400),
        with_(tokens=["a", 3]),
        with_(tokens={"a": 1}),
        with_(kind="byte-pairs"),
        with_(kind="byte-pairs", tokenizer={"format": "pyro_vae tokenizer 1", "characters": "a", "tokenizer": {}}),
    ],
)
def test_hostile_files(content, tmp_path):
    (tmp_path / "tokens.json").write_text(content)
    with pytest.raises(CorruptFileError, match="no usable vocabulary"):
        read_tokens(tmp_path / "tokens.json")


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "tokens.json").open("wb") as file:
        file.truncate(1 << 27)
    with pytest.raises(CorruptFileError, match="larger than 64 MiB"):
        read_tokens(tmp_path / "tokens.json")


def test_a_file_whose_lists_would_fill_the_memory_is_not_read(tmp_path, monkeypatch):
    write_tokens(tmp_path / "tokens.json", Vocabulary.learn(TEXTS))
    monkeypatch.setattr("pyro_vae.runtime.memory_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"tokens\.json: would take 3 times"):
        read_tokens(tmp_path / "tokens.json")


def test_tokens_of_ones_own_kind_are_refused_before_a_run_keeps_them():
    class Own(Tokens):
        kind = "words"
        encode = decode = plain = from_plain = None

    with pytest.raises(InputError, match="Own: a run keeps tokens of these kinds alone: words, characters"):
        token_facts(Own())


def test_lengths():
    x = torch.tensor([[[1, 0, 2], [0, 0, 0]], [[1, 2, 3], [1, 2, 0]]])
    assert lengths_of(x).tolist() == [[1, 0], [3, 2]]
