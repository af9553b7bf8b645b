"""The vector quantizer against versions of it written out by hand."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vae.errors import InputError
from pyro_vae.networks import VectorQuantizer
from pyro_vae.networks.k_means import nearest_codes, rows_at_a_time
from pyro_vae.networks.straight_through import quantize, turn_back
from pyro_vae.recording import Recording

K, D = 7, 4
OPTIONS = [
    {},
    {"update": "gradient"},
    {"distance": "cosine"},
    {"update": "gradient", "distance": "cosine"},
    {"rotation_trick": True},
    {"restart_below": 0.5},
]
SHAPES = {0: (3, 5, D), 1: (3, D, 5), 2: (2, 3, D, 4, 2), 3: (2, D, 3, 1, 2)}


def ids(options):
    return ", ".join(map(str, options.values())) or "plain"


def vectors_last(z, grid_dim):
    return z.movedim(-1 - grid_dim, -1)


def brute_force(z, codebook, grid_dim):
    """Codes by the whole table of distances, in float64."""
    rows = vectors_last(z, grid_dim).double()  # (..., *grid, dim)
    return (rows[..., None, :] - codebook.double()).square().sum(-1).argmin(-1)


def make(grid_dim=2, **options):
    torch.manual_seed(1)
    return VectorQuantizer(K, D, grid_dim, **options)


# ------------------------------------------------------------------------------ codes and values
@pytest.mark.parametrize("grid_dim", SHAPES)
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_nearest_codes_and_their_very_vectors(grid_dim, options):
    quantizer, z_e = make(grid_dim, **options).eval(), torch.randn(SHAPES[grid_dim])
    codes, z, penalty, *_ = quantizer(z_e)
    codebook = quantizer.codebook.detach()
    if options.get("distance") == "cosine":
        z_e = z_e / z_e.norm(dim=-1 - grid_dim, keepdim=True)
        torch.testing.assert_close(codebook.norm(dim=1), torch.ones(K))
    if options.get("update") == "gradient" and options.get("distance") == "cosine":  # it may leave the sphere
        quantizer.codebook.data.mul_(torch.rand(K, 1) + 0.5)
        codes, z, penalty, *_ = quantizer(z_e)
        codebook = nn.functional.normalize(quantizer.codebook.detach(), dim=1)
    assert torch.equal(codes, brute_force(z_e, codebook, grid_dim))
    assert codes.dtype == torch.int64 and z.shape == z_e.shape
    assert torch.equal(vectors_last(z, grid_dim), codebook[codes])
    assert torch.equal(z, quantizer.embed(codes))
    dims = tuple(range(-1 - grid_dim, 0))
    factor = 0.25 + (options.get("update") == "gradient")
    torch.testing.assert_close(penalty, factor * (z_e - z).square().sum(dims))


def test_vectors_far_from_the_origin_keep_their_codes():
    """Scores are differences of large numbers there."""
    codebook = 1000 + torch.randn(50, 8)
    rows = 1000 + torch.randn(400, 8)
    assert torch.equal(nearest_codes(rows, codebook, 2**20), brute_force(rows, codebook, 0))


@pytest.mark.parametrize("shape", [(2, D, 3, 3), (2, D, 1, 1), (0, D, 2, 2), (D, 2, 2)])
def test_any_batch(shape):
    quantizer, z_e = make().train(), torch.randn(shape)
    result = quantizer(z_e)
    assert result.z.shape == shape and result.codes.shape == (*shape[:-3], *shape[-2:])
    assert result.penalty.shape == shape[:-3] and quantizer.counts.isfinite().all()


def test_layouts_in_memory_do_not_matter():
    quantizer, z_e = make().eval(), torch.randn(5, D, 6, 3)
    expected = quantizer(z_e)
    for other in (z_e.to(memory_format=torch.channels_last), z_e.flip(0).flip(0), z_e.movedim(2, 0).movedim(0, 2)):
        for a, b in zip(quantizer(other), expected, strict=True):
            torch.testing.assert_close(a, b)


# ------------------------------------------------------------------------------ memory
@pytest.mark.parametrize("memory", [1, 4 * K, 4 * K * 3, 4 * K * 64, 2**30])
def test_chunks_change_nothing(memory):
    rows, codebook = torch.randn(64, D), torch.randn(K, D)
    assert torch.equal(nearest_codes(rows, codebook, memory), brute_force(rows, codebook, 0))


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that an operator makes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("memory_mib", [0.3, 0.05])
def test_no_tensor_is_larger_than_the_budget_and_the_input(memory_mib):
    codes = 256
    quantizer = VectorQuantizer(codes, 4, 1, memory_mib=memory_mib)
    z_e = torch.randn(40, 4, 100, requires_grad=True)
    whole = 4 * codes * 4000  # bytes of all the scores
    assert whole > 10 * memory_mib * 2**20
    with Largest() as largest:
        result = quantizer(z_e)
        (result.z.sum() + result.penalty.sum()).backward()
    assert largest.bytes <= max(memory_mib * 2**20, z_e.nbytes, result.codes.nbytes)
    with Largest() as largest:
        quantizer.initialize(z_e)
    assert largest.bytes <= max(memory_mib * 2**20, z_e.nbytes, result.codes.nbytes)


def test_a_recorded_search_has_few_parts():
    rows = torch.empty(10**6, 1)
    assert len(rows) / rows_at_a_time(rows, 4096, 2**40) <= 64
    assert rows_at_a_time(rows, 4096, 4096 * 4 * 10) == 10


# ------------------------------------------------------------------------------ gradients
@pytest.mark.parametrize("grid_dim", SHAPES)
@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_gradient_goes_straight_through_and_the_codebooks_comes_from_its_loss_only(grid_dim, update):
    quantizer = make(grid_dim, update=update)
    z_e = torch.randn(SHAPES[grid_dim], requires_grad=True)
    gradient = torch.randn(SHAPES[grid_dim])
    quantizer(z_e).z.backward(gradient)
    assert torch.equal(z_e.grad, gradient)
    assert update == "ema" or not quantizer.codebook.grad.any()
    assert not quantizer.embed(torch.zeros((2,) * grid_dim, dtype=torch.long)).requires_grad


@pytest.mark.parametrize("grid_dim", SHAPES)
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_penalty_against_automatic_differentiation(grid_dim, distance):
    quantizer = make(grid_dim, update="gradient", distance=distance, commitment=0.7)
    z_e = torch.randn(SHAPES[grid_dim], requires_grad=True)
    weights = torch.rand(SHAPES[grid_dim][: -1 - grid_dim])  # one for each penalty
    codes, _, penalty, *_ = quantizer(z_e)
    (weights * penalty).sum().backward()
    ours = z_e.grad, quantizer.codebook.grad
    book = quantizer.codebook.detach().requires_grad_()
    v, e = z_e.detach().requires_grad_(), book
    u = v
    if distance == "cosine":
        u, e = v / v.norm(dim=-1 - grid_dim, keepdim=True), book / book.norm(dim=1, keepdim=True)
    e = e[codes].movedim(-1, -1 - grid_dim)
    dims = tuple(range(-1 - grid_dim, 0))
    loss = 0.7 * (u - e.detach()).square().sum(dims) + (u.detach() - e).square().sum(dims)
    (weights * loss).sum().backward()
    torch.testing.assert_close(penalty, loss.detach())
    torch.testing.assert_close(ours[0], v.grad)
    torch.testing.assert_close(ours[1], book.grad)


def test_penalty_against_finite_differences():
    """With fixed codes: beta as a function of z_e, the codebook loss as a function of the codebook."""
    codes = torch.randint(5, (2, 6))
    z_e, vectors = torch.randn(2, 3, 6).double(), torch.randn(5, 3).double()
    options = {"rtol": 1e-6, "atol": 1e-8}
    of_z = lambda z: quantize(z, vectors, codes, 0.3, 0.0, False)[1]  # noqa: E731
    of_e = lambda e: quantize(z_e, e, codes, 0.0, 1.0, False)[1]  # noqa: E731
    assert torch.autograd.gradcheck(of_z, z_e.requires_grad_(), **options)
    assert torch.autograd.gradcheck(of_e, vectors.requires_grad_(), **options)


# ------------------------------------------------------------------------------ rotation trick
def test_rotation_by_explicit_matrices():
    z, e, g = torch.randn(3, 20, 4).double()
    for i, turned in enumerate(turn_back(g, z, e)):
        a, b = z[i] / z[i].norm(), e[i] / e[i].norm()
        r = (a + b) / (a + b).norm()
        rotation = torch.eye(4) - 2 * torch.outer(r, r) + 2 * torch.outer(b, a)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(4).double())
        assert torch.linalg.det(rotation) == pytest.approx(1.0)
        scale = e[i].norm() / z[i].norm()
        torch.testing.assert_close(scale * rotation @ z[i], e[i])  # it takes z_e to e
        torch.testing.assert_close(turned, scale * rotation.T @ g[i])


def test_rotation_in_the_quantizer():
    quantizer = make(2, rotation_trick=True).eval()
    z_e = torch.randn(2, D, 3, 2, requires_grad=True)
    gradient = torch.randn(2, D, 3, 2)
    codes, z, *_ = quantizer(z_e)
    z.backward(gradient)
    assert torch.equal(z, quantizer.embed(codes))
    at = (1, slice(None), 2, 1)
    expected = turn_back(gradient[at][None], z_e.detach()[at][None], z.detach()[at][None])[0]
    torch.testing.assert_close(z_e.grad[at], expected)


def test_rotation_of_vectors_without_direction():
    g = torch.tensor([[1.0, 2.0]] * 3)
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    e = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])  # none to turn; the opposite way; to nothing
    expected = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [0.0, 0.0]])
    torch.testing.assert_close(turn_back(g, z, e), expected)


# ------------------------------------------------------------------------------ moving averages
def by_hand(steps, codebook, decay, distance="euclidean", eps=1e-5):
    """The codebook's life as in a script: lists and loops. Yields codes, and the codebook that they are of."""
    N, m = [1.0] * len(codebook), [c.clone() for c in codebook]
    for rows in steps:
        total = sum(N)
        for k in range(len(codebook)):
            smooth = (N[k] + eps) / (total + len(codebook) * eps) * total
            codebook[k] = m[k] / (m[k].norm() if distance == "cosine" else smooth)
        codes = [min(range(len(codebook)), key=lambda k: float((row - codebook[k]).square().sum())) for row in rows]
        yield codes, codebook.clone()
        for k in range(len(codebook)):
            mine = [row for row, c in zip(rows, codes, strict=True) if c == k]
            N[k] = decay * N[k] + (1 - decay) * len(mine)
            m[k] = decay * m[k] + (1 - decay) * sum(mine, torch.zeros(codebook.shape[1]).double())


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_moving_averages_by_hand(distance):
    quantizer = make(1, decay=0.8, distance=distance).double().train()
    batches = [torch.randn(3, D, 4).double() for _ in range(5)]
    rows = [vectors_last(b, 1).reshape(-1, D) for b in batches]
    rows = [r / r.norm(dim=1, keepdim=True) for r in rows] if distance == "cosine" else rows
    expected = by_hand(rows, quantizer.codebook.clone(), 0.8, distance)
    for batch, (codes, codebook) in zip(batches, expected, strict=True):
        result = quantizer(batch)
        assert result.codes.flatten().tolist() == codes
        torch.testing.assert_close(quantizer.codebook, codebook, rtol=1e-10, atol=1e-12)
        assert torch.equal(quantizer.embed(result.codes), result.z)  # the model sees the guide's codebook


