"""Reports: what is printed and what is written."""

import csv
import hashlib
import json
import math
import statistics

import pytest
import torch

from tarflow import NoNoise
from tarflow.evaluation import Report
from tarflow.evaluation.reporting import mean_and_deviation, mean_and_error
from tarflow.flows.checkpoint import save

ROWS = [("bits/dim", "1.2345", "0.0100"), ("deviation", "1e-06", "")]


def report(**options):
    values = {"count": 3, "bits_per_dim": {"mean": 1.5, "standard_error": 0.1}}
    return Report("likelihood", "3 test images", ("", "mean", "error"), ROWS, values, **options)


def read_table(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_values_are_written(tmp_path):
    path = report().write(tmp_path / "new" / "folder", tmp_path / "pretrained")
    assert path == tmp_path / "new" / "folder" / "report.json"
    assert json.loads(path.read_text()) == {
        "checkpoint": str(tmp_path / "pretrained"),
        "count": 3,
        "bits_per_dim": {"mean": 1.5, "standard_error": 0.1},
    }
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]


def test_values_for_images_are_written(tmp_path):
    per_image = {"bits_per_dim": [1.0, 1 / 3, -2.5e-7], "label": [4, 0, 2]}
    report(per_image=per_image).write(tmp_path, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["per_image.csv", "report.json"]
    assert read_table(tmp_path / "per_image.csv") == [
        ["index", "bits_per_dim", "label"],
        ["0", "1.0", "4"],
        ["1", repr(1 / 3), "0"],
        ["2", "-2.5e-07", "2"],
    ]


def test_columns_of_different_length_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        report(per_image={"a": [1, 2], "b": [1]}).write(tmp_path, tmp_path)
    assert not (tmp_path / "per_image.csv").exists()


def test_report_is_replaced(tmp_path):
    report(per_image={"a": [1, 2]}).write(tmp_path, tmp_path / "old")
    path = report(per_image={"a": [3]}).write(tmp_path, tmp_path / "new")
    assert json.loads(path.read_text())["checkpoint"] == str(tmp_path / "new")
    assert read_table(tmp_path / "per_image.csv") == [["index", "a"], ["0", "3"]]


def test_table_is_printed(capsys):
    report().print()
    printed = capsys.readouterr().out
    assert "3 test images" in printed
    for row in ROWS:
        [line] = [line for line in printed.splitlines() if f" {row[0]} " in line]
        assert [cell.strip() for cell in line.split("│")[1:-1]] == list(row)


def test_mean_and_standard_error():
    values = torch.randn(50) + 3
    found = mean_and_error(values)
    expected = values.tolist()
    assert found["mean"] == pytest.approx(statistics.fmean(expected), rel=1e-12)
    error = statistics.stdev(expected) / math.sqrt(50)
    assert found["standard_error"] == pytest.approx(error, rel=1e-12)


def test_means_are_summed_in_double_precision():
    values = torch.full((10_001,), 0.1)
    values[0] = 3e7
    expected = statistics.fmean(values.tolist())
    assert mean_and_error(values)["mean"] == pytest.approx(expected, rel=1e-12)


def test_standard_error_of_one_value_is_unknown():
    found = mean_and_error(torch.tensor([2.0]))
    assert found["mean"] == 2
    assert math.isnan(found["standard_error"])


def test_mean_and_deviation():
    found = mean_and_deviation([1.0, 2.0, 4.0])
    assert found["mean"] == pytest.approx(7 / 3)
    assert found["deviation"] == pytest.approx(statistics.stdev([1, 2, 4]))
    assert mean_and_deviation([5.0]) == {"mean": 5.0, "deviation": 0.0}


@pytest.mark.parametrize("description", ["average of decay 0.9 at step 3", ""])
def test_a_report_tells_which_weights_were_evaluated(tmp_path, description):
    pretrained = tmp_path / "pretrained"
    save(pretrained, ("TarFlow", NoNoise()), {"weight": torch.ones(3)}, description)
    values = json.loads(report().write(tmp_path, pretrained).read_text())
    content = (pretrained / "model.safetensors").read_bytes()
    assert values["checkpoint_sha256"] == hashlib.sha256(content).hexdigest()
    assert values["checkpoint_weights"] == (description or "not told by the file")
