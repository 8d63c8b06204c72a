"""Distances between two sets of vectors, the features of images."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

Vectors = Shaped[np.ndarray, "some dims"]
OtherVectors = Shaped[np.ndarray, "others dims"]

NEIGHBOUR = 3
"""The neighbour whose distance is the radius around a vector, for precision and recall."""
ROWS = 1000
"""Vectors whose distances from all others are in memory at a time."""


@dataclass(frozen=True)
class Moments:
    """The mean and the covariance, without bias, of vectors."""

    mean: Float[np.ndarray, " dims"]
    covariance: Float[np.ndarray, "dims dims"]

    @classmethod
    def of(cls, vectors: Vectors) -> "Moments":
        """Those of the rows of a matrix, in float64."""
        vectors = vectors.astype(np.float64)
        covariance = np.atleast_2d(np.cov(vectors, rowvar=False))
        return cls(vectors.mean(axis=0), covariance)


def frechet_distance(a: Vectors, b: OtherVectors) -> float:
    r"""Fréchet distance between Gaussians fitted to two sets of vectors.

    $|\mu_a - \mu_b|^2 + \mathrm{tr}(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2})$;
    of Inception's features it is the FID (Heusel et al., arXiv 1706.08500).

    Args:
        a: A row per vector.
        b: A row per vector; the numbers of rows may differ.
    """
    return distance_of_moments(Moments.of(a), Moments.of(b))


def distance_of_moments(a: Moments, b: Moments) -> float:
    """Fréchet distance between two Gaussians."""
    # tr (A B)^1/2 is the sum of the singular values of A^1/2 B^1/2; taking them of the roots, and
    # not the roots of eigenvalues of a product, keeps the precision of singular covariances
    roots = _square_root(a.covariance) @ _square_root(b.covariance)
    spectrum = np.linalg.svd(roots, compute_uv=False)
    distance = np.square(a.mean - b.mean).sum()
    trace = np.trace(a.covariance) + np.trace(b.covariance)
    return float(distance + trace - 2 * spectrum.sum())


def kernel_distance(a: Vectors, b: OtherVectors) -> float:
    r"""Squared maximum mean discrepancy, without bias, with the kernel $(x \cdot y / D + 1)^3$.

    Of Inception's features it is the KID (Bińkowski et al., arXiv 1801.01401), over all pairs:
    what the published mean over random subsets estimates. It can be negative where the sets are
    alike. Both need at least 2 rows.
    """
    return kernel_within(a) + kernel_within(b) - 2 * kernel_between(a, b)


def kernel_within(vectors: Vectors) -> float:
    """The mean kernel of two different vectors of a set."""
    vectors, size = vectors.astype(np.float64), len(vectors)
    own = np.square(vectors).sum(axis=1) / vectors.shape[1] + 1
    total = sum(float(_kernel(vectors[rows], vectors).sum()) for rows in _slices(size))
    return (total - float((own**3).sum())) / (size * (size - 1))


def kernel_between(a: Vectors, b: OtherVectors) -> float:
    """The mean kernel of two vectors of different sets."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    total = sum(float(_kernel(a[rows], b).sum()) for rows in _slices(len(a)))
    return total / (len(a) * len(b))


def precision_and_recall(samples: Vectors, real: OtherVectors) -> tuple[float, float]:
    """Share of samples among the real, and of the real among samples.

    A vector is among a set where it lies in a ball around one of the set, whose radius is the
    distance of that one's third neighbour (Kynkäänniemi et al., arXiv 1904.06991). The larger set
    is cut to the size of the smaller: radii shrink as sets grow. Both need more than 3 rows.
    """
    size = min(len(samples), len(real))
    samples, real = (each[:size].astype(np.float64) for each in (samples, real))
    return _share_inside(samples, real), _share_inside(real, samples)


def _square_root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The kernel between all pairs."""
    inner = a @ b.T / a.shape[1] + 1
    return inner * inner * inner  # a power takes ten times as long


def _share_inside(points: np.ndarray, centres: np.ndarray) -> float:
    """Share of points in a ball around any of the centres."""
    nearest = (
        np.partition(_squares(centres[rows], centres), NEIGHBOUR, axis=1)[:, NEIGHBOUR]
        for rows in _slices(len(centres))
    )
    radii, inside = np.concatenate(list(nearest)), []
    for rows in _slices(len(points)):
        inside.append((_squares(points[rows], centres) <= radii).any(axis=1))
    return float(np.concatenate(inside).mean())


def _slices(count: int) -> list[slice]:
    """Rows that fit memory."""
    return [slice(first, first + ROWS) for first in range(0, count, ROWS)]


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances between all pairs."""
    products = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return products.clip(min=0)
