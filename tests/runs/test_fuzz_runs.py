"""Files of a run directory, damaged in many ways: each is read, or refused in a sentence; nothing else comes out."""

import json
import random
import shutil

import pytest
import torch
import yaml

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.runs import Run
from pyro_vae.runs.measurements import read_together

SMALL = "--data.limit 40 --fit.batch_size 20 --fit.compile off --fit.device cpu --fit.epochs 2 --fit.checkpoint_every 0"
SIZES = "--model.hidden_dims [6] --guide.hidden_dims [6] --model.latent_dim 2"
ODD = [
    None,
    True,
    -1,
    0,
    1e400,
    2**70,
    "",
    "x",
    "a: b",
    "\x00",
    [],
    [[]],
    {},
    {"a": 1},
    {"class_path": 5},
    {"class_path": "x"},
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("fuzzed") / "run"
    assert main(["train", "vae", "--out", str(out), *SMALL.split(), *SIZES.split()]) == 0
    assert main(["evaluate", str(out), "--particles", "2"]) == 0
    return out


def bytes_damaged(chance, content):
    """Cut, flipped, doubled, or with a piece of something else."""
    how, place = chance.randrange(5), chance.randrange(len(content))
    if how == 0:
        return content[:place]
    if how == 1:
        return content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :]
    if how == 2:
        return content[:place] + content[place // 2 :]
    if how == 3:
        return content[:place] + chance.randbytes(chance.randrange(1, 20)) + content[place + 3 :]
    return chance.randbytes(chance.randrange(1, 200))


def value_damaged(chance, value):
    """A value in which one entry, at any depth, is odd, missing or under another name."""
    places = []

    def look(inner):
        for key in inner if isinstance(inner, dict) else range(len(inner)):
            places.append((inner, key))
            if isinstance(inner[key], dict | list):
                look(inner[key])

    look(value)
    inner, key = chance.choice(places)
    how = chance.randrange(4)
    if how == 0 or isinstance(inner, list):
        inner[key] = chance.choice(ODD)
    elif how == 1:
        del inner[key]
    elif how == 2:
        inner[chance.choice(["class_path", "x.y", "é", "init_args", ""])] = inner.pop(key)
    else:
        inner[chance.choice(["class_path", "x.y", "init_args", "dict_kwargs"])] = chance.choice(ODD)
    return value


def config(chance, run):
    file = run / "config.yaml"
    if chance.randrange(2):
        file.write_bytes(bytes_damaged(chance, file.read_bytes()))
    else:
        file.write_text(yaml.safe_dump(value_damaged(chance, yaml.safe_load(file.read_text()))))
    pyro_vae.load(run)


def weights(chance, run):
    file = run / "model.safetensors"
    file.write_bytes(bytes_damaged(chance, file.read_bytes()))
    pyro_vae.load(run)


def log(chance, run):
    file = run / "metrics.jsonl"
    if chance.randrange(2):
        file.write_bytes(bytes_damaged(chance, file.read_bytes()))
    else:
        file.write_text(json.dumps(value_damaged(chance, json.loads(file.read_text().splitlines()[0]))) + "\n")
    Run(run).records()


def checkpoint(chance, run):
    """Both, else the one before is taken."""
    file, other = (run / "checkpoints" / f"{name}.pt" for name in ("last", "previous"))
    if chance.randrange(2):
        file.write_bytes(bytes_damaged(chance, file.read_bytes()))
    else:
        state = torch.load(file, weights_only=True)
        state.pop("digest")
        torch.save(value_damaged(chance, state), file)
    other.unlink(missing_ok=True)
    Run(run).train(Run(run).data(), resume=True, progress=False)


def measurement(chance, run):
    file = run / chance.choice(["evaluation-test.json", "evaluation-test.npz"])
    if file.suffix == ".npz" or chance.randrange(2):
        file.write_bytes(bytes_damaged(chance, file.read_bytes()))
    else:
        file.write_text(json.dumps(value_damaged(chance, json.loads(file.read_text()))))
    read_together(run, "evaluation-test", "pyro-vae evaluate")


DOORS = {each.__name__: each for each in (config, weights, log, checkpoint, measurement)}


def fuzz(door, count, trained, folder):
    """The count of what came out, by kind."""
    told = {"read": 0, "damaged": 0, "refused": 0}
    for seed in range(count):
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(trained, run)
        try:
            DOORS[door](random.Random(seed), run)
            told["read"] += 1
        except CorruptFileError:
            told["damaged"] += 1
        except InputError:
            told["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"{door}, seed {seed}") from error
    print(f"{door}: {told}")
    return told


@pytest.mark.parametrize("door", DOORS)
def test_damaged_files_are_read_or_refused_in_a_sentence(door, trained, tmp_path):
    told = fuzz(door, 25, trained, tmp_path)
    assert told["damaged"] + told["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_many_damaged_files(door, trained, tmp_path):
    fuzz(door, 200, trained, tmp_path)
