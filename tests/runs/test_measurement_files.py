"""A measurement's two files are one thing, or it is said that they are not; JSON is JSON."""

import json
import math
import shutil

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.data import Data, Split
from pyro_vae.errors import CorruptFileError, InputError
from pyro_vae.files import write_json
from pyro_vae.programs.program import as_programs
from pyro_vae.runs import measurements as measurement_files
from pyro_vae.runs.measurements import (
    measure,
    no_numbers,
    not_together,
    plain,
    print_then_write,
    read_per_datum,
    read_together,
    warned,
    with_id,
    write_measurement,
)

AGAIN = "pyro-vae evaluate here"


def strict(text):
    """JSON as its standard has it, without NaN and Infinity."""
    return json.loads(text, parse_constant=lambda token: pytest.fail(f"{token} is no JSON"))


def one(value):
    arrays = {"log_likelihood": np.array([value, value + 1.0])}
    return with_id({"log_likelihood": value + 0.5, "warnings": []}, arrays), arrays


def test_both_files_are_read_again_and_hold_numbers_only(tmp_path):
    result, arrays = one(-3.0)
    write_measurement(tmp_path, "evaluation-test", result, arrays)
    summary, numbers = read_together(tmp_path, "evaluation-test", AGAIN)
    assert summary == result and np.array_equal(numbers["log_likelihood"], [-3.0, -2.0])
    with np.load(tmp_path / "evaluation-test.npz") as found:
        assert found.files == ["log_likelihood"]
    assert read_together(tmp_path, "evaluation-train", AGAIN) is None


def test_the_id_is_of_the_numbers_and_not_of_the_seconds():
    arrays = {"elbo": np.array([1.0, math.nan])}
    ids = [with_id(result, arrays)["measurement_id"] for result in ({"a": 1.0, "seconds": s} for s in (1.0, 2.0))]
    assert ids[0] == ids[1]
    assert with_id({"a": 2.0, "seconds": 1.0}, arrays)["measurement_id"] != ids[0]
    other = {"elbo": np.array([1.0, 2.0])}
    assert with_id({"a": 1.0, "seconds": 1.0}, other)["measurement_id"] != ids[0]


def test_a_kill_between_the_two_is_noticed(tmp_path, monkeypatch):
    write_measurement(tmp_path, "ais-test", *one(-3.0))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(measurement_files, "write_json", killed)
        write_measurement(tmp_path, "ais-test", *one(-4.0))
    with pytest.raises(
        InputError, match=r"ais-test\.json and ais-test\.npz are of different measurements.*evaluate here"
    ):
        read_together(tmp_path, "ais-test", AGAIN)
    write_measurement(tmp_path, "ais-test", *one(-4.0))
    assert not_together(tmp_path, "ais-test") is None


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_one_half_alone_is_refused(tmp_path, suffix):
    write_measurement(tmp_path, "evaluation-test", *one(-3.0))
    (tmp_path / f"evaluation-test.{suffix}").unlink()
    with pytest.raises(InputError, match=rf"evaluation-test\.{suffix}, its other half, is missing. Measure again"):
        read_together(tmp_path, "evaluation-test", AGAIN)


def test_older_files_say_what_to_do(tmp_path):
    np.savez(tmp_path / "evaluation-test.npz", log_likelihood=np.zeros(2))
    write_json(tmp_path / "evaluation-test.json", {"log_likelihood": 0.0})
    with pytest.raises(InputError, match=r"carry no id .*older version.*Measure again: pyro-vae evaluate here"):
        read_together(tmp_path, "evaluation-test", AGAIN)
    write_json(tmp_path / "evaluation-test.json", one(0.0)[0])  # a new one beside old numbers
    with pytest.raises(InputError, match="are of different measurements"):
        read_together(tmp_path, "evaluation-test", AGAIN)


def test_damaged_numbers_are_named(tmp_path):
    write_measurement(tmp_path, "evaluation-test", *one(-3.0))
    whole = (tmp_path / "evaluation-test.npz").read_bytes()
    for damaged in (whole[:60], b"", b"no archive", whole[:30] + b"\xff" * 20 + whole[50:]):
        (tmp_path / "evaluation-test.npz").write_bytes(damaged)
        with pytest.raises(CorruptFileError, match=r"evaluation-test\.npz cannot be read"):
            read_per_datum(tmp_path / "evaluation-test.npz")


