"""Numbers of NumPy and of tensors are plain from the start, so that every file can hold them."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tarflow import ConfigurationError, Flow
from tarflow.arguments import check_integer, check_real
from tarflow.errors import CheckpointError
from tarflow.flows.base import StandardNormal
from tarflow.flows.noise import Noise
from tarflow.machine.files import json_text
from tarflow.registry import Part

ROOT = Path(__file__).parents[1]


def kinds(number):
    """The same number as people have it."""
    return [np.float32(number), np.float64(number), np.array(number), torch.tensor(number)]


@pytest.mark.parametrize("number", [*kinds(0.5), *kinds(2), np.int8(2), Fraction(1, 2), 0.5, 2])
def test_a_real_number_is_read_as_a_plain_one(number):
    found = check_real("std", number)
    assert type(found) in (int, float)
    assert found == number


@pytest.mark.parametrize("value", [True, np.bool_(True), torch.tensor(True), 1j, "1", None])
def test_what_is_not_a_real_number_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"std .* must be a number"):
        check_real("std", value)


@pytest.mark.parametrize("value", [np.bool_(True), torch.tensor(True), np.float64(3), "3"])
def test_what_is_not_an_integer_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"levels .* must be an integer"):
        check_integer("levels", value)


def test_whatever_keeps_numbers_keeps_plain_ones(tmp_path):
    command = [sys.executable, "-m", "tests.numbers_of_others", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads((tmp_path / "config.json").read_text())["flow"]
    assert content["num_classes"] == 10
    assert content["noise"] == {"type": "GaussianNoise", "std": float(np.float32(0.05))}


@dataclass(frozen=True)
class Unchecked(Noise):
    """Somebody's noise, which checks nothing."""

    std: object = 0.1

    def __call__(self, x, source=None):
        return x


@dataclass(frozen=True)
class Settings(Part):
    """What somebody's flow is made from."""

    noise: Noise


class Somebodys(Flow):
    """Somebody's flow."""

    def __init__(self, noise: Noise):
        super().__init__([], StandardNormal(2, 2), noise=noise, description=Settings(noise))


@pytest.mark.parametrize("number", kinds(0.25))
def test_parts_that_check_nothing_are_saved_too(number, tmp_path):
    Somebodys(Unchecked(number)).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())["flow"]
    assert content["noise"]["std"] == 0.25


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "std nan cannot be saved: give a finite number"),
        (np.float32("inf"), "std inf cannot be saved"),
        (print, r"std <built-in function print> cannot be saved: config.json holds numbers"),
        ({"a": 1}, "std {'a': 1} cannot be saved"),
    ],
)
def test_what_a_file_cannot_keep_is_refused_before_training(value, message, tmp_path):
    flow = Somebodys(Unchecked(value))
    with pytest.raises(CheckpointError, match=message):
        assert flow.described  # which the callback that saves asks when training starts
    with pytest.raises(CheckpointError, match=message):
        flow.save_pretrained(tmp_path / "new")
    assert not list(tmp_path.rglob("config.json"))


def test_what_is_not_finite_is_null_in_files():
    content = {
        "mean": math.nan,
        "interval": (-math.inf, np.float32("nan"), 1.0),
        "array": np.array([1.5, np.nan]),
        "tensor": torch.tensor([2, 3]),
        "count": np.int64(0),
    }

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    found = json.loads(json_text(content), parse_constant=refuse)
    assert found == {
        "mean": None,
        "interval": [None, None, 1.0],
        "array": [1.5, None],
        "tensor": [2, 3],
        "count": 0,
    }


def test_what_json_does_not_know_is_refused():
    with pytest.raises(TypeError, match="cannot be kept in a file"):
        json_text({"part": object()})
