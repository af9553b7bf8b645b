"""Captions as tokens."""

import builtins
import itertools
import json
import random

import pytest
import torch

from pyro_vae.data import Data, Split, Tokenizer, with_text
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.training.batches import EpochBatches

CAPTIONS = [
    f"{a} {r} {b}"
    for a, r, b in itertools.product(("red bar", "cyan", "lemon"), ("above", "under"), ("pink", "grey bar"))
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CAPTIONS, vocabulary_size=300)


def test_there_and_back(tokenizer):
    text = tokenizer.encode(CAPTIONS)
    assert text.dtype == torch.int64 and text.shape == (12, tokenizer.text_length)
    assert text.max() < tokenizer.vocabulary_size <= 300
    assert tokenizer.decode(text) == CAPTIONS
    assert len(set(map(tuple, text.tolist()))) == 12
    longest = int((text != 0).sum(1).max())
    assert tokenizer.text_length == 2 * longest
    ends = (text != 0).long().diff(dim=1)
    assert (ends <= 0).all() and (text[:, 0] != 0).all()  # padded at the end only


def test_words_are_found_wherever_they_are(tokenizer):
    assert torch.equal(tokenizer.encode(["  Cyan ABOVE\npink "]), tokenizer.encode(["cyan above pink"]))
    first, second = tokenizer.encode(["cyan", "pink"])[:, 0].tolist()
    assert tokenizer.encode(["pink cyan"])[0, :2].tolist() == [second, first]  # each is one token by now


def test_merges_are_the_librarys(tokenizer):
    for caption in [*CAPTIONS, "unheard-of words, and numbers 1234"]:
        ours = [i for word in tokenizer._words(caption) for i in tokenizer._pairs.merge(word, 0.0, random.Random(0))]
        assert ours == tokenizer.library.encode(caption).ids


def test_what_dropout_leaves(tokenizer):
    pairs, word = tokenizer._pairs, tokenizer._words("grey")[0]
    characters = [pairs.numbers[c] for c in word]
    generator = random.Random(0)
    assert pairs.merge(word, 1.0, generator) == characters  # all merges left out
    drawn = [tuple(pairs.merge(word, 0.5, generator)) for _ in range(200)]
    assert len(set(drawn)) > 3
    names = {number: token for token, number in pairs.numbers.items()}
    assert all("".join(names[i] for i in tokens) == word for tokens in drawn)
    # of a word of one pair the merge is left out with the given probability
    pair = next(a + b for (a, b) in pairs.ranks if len(a) == len(b) == 1)
    share = sum(len(pairs.merge(pair, 0.3, generator)) == 2 for _ in range(4000)) / 4000
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5


def test_variants(tokenizer):
    variants = tokenizer.encode_variants(CAPTIONS, 5, dropout=0.3, seed=1)
    assert variants.shape == (12, 5, tokenizer.text_length) and variants.dtype == torch.int32
    assert torch.equal(variants[:, 0].long(), tokenizer.encode(CAPTIONS))  # the first is the usual one
    assert all(tokenizer.decode(variants[:, i]) == CAPTIONS for i in range(5))
    assert (variants[:, 1:] != variants[:, :1]).any()
    assert torch.equal(variants, tokenizer.encode_variants(CAPTIONS, 5, dropout=0.3, seed=1))
    assert not torch.equal(variants, tokenizer.encode_variants(CAPTIONS, 5, dropout=0.3, seed=2))
    tight = Tokenizer.train(CAPTIONS, vocabulary_size=300, text_length=int((variants[:, 0] != 0).sum(1).max()))
    assert tight.decode(tight.encode_variants(CAPTIONS, 3, dropout=1.0)[:, 2]) == CAPTIONS  # they do not fit


def test_data_with_text():
    tokenizer = Tokenizer.train(CAPTIONS, vocabulary_size=300, text_length=40)
    x = torch.arange(12.0).unsqueeze(1)
    data = Data(Split({"x": x}, captions=CAPTIONS), Split({"x": x[:2]}, captions=("cyan", "Ünder")))
    plain = with_text(data, tokenizer)
    text = plain.train.batch(torch.tensor([3, 1]))["text"]
    assert text.dtype == torch.int64 and torch.equal(text, tokenizer.encode([CAPTIONS[3], CAPTIONS[1]]))
    assert tokenizer.decode(plain.validation.batch(slice(0, 2))["text"]) == ["cyan", "ünder"]  # all bytes have tokens
    varied = with_text(data, tokenizer, dropout=0.5, num_variants=6)
    assert varied.train.tensors["text"].shape[:2] == (12, 6) and varied.validation.tensors["text"].shape[1] == 1
    seen = [EpochBatches(varied.train, 12, seed=0).batch(epoch, 0) for epoch in range(5)]
    for batch in seen:
        assert batch["text"].dtype == torch.int64
        assert tokenizer.decode(batch["text"]) == [CAPTIONS[int(i)] for i in batch["x"][:, 0]]
    of_first = [batch["text"][batch["x"][:, 0] == 0] for batch in seen]
    assert any(not torch.equal(text, of_first[0]) for text in of_first)  # drawn anew
    again = EpochBatches(varied.train, 12, seed=0).batch(3, 0)
    assert torch.equal(again["text"], seen[3]["text"])  # a function of seed, epoch and index
    whole = torch.cat([batch["text"] for batch in varied.train.batches(5)])
    assert torch.equal(whole, tokenizer.encode(CAPTIONS))  # to measure with, the usual one
    assert torch.equal(varied.train.subset(2).to("cpu").batch(slice(0, 2))["text"], whole[:2])
    with pytest.raises(InputError, match="have no captions"):
        with_text(Data(Split({"x": x})), tokenizer)
    with pytest.raises(InputError, match=r"must be integers \(12, M"):
        data.train.with_variants({"text": torch.zeros(11, 1, 3, dtype=torch.long)})


