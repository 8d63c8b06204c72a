"""Distances between sets of vectors against computations that share nothing with ours."""

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from tarflow.evaluation import frechet_distance, kernel_distance, precision_and_recall
from tarflow.evaluation.reference import Reference


def vectors(count, dim=5, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(size=(count, dim)) + shift


def kernel_by_loops(a, b):
    """The definition, pair by pair."""

    def kernel(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    n = len(a)
    within = sum(
        kernel(s[i], s[j]) for s in (a, b) for i in range(n) for j in range(n) if i != j
    ) / (n * (n - 1))
    return within - 2 * sum(kernel(x, y) for x in a for y in b) / n**2


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_kernel_distance_is_that_of_the_definition_and_of_torchmetrics(shift):
    a, b = vectors(30), vectors(30, seed=1, shift=shift)
    found = kernel_distance(a, b)
    assert found == pytest.approx(kernel_by_loops(a.tolist(), b.tolist()), rel=1e-10)
    products = [(x @ y.T / 5 + 1) ** 3 for x, y in ((a, a), (a, b), (b, b))]
    from torchmetrics.image.kid import maximum_mean_discrepancy

    theirs = maximum_mean_discrepancy(*map(torch.from_numpy, products))
    assert found == pytest.approx(float(theirs), rel=1e-10)
    assert float(poly_mmd(torch.from_numpy(a), torch.from_numpy(b))) == pytest.approx(found)


def test_kernel_distance_is_what_random_subsets_estimate():
    """Those of torchmetrics, of the size that published numbers take a hundred of."""
    a, b = vectors(400), vectors(300, seed=1, shift=0.4)
    generator, found = np.random.default_rng(0), []
    for _ in range(400):
        few = (each[generator.choice(len(each), 50, replace=False)] for each in (a, b))
        found.append(float(poly_mmd(*map(torch.from_numpy, few))))
    error = np.std(found) / np.sqrt(len(found))
    assert kernel_distance(a, b) == pytest.approx(np.mean(found), abs=4 * error)
    assert abs(kernel_distance(vectors(300), vectors(200, seed=2))) < 0.1 * kernel_distance(a, b)


def test_a_reference_compares_as_the_distances_do():
    samples, real = vectors(60, shift=0.2), vectors(80, seed=1)
    precision, recall = precision_and_recall(samples, real)
    expected = {
        "frechet_distance": frechet_distance(samples, real),
        "kernel_distance": kernel_distance(samples, real),
        "precision": precision,
        "recall": recall,
    }
    assert Reference.of(real).compare(samples) == pytest.approx(expected)


def share_by_loops(points, centres):
    """The definition, point by point."""
    inside = 0
    for point in points:
        for i, centre in enumerate(centres):
            others = sorted(np.linalg.norm(centre - c) for j, c in enumerate(centres) if j != i)
            if np.linalg.norm(point - centre) <= others[2]:
                inside += 1
                break
    return inside / len(points)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.3, 0.0), (1.5, 2.0), (1.0, 50.0)])
def test_precision_and_recall_are_those_of_the_definition(scale, shift):
    samples, real = scale * vectors(40, 3, shift=shift), vectors(40, 3, seed=1)
    precision, recall = precision_and_recall(samples, real)
    assert precision == share_by_loops(samples, real)
    assert recall == share_by_loops(real, samples)


def test_precision_and_recall_tell_narrow_from_spread_samples():
    real = vectors(300)
    narrow, spread = 0.3 * vectors(300, seed=1), 3 * vectors(300, seed=1)
    assert precision_and_recall(narrow, real)[0] > 0.95
    assert precision_and_recall(narrow, real)[1] < 0.2
    assert precision_and_recall(spread, real)[0] < 0.2
    assert precision_and_recall(real, real) == (1.0, 1.0)


def test_more_vectors_of_one_set_do_not_change_precision_and_recall():
    samples, real = vectors(50), vectors(90, seed=1)
    assert precision_and_recall(samples, real) == precision_and_recall(samples, real[:50])


def test_rows_are_compared_in_parts_that_fit_memory(monkeypatch):
    samples, real = vectors(70), vectors(70, seed=1)
    expected = (*precision_and_recall(samples, real), kernel_distance(samples, real))
    monkeypatch.setattr("tarflow.evaluation.distances.ROWS", 9)
    found = (*precision_and_recall(samples, real), kernel_distance(samples, real))
    assert found == pytest.approx(expected, rel=1e-12)