def test_a_code_that_nobody_uses_stays_finite():
    for distance in ("euclidean", "cosine"):
        quantizer = make(0, decay=0.1, distance=distance).train()
        for _ in range(60):
            quantizer(torch.ones(5, D))
        assert quantizer.codebook.isfinite().all() and quantizer.counts.min() < 1e-30
        if distance == "cosine":
            torch.testing.assert_close(quantizer.codebook.norm(dim=1), torch.ones(K))
        assert quantizer(torch.ones(5, D)).usage == pytest.approx(1 / K)


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_evaluation_changes_nothing(options):
    quantizer = make(**options).eval()
    quantizer(torch.randn(3, D, 2, 2))
    for name, value in make(**options).state_dict().items():
        assert torch.equal(quantizer.state_dict()[name], value), name


def test_perplexity_and_usage_are_of_the_running_counts():
    quantizer = make().eval()
    quantizer.counts.copy_(torch.tensor([4.0, 4.0, 0.0, 0.0, 0.05, 8.0, 0.02]))
    result = quantizer(torch.randn(2, D, 2, 2))
    shares = [v / 16.07 for v in (4, 4, 0.05, 8, 0.02)]
    assert result.perplexity == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-5)
    assert result.usage == pytest.approx(4 / 7)  # 0.05 is at least 1% of the mean, 2.3; 0.02 is not
    assert result.perplexity.shape == result.usage.shape == () and not result.perplexity.requires_grad


