"""Interpolative decomposition: against SciPy's own, and against what it promises."""

import numpy as np
import pytest
import scipy.linalg.interpolative

from tarflow.compression.decomposition import coefficients, rank_blocks, rank_columns


def decaying(rows: int = 40, columns: int = 30, seed: int = 0) -> np.ndarray:
    """A matrix whose singular values fall by a third from one to the next."""
    draws = np.random.default_rng(seed)
    left, right = (np.linalg.qr(draws.normal(size=(n, columns)))[0] for n in (rows, columns))
    return left * (2 / 3) ** np.arange(columns) @ right.T


@pytest.mark.parametrize("count", [1, 5, 12])
def test_columns_and_coefficients_are_those_of_scipy(count):
    matrix = decaying()
    order, proj = scipy.linalg.interpolative.interp_decomp(matrix, count, rand=False)
    ranking = rank_columns(matrix)
    assert ranking.order[:count].tolist() == order[:count].tolist()
    kept = np.sort(order[:count])
    assert ranking.kept(ranking.importance[count]).tolist() == kept.tolist()
    expected = scipy.linalg.interpolative.reconstruct_interp_matrix(order, proj)
    rows = np.argsort(order[:count])
    np.testing.assert_allclose(coefficients(matrix, kept), expected[rows], atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_the_error_keeps_the_bound_and_kept_columns_are_exact(seed):
    matrix = decaying(seed=seed)
    singular, size = np.linalg.svd(matrix, compute_uv=False), matrix.shape[1]
    ranking = rank_columns(matrix)
    assert (np.diff(ranking.importance) <= 1e-15).all()
    for count in range(1, size):
        kept = np.sort(ranking.order[:count])
        told = coefficients(matrix, kept)
        assert np.array_equal(told[:, kept], np.eye(count))
        error = np.linalg.norm(matrix - matrix[:, kept] @ told, 2)
        assert error <= np.sqrt(1 + count * (size - count)) * singular[count]


def test_what_is_rounding_alone_is_of_no_importance():
    matrix = decaying(columns=8)
    matrix = np.concatenate([matrix, matrix @ np.ones((8, 3)), np.zeros((40, 2))], axis=1)
    ranking = rank_columns(matrix)
    assert (ranking.importance > 0).tolist() == 8 * [True] + 5 * [False]
    kept = ranking.kept(0.0)
    np.testing.assert_allclose(matrix[:, kept] @ coefficients(matrix, kept), matrix, atol=1e-13)


def test_nothing_at_all_keeps_one_column():
    ranking = rank_columns(np.zeros((4, 3)))
    assert ranking.importance.tolist() == [0, 0, 0]
    assert len(ranking.kept(0.0)) == 1
    assert not coefficients(np.zeros((4, 3)), ranking.kept(0.0))[:, [1, 2]].any()


def test_blocks_of_one_column_are_columns_by_the_size_of_their_readers():
    matrix, readers = decaying(), np.random.default_rng(1).normal(size=(6, 30))
    blocks = rank_blocks(matrix, readers, 1)
    columns = rank_columns(matrix * np.linalg.norm(readers, axis=0))
    assert blocks.order[:15].tolist() == columns.order[:15].tolist()
    np.testing.assert_allclose(blocks.importance[:15], columns.importance[:15], rtol=1e-8)


def test_blocks_are_taken_by_what_the_others_do_not_tell():
    matrix, readers = decaying(), np.random.default_rng(1).normal(size=(6, 30))
    ranking = rank_blocks(matrix, readers, 5)
    taken: list[int] = []
    for best, importance in zip(ranking.order, ranking.importance, strict=True):
        columns = [5 * block + n for block in taken for n in range(5)]
        left = {}
        for block in set(range(6)) - set(taken):
            own = np.arange(5 * block, 5 * block + 5)
            rest = matrix[:, own]
            if columns:
                told = np.linalg.lstsq(matrix[:, columns], rest, rcond=None)[0]
                rest = rest - matrix[:, columns] @ told
            left[block] = np.linalg.norm(rest @ readers[:, own].T)
        assert best == max(left, key=lambda block: left[block])
        np.testing.assert_allclose(importance, left[best], rtol=1e-6)
        taken.append(int(best))
