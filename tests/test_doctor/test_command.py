"""`tarflow doctor`, as a user or a container's health check runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from .. import fresh

HIDING = """
import sys
sys.modules["hydra"] = sys.modules["lightning"] = None
from tarflow.cli import main
sys.argv = ["tarflow", "doctor", "quick=true"]
main()
"""


def doctor(folder: Path, *arguments: str) -> tuple[int | None, str]:
    """The exit code of the command in a folder, and what it printed."""
    done = fresh.tarflow(folder, "doctor", *arguments)
    return done.returncode, done.stdout + done.stderr


def test_a_machine_that_can_train_is_healthy(tmp_path):
    code, text = doctor(tmp_path, "quick=true")
    assert code == 0, text
    assert "training can work here" in text
    assert "GB/s" not in text
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_output_folder_is_not_healthy(tmp_path):
    (tmp_path / "outputs").write_text("")
    code, text = doctor(tmp_path, "quick=true")
    assert code == 1
    assert "training cannot work here: folders: output" in text


def test_a_broken_lightning_is_told_and_hydra_is_not_needed(tmp_path):
    command = [sys.executable, "-c", HIDING]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    code, text = done.returncode, done.stdout + done.stderr
    assert code == 1
    assert "versions: lightning, versions: hydra-core" in text.replace("\n", " ")


@pytest.mark.parametrize("argument", ["quick=yes", "fast=true", "outputs"])
def test_unknown_arguments_are_named_with_those_allowed(tmp_path, argument):
    code, text = doctor(tmp_path, argument)
    assert code == 1
    assert f"{argument} is unknown" in text
    assert "directory=outputs" in text


def test_help_tells_what_the_exit_code_means(tmp_path):
    code, text = doctor(tmp_path, "--help")
    assert code == 0
    assert "ends with 0" in text


@pytest.mark.slow
def test_the_whole_examination_measures(tmp_path):
    code, text = doctor(tmp_path)
    assert code == 0, text
    assert "GB/s" in text
    assert "torch.compile on" in text