# ------------------------------------------------------------------------------ restarts
def test_dead_codes_start_at_vectors_of_the_batch():
    quantizer = make(1, restart_below=0.5).train()
    quantizer.counts.copy_(torch.tensor([3.0, 0.4, 3.0, 3.0, 0.6, 3.0, 0.0]))
    quantizer.sums.copy_(quantizer.codebook * quantizer.counts[:, None])
    before, z_e = copy.deepcopy(quantizer), torch.randn(4, D, 5)
    mean = float(before.counts.mean())  # 1.857: codes below 0.929 are dead
    result = quantizer(z_e)
    rows = vectors_last(z_e, 1).reshape(-1, D)
    dead = [1, 4, 6]
    nearest = torch.cdist(quantizer.codebook[dead], rows)
    assert (nearest.min(1).values < 1e-3).all() and len(set(nearest.argmin(1).tolist())) == 3
    assert set(dead) <= set(result.codes.flatten().tolist())  # each has its own vector at least
    alive = [0, 2, 3, 5]
    torch.testing.assert_close(quantizer.codebook[alive], before.codebook[alive], rtol=1e-4, atol=1e-5)
    used = torch.bincount(result.codes.flatten(), minlength=K)
    start = torch.where(before.counts < 0.5 * mean, 0.5 * mean, before.counts)
    torch.testing.assert_close(quantizer.counts, 0.99 * start + 0.01 * used)
    own = torch.stack([rows[result.codes.flatten() == k].sum(0) for k in dead])
    at = quantizer.codebook[dead] * 0.5 * mean
    torch.testing.assert_close(quantizer.sums[dead], 0.99 * at + 0.01 * own, rtol=1e-4, atol=1e-4)


