"""Files of arrays that sources made once: whatever is damaged in one is an error that names it, never other numbers."""

import random

import numpy as np
import pytest
import torch

from pyro_vae.data.sources import speech, tunes, vizdoom_clips
from pyro_vae.errors import CorruptFileError

RNG = np.random.default_rng(0)
CLIPS = {
    "frames": RNG.integers(256, size=(12, 5, 3, 8, 8), dtype=np.uint8),
    "actions": RNG.integers(5, size=(12, 4)),
    "episode": np.arange(12),
}
WORDS = {"x": RNG.integers(-99, 99, size=(20, 64), dtype=np.int16)}
TUNES = {"titles": np.array(["a", "b"]), "lengths": np.array([20, 30]), "events": np.full(50, 9, np.uint8)}
KINDS = {
    "vizdoom": (CLIPS, lambda path: vizdoom_clips._held(path, "made so", (12, 5, 3, 8, 8))),
    "speech": (WORDS, lambda path: speech._held(path, "made so", (20, 64))),
    "tunes": (TUNES, lambda path: tunes._held(path, "made so")),
}


def numbers(found):
    """All that was read, as lists."""
    if isinstance(found, (np.ndarray, torch.Tensor)):
        return found.tolist()
    if isinstance(found, dict):
        found = list(found.values())
    return [numbers(part) for part in found] if isinstance(found, (list, tuple)) else found


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_and_numbers_are_never_others(kind, tmp_path):
    arrays, read = KINDS[kind]
    path = tmp_path / "kept.npz"
    np.savez_compressed(path, recipe=np.array("made so"), **arrays)
    whole, right = path.read_bytes(), numbers(read(path))
    rng, outcomes = random.Random(0), set()
    edges = [*range(300), *range(len(whole) - 300, len(whole))]  # headers are there, where readers fail otherwise
    for place in edges[:: 2 if kind == "vizdoom" else 12] + [rng.randrange(len(whole)) for _ in range(50)]:
        content = bytearray(whole)
        content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            found = read(path)
        except CorruptFileError as error:
            assert f"{path}: damaged (" in str(error) and str(error).endswith("remove it, and it is made anew")
            outcomes.add("refused")
        else:
            assert found is None or numbers(found) == right
            outcomes.add("not there" if found is None else "read")
    assert {"refused", "read"} <= outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_made_otherwise_or_holds_other_arrays(kind, tmp_path):
    arrays, read = KINDS[kind]
    path = tmp_path / "kept.npz"
    assert read(path) is None
    np.savez_compressed(path, recipe=np.array("made otherwise"), **arrays)
    assert read(path) is None
    for name, value in arrays.items():
        others = (value[:-1], value.astype(np.float32) if value.dtype.kind != "U" else np.zeros(2))
        for other in others:
            np.savez_compressed(path, recipe=np.array("made so"), **arrays | {name: other})
            with pytest.raises(CorruptFileError, match="damaged"):
                read(path)
        np.savez_compressed(path, recipe=np.array("made so"), **{k: v for k, v in arrays.items() if k != name})
        with pytest.raises(CorruptFileError, match="damaged"):
            read(path)


def test_code_in_it_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return open, (str(tmp_path / "harm"), "w")

    path = tmp_path / "kept.npz"
    for name in ("recipe", "frames"):
        np.savez(path, **{"recipe": np.array("made so"), **CLIPS, name: np.array([Harm()], object)})
        with pytest.raises(CorruptFileError, match="Python objects"):
            KINDS["vizdoom"][1](path)
    assert not (tmp_path / "harm").exists()