def test_neither_a_closed_pipe_nor_a_full_disk_loses_the_number(capsys, monkeypatch):
    def full():
        raise InputError("cannot write")

    with pytest.raises(InputError):
        print_then_write("the number", full)
    assert capsys.readouterr().out == "the number\n"
    at_writing = []
    print_then_write("the number", lambda: at_writing.append(capsys.readouterr().out))
    assert at_writing == ["the number\n"]
    written = []

    def closed(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)
    with pytest.raises(BrokenPipeError):
        print_then_write("the number", lambda: written.append(True))
    assert written == [True]


def test_what_is_no_number_is_null_and_named():
    result = {"a": math.nan, "b": {"c": -math.inf, "d": 1.0}, "rows": [{"mean": math.inf}], "bits_per_dim": math.nan}
    result |= {"warnings": ["known"], "num_data": 3}
    assert no_numbers(result) == ["a", "b.c", "rows.0.mean", "bits_per_dim"]
    said = warned(result)["warnings"]
    assert said == ["known", "these are no numbers, NaN or infinite: a, b.c, rows.0.mean (null in JSON)"]
    assert strict(json.dumps(plain(result)))["b"] == {"c": None, "d": 1.0}
    assert warned({"a": 1.0, "warnings": []}) == {"a": 1.0, "warnings": []}
    of_one = warned({"elbo_standard_error": math.nan, "num_data": 1, "warnings": []})
    assert of_one["warnings"] == ["one datum has no standard error: elbo_standard_error (null in JSON)"]


def test_write_json_writes_no_other_tokens(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"a": math.nan})
    assert not list(tmp_path.iterdir())


def nan_at_datum_three(x=None, num_samples=1):
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        wrong = torch.where(x[:, :1] > 100, math.nan, 0.0)
        return pyro.sample("x", dist.Normal(z + wrong, 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 0.5**0.5).to_event(1))


def test_a_likelihood_that_is_no_number_names_the_datum_and_says_over_what_the_mean_is(tmp_path):
    x = torch.tensor([[0.0], [1.0], [2.0], [1000.0], [0.5]])
    data = Data(Split({"x": x}), test=Split({"x": x}))
    measured = measure(*as_programs(nan_at_datum_three, guide), data, particles=4, device="cpu")
    measured.write(tmp_path)
    found = strict((tmp_path / "evaluation-test.json").read_text())
    assert found["log_likelihood"] is None and found["elbo"] is None and found["num_data"] == 5
    exact = dist.Normal(0.0, 2.0**0.5).log_prob(x[[0, 1, 2, 4], 0].double()).mean().item()
    (said,) = [words for words in found["warnings"] if "log-likelihood of" in words]
    assert "log-likelihood of 1 of 5 data is not finite (datum 3: nan)" in said
    assert f"so is the mean over all 5 (the mean over the other 4: {exact:.2f} nats)" in said
    assert any(
        words.startswith("these are no numbers, NaN or infinite: log_likelihood,") for words in found["warnings"]
    )


def test_nothing_is_left_of_a_copy_with_other_numbers(tmp_path):
    """The files of two evaluations of one run, put together."""
    for name, value in (("a", -3.0), ("b", -4.4)):
        (tmp_path / name).mkdir()
        write_measurement(tmp_path / name, "evaluation-test", *one(value))
    shutil.copy(tmp_path / "b" / "evaluation-test.npz", tmp_path / "a")
    assert "different measurements" in not_together(tmp_path / "a", "evaluation-test")


@pytest.mark.parametrize("what", ["a mean", "a number of a datum"])
def test_a_number_that_was_changed_afterwards_is_not_believed(tmp_path, what):
    result, arrays = one(-3.0)
    write_measurement(tmp_path, "evaluation-test", result, arrays)
    if what == "a mean":
        write_json(tmp_path / "evaluation-test.json", result | {"log_likelihood": -2.5 + 1e-9})
    else:
        write_measurement(tmp_path, "evaluation-test", result, {"log_likelihood": arrays["log_likelihood"] + 1e-9})
    with pytest.raises(InputError, match=r"a number in it has been changed.*Measure again"):
        read_together(tmp_path, "evaluation-test", AGAIN)


def test_compressed_numbers_are_nobody_s(tmp_path):
    """As an archive that unpacks to more than the memory would be."""
    write_measurement(tmp_path, "evaluation-test", *one(-3.0))
    np.savez_compressed(tmp_path / "evaluation-test.npz", log_likelihood=np.zeros(2))
    with pytest.raises(CorruptFileError, match="its members are compressed"):
        read_together(tmp_path, "evaluation-test", AGAIN)
