"""A chain of grids: what each frame depends on, sums by enumeration, and samples from memory."""

import itertools

import pytest
import torch
from prior_cases import naive_sample, step_by_step

from pyro_vae.errors import InputError
from pyro_vae.guides import EmptyGuide
from pyro_vae.models.codes import CodeModel
from pyro_vae.priors import FramePixelCNN, GatedPixelCNN
from pyro_vae.training import fit

K, A = 5, 3


def prior(shape=(4, 3, 2), given=3, history=2, num_actions=A, **options):
    options = {"channels": 8, "num_layers": 2, **options}
    before = {"codes_frames": (K, (given, *shape[1:]))}
    return FramePixelCNN(K, shape, before, num_actions, history, **options).double().eval()


def context(network, n):
    given = {name: torch.randint(grid.num_codes, (n, *grid.shape)) for name, grid in network.coarser.items()}
    return given | ({} if network.num_actions is None else {"actions": torch.randint(A, (n, network.shape[0]))})


def changed(network, given, codes, others, frame):
    """Which frames' logits are others where one grid, or one frame's action, is another; -1, -2, … are given ones."""
    one, two = (network.logits(each, network(**some).condition) for some, each in ((given, codes), others))
    return (one != two).flatten(3).any(-1).any(1)[0].tolist()


@pytest.mark.parametrize("history", [1, 2, 3])
def test_a_frame_depends_on_the_last_ones_and_its_own_action(history):
    network = prior(history=history)
    frames = network.shape[0]
    given, codes = context(network, 1), torch.randint(K, (1, *network.shape))
    for t in range(-3, frames):
        other, some = codes.clone(), {name: value.clone() for name, value in given.items()}
        grid = some["codes_frames"][:, t] if t < 0 else other[:, t]
        grid.copy_((grid + 1) % K)
        found = changed(network, given, codes, (some, other), t)
        for s in range(frames):
            if s != t:  # in its own frame what comes behind a code depends on it: below, position by position
                assert found[s] == (t < s <= t + history), (t, s)
    for t in range(frames):
        some = given | {"actions": given["actions"].clone()}
        some["actions"][:, t] = (some["actions"][:, t] + 1) % A
        assert changed(network, given, codes, (some, codes), t) == [s == t for s in range(frames)]


def test_no_code_at_or_after_a_position_matters():
    network = prior()
    given, codes = context(network, 1), torch.randint(K, (1, *network.shape))
    condition = network(**given).condition
    logits = network.logits(codes, condition).flatten(2)
    for i in range(logits.shape[2]):
        other = codes.flatten(1).clone()
        other[:, i:] = (other[:, i:] + 1) % K
        after = network.logits(other.view(codes.shape), condition).flatten(2)
        assert torch.equal(after[:, :, : i + 1], logits[:, :, : i + 1])
        assert i + 1 == logits.shape[2] or not torch.equal(after[:, :, i + 1], logits[:, :, i + 1])


def test_probabilities_sum_to_one_and_multiply_along_the_chain():
    before = {"codes_frames": (2, (2, 1, 2))}
    network = FramePixelCNN(2, (3, 1, 2), before, A, channels=8, num_layers=2).double().eval()
    given = {"codes_frames": torch.randint(2, (1, 2, 1, 2)), "actions": torch.randint(A, (1, 3))}
    every = torch.tensor(list(itertools.product(range(2), repeat=6))).view(-1, 3, 1, 2)  # (64, 3, 1, 2)
    log_p = network(**given).log_prob(every)
    torch.testing.assert_close(log_p.logsumexp(0), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-10)
    # the last frame's probability, of its own PixelCNN given the two before it, by hand
    pairs = every.view(4, 4, 4, 3, 1, 2)
    last = network(**given).log_prob(pairs)
    last = last - last.logsumexp(2, keepdim=True)  # log p(c_3 | c_1, c_2)
    grids = pairs[:, :, :, :2].reshape(-1, 2, 1, 2)
    features = network.features(grids, given["actions"][:, 2:].expand(len(grids), 1))
    logits = network.next_grid.logits(pairs[:, :, :, 2].reshape(-1, 1, 2), features)
    by_hand = -torch.nn.functional.cross_entropy(logits, pairs[:, :, :, 2].reshape(-1, 1, 2), reduction="none")
    torch.testing.assert_close(last.flatten(), by_hand.flatten(1).sum(1), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"history": 1, "num_actions": None},
        {"history": 3, "kernel": 5, "dropout": 0.5},
        {"shape": (2, 1, 1)},
        {"shape": (1, 4, 4), "attention_heads": 2, "attention_every": 1},
    ],
)
def test_memory_gives_the_logits_and_the_samples_of_the_full_pass(options):
    network = prior(**options)
    codes, given = torch.randint(K, (3, *network.shape)), context(network, 3)
    condition = network(**given).condition
    full = network.logits(codes, condition).flatten(2)
    torch.testing.assert_close(step_by_step(network, codes, condition), full, rtol=0, atol=1e-11)
    distribution = network(**given)
    for tempered in ({}, {"temperature": 0.5, "top_k": 3}, {"top_p": 0.6}):
        torch.manual_seed(5)
        ours = distribution.tempered(**tempered).sample()
        torch.manual_seed(5)
        if "top_p" not in tempered:
            assert torch.equal(ours, naive_sample(distribution, 3, **tempered))
        assert ours.shape == (3, *network.shape)


