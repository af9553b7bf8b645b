"""The verses of the Bible: their file's format, and what becomes of them."""

import pytest

from pyro_vae.data import Tokens, load_data
from pyro_vae.data.sources import verses
from pyro_vae.errors import CorruptFileError, InputError

HERE = (verses.SYSTEM / verses.NAME).is_file()
CHAPTERS = [f"{book}{chapter}" for book in ("Ge", "1Jo") for chapter in range(1, 16)]
LINES = [f"{chapter}:{v} In verse {v} of {chapter}, it is said." for chapter in CHAPTERS for v in range(1, 9)]


def packed(content):
    """Content as ``compress`` packs it, by a table of all texts that came before; cleared now and then."""
    bits, begin, width, count = [], 0, 9, 0  # count: codes since the table was cleared
    table, text = {bytes([i]): i for i in range(256)}, b""

    def group():
        nonlocal begin
        bits.extend([0] * (-(len(bits) - begin) % (8 * width)))
        begin = len(bits)

    def put(code):
        nonlocal width, count
        bits.extend(code >> i & 1 for i in range(width))
        count += 1
        if 256 + count >= 1 << width and width < 16 and code != 256:  # what the reader's table has by then
            group()
            width += 1

    cleared = False
    for place, value in enumerate(content):
        longer = text + bytes([value])
        if longer in table:
            text = longer
            continue
        put(table[text])
        table[longer], text = 256 + count, bytes([value])
        if place > len(content) // 2 and not cleared:
            put(table[text])
            put(256)
            group()
            cleared, table, text, width, count = True, {bytes([i]): i for i in range(256)}, b"", 9, 0
    if text:
        put(table[text])
    bits += [0] * (-len(bits) % 8)
    return bytes(sum(bits[i + j] << j for j in range(8)) for i in range(0, len(bits), 8))


def bible(content, size=4096):
    """A file of windows of one size, as the Bible Retrieval System has it."""
    pieces = [packed(content[i : i + size]) for i in range(0, len(content), size)]
    start = verses.OFFSETS + 4 * len(pieces)
    offsets = [start + sum(map(len, pieces[:i])) for i in range(len(pieces))]
    numbers = [size, len(pieces), *offsets]
    head = b"EC02Compressed Data File".ljust(verses.WINDOW, b"\0")
    return head + b"".join(n.to_bytes(4, "big") for n in numbers) + b"".join(pieces)


CONTENT = "\n".join(["Textfile 1.", *LINES, ""]).encode()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(verses, "VERSES", len(LINES))
    (tmp_path / verses.NAME).write_bytes(bible(CONTENT))
    return tmp_path


def test_the_format(folder):
    assert verses.read_windows(folder / verses.NAME) == CONTENT
    found = verses.read_verses(folder / verses.NAME)
    assert [f"{name} {text}" for name, text in found] == LINES


def test_whole_chapters_are_held_out(folder):
    data = load_data("verses", root=folder)
    assert [len(split) for split in data.splits.values()] == [192, 24, 24]  # 30 chapters of 8 verses
    chapters = {part: {name.partition(":")[0] for name in split.names} for part, split in data.splits.items()}
    assert not chapters["train"] & chapters["test"] and not chapters["validation"] & chapters["test"]
    chapter, _, verse = data.train.names[9].partition(":")
    text = data.extra(Tokens).decode(data.train.tensors["x"][9:10])
    assert text == [f"in verse {verse} of {chapter}, it is said.".lower()]


def damaged(which):
    content = bytearray(bible(CONTENT))
    if which == "magic":
        content[:4] = b"EC01"
    elif which == "short":
        del content[50:]
    elif which == "truncated":
        del content[-400:]
    elif which == "windows":
        content[verses.WINDOW + 4 : verses.WINDOW + 8] = b"\xff" * 4
    elif which == "size":
        content[verses.WINDOW : verses.WINDOW + 4] = b"\xff" * 4
    elif which == "small":
        content[verses.WINDOW : verses.WINDOW + 4] = (100).to_bytes(4, "big")
    elif which == "order":
        content[verses.OFFSETS : verses.OFFSETS + 4] = b"\x00\x0f\xff\xff"
    elif which == "codes":
        content[-500:] = b"\xff" * 500
    return bytes(content)


@pytest.mark.parametrize("which", ["magic", "short", "truncated", "windows", "size", "small", "order", "codes"])
def test_damaged_files(folder, which):
    (folder / verses.NAME).write_bytes(damaged(which))
    with pytest.raises(CorruptFileError, match=r"bible.data: truncated or damaged"):
        load_data("verses", root=folder)


def test_without_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(verses, "SYSTEM", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="apt-get install bible-kjv-text"):
        load_data("verses")


@pytest.mark.skipif(not HERE, reason="needs Debian's bible-kjv-text")
@pytest.mark.slow
def test_the_verses_themselves():
    found = dict(verses.read_verses(verses.SYSTEM / verses.NAME))
    assert len(found) == 31_102 and len({name.partition(":")[0] for name in found}) == 1_189
    assert found["Ge1:1"] == "In the beginning God created the heaven and the earth."
    assert [name.partition(":")[2] for name, text in found.items() if text == "Jesus wept."] == ["35"]
    assert found["Rev22:21"].endswith("Amen.")


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="needs Debian's bible-kjv-text")
def test_the_verses_as_data():
    data = load_data("verses")
    assert [len(split) for split in data.splits.values()] == [24_992, 3_065, 3_045]
    assert data.train.shape == (103,) and data.extra(Tokens).num_tokens == 7_966
