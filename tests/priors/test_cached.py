"""Sampling from memory: the logits, and the samples, of full passes."""

import pytest
import torch
from prior_cases import CASES, codes, context, naive_sample, prior, step_by_step


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_same_logits_as_the_full_pass(name, dtype):
    network = prior(name).to(dtype)
    some = codes(network, 3)
    condition = network(**context(network, 3)).condition
    full = network.logits(some, condition).flatten(2)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(step_by_step(network, some, condition), full, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_same_samples_as_the_full_pass(name):
    network = prior(name)
    distribution = network(**context(network, 4))
    batch = () if distribution.batch_shape else (4,)
    torch.manual_seed(5)
    ours = distribution.sample(batch)
    torch.manual_seed(5)
    assert torch.equal(ours, naive_sample(distribution, 4))
    assert network.num_codes == 1 or len(ours.unique()) > 1


@pytest.mark.parametrize(
    "name",
    ["pixelcnn-attention", "wavenet-cycles", "pixelcnn-all", "wavenet-all", "transformer-all", "transformer-text"],
)
def test_same_tempered_samples(name):
    network = prior(name)
    distribution = network(**context(network, 4))
    batch = () if distribution.batch_shape else (4,)
    torch.manual_seed(5)
    ours = distribution.tempered(0.5, top_k=3).sample(batch)
    torch.manual_seed(5)
    assert torch.equal(ours, naive_sample(distribution, 4, temperature=0.5, top_k=3))
    torch.manual_seed(5)
    assert not torch.equal(ours, naive_sample(distribution, 4))


@pytest.mark.parametrize("name", ["pixelcnn-all", "wavenet-all", "transformer-all"])
def test_no_dropout_and_no_gradient_in_sampling(name):
    network = prior(name).train()
    some, given = codes(network, 3), context(network, 3)
    full = network.eval().logits(some, network(**given).condition).flatten(2)
    network.train()
    assert not torch.equal(network.logits(some, network(**given).condition).flatten(2), full)
    condition = network(**given).condition
    torch.testing.assert_close(step_by_step(network, some, condition), full, rtol=0, atol=1e-11)
    assert not network(**given).sample().requires_grad


@pytest.mark.parametrize("name", ["pixelcnn-all", "wavenet-all", "transformer-all"])
def test_two_memories_do_not_meet(name):
    network = prior(name)
    some, given = codes(network, 2, 3), context(network, 3)
    condition = network(**given).condition
    with torch.no_grad():
        both = [network.steps(3, condition) for _ in range(2)]
        results = [[], []]
        for i in range(some[0].flatten(1).shape[1]):
            for steps, result, grid in zip(both, results, some, strict=True):
                result.append(steps(i, grid.flatten(1)).clone())
    for result, grid in zip(results, some, strict=True):
        full = network.logits(grid, condition).flatten(2)
        torch.testing.assert_close(torch.stack(result, -1), full, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["pixelcnn-attention", "wavenet", "transformer-sparse"])
def test_a_memory_has_the_weights_of_now(name):
    """A distribution that was made before the weights changed samples with the new ones."""
    network = prior(name)
    distribution = network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    torch.manual_seed(5)
    ours = distribution.sample((4,))
    torch.manual_seed(5)
    assert torch.equal(ours, naive_sample(network(), 4))