def test_context_with_more_leading_dimensions():
    """Particles before data: each row is that of its own context."""
    network = prior()
    given = context(network, 6)
    codes = torch.randint(K, (6, *network.shape))
    flat = network(**given).log_prob(codes)
    shaped = {name: value.unflatten(0, (2, 3)) for name, value in given.items()}
    torch.testing.assert_close(network(**shaped).log_prob(codes.unflatten(0, (2, 3))).flatten(), flat)


def test_it_learns_what_an_action_does():
    """A code that goes up by 0, 1 or 2 at every step, as the action says: nothing is left to be unsure of."""
    generator = torch.Generator().manual_seed(0)
    actions = torch.randint(A, (300, 5), generator=generator)
    codes = (torch.randint(K, (300, 1), generator=generator) + actions.cumsum(1)) % K
    data = {"x": codes[:, 2:, None, None], "codes_frames": codes[:, :2, None, None], "actions": actions[:, 2:]}
    nats = {}
    for num_actions in (A, None):
        torch.manual_seed(0)
        network = prior((3, 1, 1), 2, num_actions=num_actions, channels=16).float()
        fit(
            CodeModel(network),
            EmptyGuide(),
            data,
            epochs=25,
            batch_size=50,
            learning_rate=1e-2,
            progress=False,
            device="cpu",
        )
        given = {name: data[name] for name in network.context}
        nats[num_actions] = -network.eval()(**given).log_prob(data["x"]).mean().item() / 3
    assert nats[A] < 0.05
    assert abs(nats[None] - torch.tensor(3.0).log()) < 0.15  # three actions, evenly


def test_what_does_not_fit_is_refused():
    before = {"codes_frames": (K, (2, 3, 2))}
    with pytest.raises(InputError, match=r"\(T, height, width\)"):
        FramePixelCNN(K, (3, 2), before)
    with pytest.raises(InputError, match="codes of the frames before"):
        FramePixelCNN(K, (4, 3, 2))
    with pytest.raises(InputError, match="history=3 grids before"):
        FramePixelCNN(K, (4, 3, 2), before, history=3)
    with pytest.raises(InputError, match="'codes_frames' must be 5 codes on grids"):
        FramePixelCNN(K, (4, 3, 3), before)
    with pytest.raises(InputError, match="FramePixelCNN for the grids"):
        GatedPixelCNN(K, (4, 3, 2))
    with pytest.raises(InputError, match="num_actions must be"):
        FramePixelCNN(K, (4, 3, 2), before, num_actions=0)
    network = prior()
    given = context(network, 2)
    with pytest.raises(InputError, match="'actions': actions from 0 to 2, one a frame"):
        network(codes_frames=given["codes_frames"])
    with pytest.raises(InputError, match=r"takes 'actions' of shape \(\.\.\., \*\(4,\)\)"):
        network(**given | {"actions": given["actions"][:, :3]})
    with pytest.raises(InputError, match="takes 'codes_frames' of shape"):
        network(**given | {"codes_frames": given["codes_frames"][:, 1:]})
