"""Lloyd's algorithm: clusters that are known, few data, equal data, memory."""

import torch

from pyro_vae.networks.k_means import ROWS_PER_CODE, k_means, nearest_codes

MEMORY = 2**20


def distortion(rows, vectors):
    return torch.cdist(rows, vectors).min(1).values.square().mean()


def test_near_a_fixed_point_of_lloyds_equations():
    rows = torch.randn(500, 3).double()
    found, counts = k_means(rows, 6, MEMORY)
    codes = torch.cdist(rows, found).argmin(1)
    assert torch.equal(counts, torch.bincount(codes, minlength=6).double())
    for _ in range(60):  # it may have stopped after 20 rounds: go on to the fixed point by hand
        vectors = torch.stack([rows[codes == k].mean(0) for k in range(6)])
        codes = torch.cdist(rows, vectors).argmin(1)
    assert distortion(rows, found) < 1.05 * distortion(rows, vectors)
    assert distortion(rows, found) < 0.8 * distortion(rows, rows[:6])


def test_separate_clusters_are_found():
    centers = 100 * torch.randn(12, 4)
    rows = (centers[:, None] + torch.randn(12, 30, 4)).reshape(-1, 4)
    vectors, counts = k_means(rows, 12, MEMORY)
    nearest = torch.cdist(centers, vectors).min(1)
    assert (nearest.values < 2).all() and len(set(nearest.indices.tolist())) == 12
    assert torch.equal(counts, torch.full((12,), 30.0))


def test_equal_rows_do_not_waste_codes():
    """Nine of ten rows are the same, as the background of images is."""
    rows = torch.randn(1000, 4)
    rows[:900] = 0.5
    vectors, counts = k_means(rows, 20, MEMORY)
    assert (counts > 0).all() and (counts > 850).sum() == 1
    assert distortion(rows, vectors) < 0.5 * distortion(rows, rows[torch.randperm(1000)[:20]])


def test_fewer_data_than_codes():
    rows = torch.randn(5, 3)
    vectors, counts = k_means(rows, 12, MEMORY)
    assert distortion(rows, vectors) < 1e-10  # each has its own
    assert counts.sum() == 5 and (counts > 0).sum() == 5 and vectors.isfinite().all()
    assert len(vectors.unique(dim=0)) == 12
    assert torch.cdist(vectors, rows).min(1).values.max() < 3 * rows.std()


def test_one_value_only():
    for spherical in (False, True):
        rows = torch.tensor([[0.6, 0.8]]).repeat(40, 1)
        vectors, counts = k_means(rows, 4, MEMORY, spherical)
        assert vectors.isfinite().all() and counts.max() == 40
        assert distortion(rows, vectors) < 1e-10


def test_spherical():
    rows = torch.nn.functional.normalize(torch.randn(300, 3), dim=1)
    vectors, counts = k_means(rows, 5, MEMORY, spherical=True)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    assert distortion(rows, vectors) < 0.8 * distortion(rows, rows[:5]) and counts.sum() == 300


def test_the_number_of_rows_is_bounded():
    rows = torch.randn(3 * ROWS_PER_CODE, 2)
    _, counts = k_means(rows, 2, MEMORY)
    assert counts.sum() == 2 * ROWS_PER_CODE


def test_the_random_state_decides_and_memory_does_not():
    rows, results = torch.randn(200, 3).double(), []
    for memory in (1, 2**20):
        torch.manual_seed(4)
        results.append(k_means(rows, 6, memory))
    torch.testing.assert_close(*results)
    assert torch.equal(nearest_codes(rows, results[0][0], 1), nearest_codes(rows, results[0][0], 2**20))