def test_restarts_bring_all_codes_into_use():
    """Data of eight clusters, codes that all start far away on one side."""
    centers = 5 * torch.randn(8, 2)
    quantizers = [VectorQuantizer(8, 2, 0, decay=0.9, restart_below=r).train() for r in (0.0, 0.1)]
    for quantizer in quantizers:
        quantizer.codebook.copy_(torch.randn(8, 2) * 0.1 + 40)
        quantizer.sums.copy_(quantizer.codebook)
        for _ in range(60):
            quantizer(centers.repeat(8, 1) + 0.1 * torch.randn(64, 2))
    without, restarted = (quantizer.eval()(centers) for quantizer in quantizers)
    assert without.usage < 0.6 and restarted.usage == 1
    assert restarted.perplexity > without.perplexity + 1 and restarted.penalty.sum() < without.penalty.sum()


# ------------------------------------------------------------------------------ precision
@pytest.mark.parametrize("options", OPTIONS[:5], ids=ids)
def test_float32_inside_under_mixed_precision(options):
    quantizer, z_e = make(**options).eval(), torch.randn(40, D, 8, 8)
    expected = quantizer(z_e)
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(quantizer(z_e), expected, strict=True):
            assert torch.equal(a, b) and a.dtype == b.dtype
    half = z_e.bfloat16().requires_grad_()
    result, expected = quantizer(half), quantizer(half.detach().float())
    assert torch.equal(result.codes, expected.codes) and torch.equal(result.z, expected.z)
    result.z.sum().backward()
    assert result.z.dtype == result.penalty.dtype == torch.float32 and half.grad.dtype == torch.bfloat16


def test_training_statistics_stay_float32_under_mixed_precision():
    one, other, z_e = make().train(), make().train(), torch.randn(40, D, 8, 8)
    for _ in range(3):
        one(z_e)
        with torch.autocast("cpu", torch.bfloat16):
            other(z_e)
    assert all(torch.equal(v, other.state_dict()[n]) for n, v in one.state_dict().items())


def test_double_input():
    quantizer, z_e = make().eval(), torch.randn(4, D, 5, 5).double()
    result = quantizer(z_e)
    assert torch.equal(result.z, quantizer.embed(result.codes)) and result.penalty.dtype == torch.float64
    torch.testing.assert_close(result.penalty, 0.25 * (z_e - result.z).square().sum((1, 2, 3)))


# ------------------------------------------------------------------------------ recording
class Network(nn.Module):
    """A layer, the quantizer, and a look at the codebook afterwards, as a step has them."""

    def __init__(self, quantizer):
        super().__init__()
        self.scale, self.quantizer = nn.Parameter(torch.ones(D, 1, 1)), quantizer

    def forward(self, x):
        codes, z, penalty, perplexity, usage = self.quantizer(self.scale * x)
        again = self.quantizer.embed(codes)
        return (z.sin().sum() + penalty.sum(), z, again, perplexity, usage)


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_a_step_can_be_recorded(options):
    network, batch = Network(make(**options)).train(), {"x": torch.randn(6, D, 3, 3)}
    twin = copy.deepcopy(network)
    recording = Recording(network, network, batch, True)
    recording.check(batch, 1e-6)
    for name, value in twin.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name  # recording trains nothing
    for seed in range(3):
        x = torch.randn(6, D, 3, 3)
        torch.manual_seed(seed)
        outputs, gradients = recording({"x": x})
        torch.manual_seed(seed)
        expected = twin(x)
        twin.zero_grad()
        expected[0].backward()
        for a, b in zip(outputs, expected, strict=True):
            torch.testing.assert_close(a, b.detach())
        assert torch.equal(outputs[1], outputs[2])
        for a, p in zip(gradients, twin.parameters(), strict=True):
            torch.testing.assert_close(a, p.grad)
        for name, value in twin.named_buffers():
            torch.testing.assert_close(dict(network.named_buffers())[name], value)


