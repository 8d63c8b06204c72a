r"""Interpolative decomposition: a matrix by some of its own columns (arXiv 2108.00065).

$A \approx A_J T$ with $T_J = I$. Pivoted QR takes the columns in an order, in which the next is
always the one of which most is left when all that its predecessors tell is taken off; how much
that is stands on the diagonal of R.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import scipy.linalg
from jaxtyping import Float64, Int64

Matrix = Float64[np.ndarray, "rows columns"]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Columns of a matrix, or blocks of them, in the order in which they are taken.

    Attributes:
        order: Their indices.
        importance: How much of each is left by those before it: it never grows. What is rounding
            alone is 0.
    """

    order: Int64[np.ndarray, " units"]
    importance: Float64[np.ndarray, " units"]

    def kept(self, threshold: float, step: int = 1) -> Int64[np.ndarray, " kept"]:
        """The indices of what is more important than a threshold, in order.

        They are made up to the next multiple of a step, as far as there are others, and at least
        one step.
        """
        count = max(1, int((self.importance > threshold).sum()))
        return np.sort(self.order[: -(-count // step) * step])


def rank_columns(matrix: Matrix) -> Ranking:
    """Rank the columns of a matrix by pivoted QR."""
    r, order = cast(Any, scipy.linalg.qr(matrix, mode="r", pivoting=True))
    importance = np.zeros(len(order))
    diagonal = np.abs(np.diag(r))
    importance[: len(diagonal)] = diagonal
    return Ranking(order.astype(np.int64), without_rounding(importance, matrix))


def rank_blocks(
    matrix: Matrix, readers: Float64[np.ndarray, "outputs columns"], size: int
) -> Ranking:
    """Rank blocks of columns, of a size each: by what is left of it, as the readers see it.

    That is the Frobenius norm of the rest of a block times the transposed readers of its columns.
    With blocks of one column this is pivoted QR of columns times the norms of their readers.
    """
    rest, count = matrix.copy(), matrix.shape[1] // size
    weights = readers.reshape(len(readers), count, size)
    left, order, importance = list(range(count)), [], []
    while left:
        blocks = rest.reshape(len(rest), count, size)
        sizes = [np.linalg.norm(blocks[:, unit] @ weights[:, unit].T) for unit in left]
        best = int(np.argmax(sizes))
        importance.append(min([sizes[best], *importance[-1:]]))
        order.append(left.pop(best))
        basis = scipy.linalg.orth(blocks[:, order[-1]])
        rest -= basis @ (basis.T @ rest)
    whole = matrix * np.linalg.norm(readers, axis=0)
    return Ranking(np.array(order), without_rounding(np.array(importance), whole))


def without_rounding(importance: np.ndarray, matrix: Matrix) -> np.ndarray:
    """The importance of columns of a matrix, 0 where it is what rounding leaves of nothing."""
    floor = np.linalg.norm(matrix) * max(matrix.shape) * np.finfo(np.float64).eps
    return np.where(importance > floor, importance, 0.0)


def coefficients(
    matrix: Matrix, kept: Int64[np.ndarray, " kept"]
) -> Float64[np.ndarray, "kept columns"]:
    """The T that brings the kept columns of a matrix nearest to all: rows of kept columns.

    Where kept columns depend on one another, it is the smallest one.
    """
    found = np.zeros((len(kept), matrix.shape[1]))
    found[:, kept] = np.eye(len(kept))
    others = np.setdiff1d(np.arange(matrix.shape[1]), kept)
    if len(others):
        rounding = max(matrix.shape) * np.finfo(np.float64).eps
        given: Any = {"cond": rounding, "lapack_driver": "gelsy"}
        solved: Any = scipy.linalg.lstsq(matrix[:, kept], matrix[:, others], **given)
        found[:, others] = solved[0]
    return found
