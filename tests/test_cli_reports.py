"""What a command leaves is written before it is told, for each model in a place of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tarflow import GaussianNoise, Pixels
from tarflow.cli import run_command

from .models import randomized, tiny_flow

EVALUATE = ["data=random", *(f"data.data.num_{part}=4" for part in ("train", "test"))]
EVALUATE += ["data.data.image_size=8", "data.data.num_classes=0", "metrics.batch_size=4"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def save(*names: str) -> None:
    """Save a model for images of data=random in each folder, another one in each."""
    for index, name in enumerate(names):
        flow = tiny_flow(8, 2, 3, codec=Pixels(256), noise=GaussianNoise(0.1))
        randomized(flow, 0.01, seed=index).save_pretrained(name)


def test_models_beside_each_other_have_folders_of_their_own():
    save("run/pretrained", "run/pretrained_0.5", "run/other")
    for name, suffix in (("pretrained", ""), ("pretrained_0.5", "_0.5"), ("other", "_other")):
        run_command("evaluate", [f"checkpoint=run/{name}", *EVALUATE])
        run_command("sample", [f"checkpoint=run/{name}", "num_samples=2"])
        report = Path(f"run/evaluation{suffix}/likelihood/report.json")
        assert json.loads(report.read_text())["checkpoint"] == f"run/{name}"
        assert Path(f"run/samples{suffix}/grid.png").exists()


def test_the_report_of_another_model_is_kept():
    save("a", "b")
    for name in ("a", "a", "b"):
        run_command("evaluate", [f"checkpoint={name}", *EVALUATE, "output=out"])
    told = json.loads(Path("out/report.json").read_text())
    assert told["checkpoint"] == "b"
    [kept] = Path("out").glob("report_*.json")
    assert json.loads(kept.read_text())["checkpoint"] == "a"
    assert len(list(Path("out").glob("per_image*.csv"))) == 2


def test_a_closed_pipe_and_an_ascii_terminal_end_nothing():
    save("pretrained")
    command = [sys.executable, "-m", "tarflow", "evaluate", "checkpoint=pretrained", *EVALUATE]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    reader, writer = os.pipe()
    os.close(reader)
    command += ["output=out"]
    finished = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, env=ascii_only, text=True
    )
    os.close(writer)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert Path("out/report.json").exists()


def test_letters_that_a_terminal_does_not_know():
    code = "from tarflow.cli.streams import lasting_streams\nwith lasting_streams(): print('é')"
    command = [sys.executable, "-c", f"# -*- coding: utf-8 -*-\n{code}"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    finished = subprocess.run(command, capture_output=True, env=ascii_only, check=True)
    assert finished.stdout == b"?\n"