# ------------------------------------------------------------------------------ initialization, saving
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_initialization(options):
    quantizer, z_e = make(**options), 3 + torch.randn(30, D, 4, 4)
    assert not quantizer.initialized and make(k_means=False).initialized
    before = quantizer.eval()(z_e).penalty.mean()
    quantizer.initialize(z_e)
    assert quantizer.initialized and quantizer(z_e).penalty.mean() < 0.7 * before
    if quantizer.update == "ema":
        torch.testing.assert_close(quantizer.sums, quantizer.counts[:, None] * quantizer.codebook)
    used = torch.bincount(quantizer(z_e).codes.flatten(), minlength=K).float()
    torch.testing.assert_close(quantizer.counts, used / used.mean())
    codebook = quantizer.codebook.detach().clone()
    quantizer.train()(z_e)  # the first step's codebook is the initial one
    torch.testing.assert_close(quantizer.codebook.detach(), codebook, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_state_dict_round_trip(options):
    quantizer, z_e = make(**options).train(), torch.randn(4, D, 3, 3)
    quantizer.initialize(z_e)
    quantizer(z_e)
    other = VectorQuantizer(K, D, **options)
    other.load_state_dict(quantizer.state_dict())
    results = []
    for q in (quantizer, other):
        torch.manual_seed(0)
        results.append(q(z_e))
    assert bool(other.initialized) and all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# ------------------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codes": 0}, "num_codes and dim must be positive"),
        ({"dim": 0}, "num_codes and dim must be positive"),
        ({"grid_dim": -1}, "grid_dim not negative"),
        ({"update": "emma"}, "unknown update 'emma'. Did you mean 'ema'"),
        ({"distance": "cosin"}, "unknown distance 'cosin'. Did you mean 'cosine'"),
        ({"decay": 1.0}, "decay must lie between 0 and 1"),
        ({"commitment": -0.1}, "commitment must be"),
        ({"restart_below": 1.5}, r"restart_below is a fraction of the mean count and must lie in \[0, 1\)"),
        ({"restart_below": 0.1, "update": "gradient"}, "restart_below needs update 'ema'"),
        ({"num_codes": 10**12}, "1000000000000 codes of 4 numbers need 4.196e.07 MiB .* memory_mib allows 128"),
        ({"memory_mib": 1e-4}, "memory_mib allows 0.0001: use fewer codes or raise it"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        VectorQuantizer(**{"num_codes": K, "dim": D, **options})


@pytest.mark.parametrize(
    ("grid_dim", "shape", "message"),
    [
        (2, (3, 5, 2, 2), r"expects vectors of 4 numbers, \(..., 4, height, width\), got \(3, 5, 2, 2\)"),
        (1, (D,), r"\(..., 4, length\), got \(4,\)"),
        (0, (2, 3), r"\(..., 4\), got \(2, 3\)"),
    ],
)
def test_bad_vectors(grid_dim, shape, message):
    quantizer = VectorQuantizer(K, D, grid_dim)
    for call in (quantizer, quantizer.initialize):
        with pytest.raises(InputError, match=message):
            call(torch.randn(shape))


def test_bad_input():
    quantizer = make()
    with pytest.raises(InputError, match=r"expects real numbers, got torch\.int64"):
        quantizer(torch.zeros(2, D, 1, 1, dtype=torch.long))
    with pytest.raises(InputError, match="at least one vector"):
        quantizer.initialize(torch.zeros(0, D, 1, 1))
    with pytest.raises(InputError, match=r"embeds integers, grids of 2 dimensions; got torch.float32 \(2, 2\)"):
        quantizer.embed(torch.zeros(2, 2))
    with pytest.raises(InputError, match=r"got torch.int64 \(3,\)"):
        quantizer.embed(torch.zeros(3, dtype=torch.long))
