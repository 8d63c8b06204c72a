"""Distances between two sets of vectors, the features of images."""

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    r"""Fréchet distance between Gaussians fitted to two sets of vectors.

    $|\mu_a - \mu_b|^2 + \mathrm{tr}(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2})$.

    Args:
        a: A row per vector.
        b: A row per vector; need not have as many rows.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # tr (A B)^1/2 is the sum of the singular values of A^1/2 B^1/2; taking them of the roots, and
    # not the roots of eigenvalues of a product, keeps the precision of singular covariances
    roots = _square_root(covariance_a) @ _square_root(covariance_b)
    spectrum = np.linalg.svd(roots, compute_uv=False)
    distance = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    trace = np.trace(covariance_a) + np.trace(covariance_b)
    return float(distance + trace - 2 * spectrum.sum())


def _square_root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
