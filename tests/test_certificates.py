"""Certificates of samples, kept beside them."""

import csv
import io

import numpy as np
import torch

from tarflow import Jacobi, Sequential
from tarflow.flows.report import SamplingReport
from tarflow.sampling.certificates import DecodingCertificates


def report(decoder, residual, redone=(False, False, False)) -> SamplingReport:
    """Of one transform and three examples."""
    count = torch.zeros(1, 3, dtype=torch.long)
    residual, redone = torch.tensor([residual]), torch.tensor([redone])
    return SamplingReport((decoder,), residual, count, (1,), count, redone, (False,))


def certificates() -> DecodingCertificates:
    """Of two transforms: the second sample misses the tolerance, the third was redone."""
    first = report(Jacobi(4, 1e-3), [1e-4, 2e-3, 0.0], (False, False, True))
    second = report(Sequential(), [3e-7, 0.5, 1e-7])
    return DecodingCertificates.of(SamplingReport.stack([first, second]))


def test_they_are_those_of_the_report():
    found = certificates()
    assert found.residual.shape == (3, 2)
    assert found.certified.tolist() == [True, False, True]
    assert found.redone.tolist() == [False, False, True]
    text = "2 of 3 samples certified, largest residual 5.0e-01, 1 redone in full precision"
    assert str(found) == text


def test_batches_are_joined_in_order():
    found = certificates()
    rows = {name: array[:1] for name, array in vars(found).items()} | {"samples": np.zeros(1)}
    joined = DecodingCertificates.join([vars(found), rows])
    assert joined.certified.tolist() == [True, False, True, True]
    assert np.array_equal(joined.residual, found.residual[[0, 1, 2, 0]])


def test_the_table_has_a_row_for_each_sample_and_a_column_for_each_transform():
    rows = list(csv.DictReader(io.StringIO(certificates().to_csv())))
    assert [row["index"] for row in rows] == ["0", "1", "2"]
    assert [row["certified"] for row in rows] == ["1", "0", "1"]
    assert [row["redone"] for row in rows] == ["0", "0", "1"]
    assert [float(row["residual_1"]) for row in rows] == [3e-7, 0.5, 1e-7]


def test_what_is_not_a_number_is_not_hidden():
    unknown = report(Sequential(), [float("nan"), 0.0, 0.0])
    found = DecodingCertificates.of(unknown)
    assert found.certified.tolist() == [False, True, True]
    assert "2 of 3 samples certified, largest residual nan" in str(found)