def test_the_paddings_name_is_text_like_any_other():
    caption = "cyan <pad> pink"
    tokenizer = Tokenizer.train([caption, *CAPTIONS], vocabulary_size=300, text_length=20)
    for text in (tokenizer.encode([caption]), *tokenizer.encode_variants([caption], 3, dropout=0.2).unbind(1)):
        words = text[0, : int((text != 0).sum())]
        assert (words > 0).all() and tokenizer.decode(text) == [caption]


def test_bad_text(tokenizer):
    with pytest.raises(InputError, match="text 2 of 2 is empty"):
        tokenizer.encode(["cyan", " \n"])
    with pytest.raises(InputError, match=rf"is too long: it has 40 tokens, but {tokenizer.text_length} fit"):
        tokenizer.encode(["cyan " * 40])
    with pytest.raises(InputError, match=r"'cyan ☃ ß' has 'ß', '☃', which is in no caption of the training data"):
        tokenizer.encode(["cyan ☃ ß"])
    assert tokenizer.decode(tokenizer.encode(["☃"], new_characters=True)) == ["☃"]
    with pytest.raises(InputError, match="vocabulary_size must be at least 257"):
        Tokenizer.train(CAPTIONS, vocabulary_size=256)
    with pytest.raises(InputError, match="no captions"):
        Tokenizer.train([])
    with pytest.raises(InputError, match="but 1 fit"):
        Tokenizer.train(CAPTIONS, text_length=1)
    with pytest.raises(InputError, match="text 1 of 1 is empty"):
        Tokenizer.train([""])
    with pytest.raises(InputError, match="dropout must be from 0 to 1"):
        tokenizer.encode_variants(CAPTIONS, 2, dropout=1.5)
    with pytest.raises(InputError, match="num_variants"):
        tokenizer.encode_variants(CAPTIONS, 0)


def test_saved_and_loaded(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    again = Tokenizer.load(path)
    assert torch.equal(again.encode(CAPTIONS), tokenizer.encode(CAPTIONS))
    assert (again.text_length, again.vocabulary_size) == (tokenizer.text_length, tokenizer.vocabulary_size)
    assert again.characters == tokenizer.characters
    assert torch.equal(again.encode_variants(CAPTIONS, 3), tokenizer.encode_variants(CAPTIONS, 3))
    with pytest.raises(InputError, match="no such file"):
        Tokenizer.load(tmp_path / "other.json")
    body = json.loads(path.read_text())
    for damaged in ("{", "[]", json.dumps(body | {"format": "x"}), json.dumps(body | {"tokenizer": {}})):
        path.write_text(damaged)
        with pytest.raises(CorruptFileError, match=r"tokenizer.json: no usable tokenizer"):
            Tokenizer.load(path)


SPOILED = {  # what of the library's own part of a file is replaced by what
    "padding": ("padding", {"strategy": {"Fixed": 2**40}, "direction": "Right", "pad_to_multiple_of": None}),
    "expression": ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}),
    "number": ("model/vocab/a", 10**9),
    "number twice": ("model/vocab/a", 5),
    "negative": ("model/vocab/a", -1),
    "no number": ("model/vocab/a", True),
    "no pad": ("model/vocab/<pad>", 10**4),
    "vocabulary": ("model/vocab", {str(i): i for i in range(300)}),
    "few": ("model/vocab", {"<pad>": 0}),
    "merges": ("model/merges", [["a", "b", "c"]]),
    "merge of others": ("model/merges", [["a", "zz"]]),
    "merge of numbers": ("model/merges", [[1, 2]]),
    "model": ("model", []),
}
TAKEN = ("padding", "expression")  # not looked at


@pytest.mark.parametrize("what", SPOILED)
def test_of_a_file_only_vocabulary_and_merges_are_taken(what, tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    body = json.loads(path.read_text())
    key, value = SPOILED[what]
    *sections, last = key.split("/")
    at = body["tokenizer"]
    for section in sections:
        at = at[section]
    at[last] = value
    path.write_text(json.dumps(body))
    if what in TAKEN:
        again = Tokenizer.load(path)
        assert again.library.to_str() == tokenizer.library.to_str()
        return
    with pytest.raises(CorruptFileError, match=r"tokenizer.json: no usable tokenizer \((a |the |token 0)"):
        Tokenizer.load(path)


@pytest.mark.parametrize("entry", [{"text_length": 2**40}, {"text_length": 1.5}, {"characters": ["a"]}])
def test_sizes_in_a_file(entry, tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | entry))
    with pytest.raises(CorruptFileError, match="text_length must be an integer from 1 to 65,536"):
        Tokenizer.load(path)


def test_without_the_library(monkeypatch, tmp_path):
    def refuse(name, *args, **kwargs):
        if name == "tokenizers":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"pip install 'pyro-vae\[text\]'"):
        Tokenizer.train(CAPTIONS)
