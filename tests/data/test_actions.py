"""Names of actions: what words mean, what is checked against data, and that a run keeps them."""

import pytest
import torch

from pyro_vae.data import Actions, Data, Split
from pyro_vae.errors import InputError

NAMES = ("left", "right", "forward", "strafe-left", "strafe-right")


def data(actions):
    return Data(Split({"x": torch.rand(len(actions), 2, 3, 4, 4), "actions": actions}), extras=(Actions(NAMES),))


def test_words_are_sequences():
    actions = Actions(NAMES)
    for text, sequences in {
        "forward*3": [[2, 2, 2]],
        "Forward*2, RIGHT": [[2, 2, 1]],
        "forward * 2;right;strafe-l*2,f": [[2, 2], [1], [3, 3, 2]],
    }.items():
        found = actions.sequences(text)
        assert [sequence.tolist() for sequence in found] == sequences
        assert all(sequence.dtype == torch.int64 for sequence in found)
        assert actions.sequences(";".join(map(actions.words, found)))[0].equal(found[0])
    assert actions.words(torch.tensor([2, 2, 2, 1, 2])) == "forward*3,right,forward"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("forwrad*3", "unknown action 'forwrad'. Did you mean 'forward'"),
        ("strafe", "may be strafe-left or strafe-right"),
        ("forward*x", "NAME\\*10"),
        ("forward*", "NAME\\*10"),
        ("forward*0", "1 to 10,000"),
        ("forward*6000,right*6000", "1 to 10,000"),
        ("forward*-1", "NAME\\*10"),
        ("", "unknown action"),
        ("forward,,right", "unknown action"),
        ("forward;", "unknown action"),
    ],
)
def test_what_is_no_sequence_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        Actions(NAMES).sequences(text)


@pytest.mark.parametrize("names", [("a",), ("a", "A"), ("a", "b c"), ("a", "b*2"), ("a", "1"), ("a", 3), ("a", "")])
def test_names_that_cannot_be_said_are_refused(names):
    with pytest.raises(InputError):
        Actions(names)


def test_actions_of_data_are_checked():
    assert data(torch.tensor([[0, 4]])).extra(Actions).names == NAMES
    for wrong in (torch.tensor([[0, 5]]), torch.tensor([[-1, 0]]), torch.tensor([0]), torch.tensor([[0.0, 1.0]])):
        with pytest.raises(InputError, match="'actions' must be"):
            data(wrong)
    with pytest.raises(InputError, match="has no 'actions'"):
        Data(Split({"x": torch.rand(2, 2, 3, 4, 4)}), extras=(Actions(NAMES),))
