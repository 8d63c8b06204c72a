"""`tarflow sample` of a student: folders, resume, several processes, and a flow that judges."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tarflow import ExampleSeeds, GaussianNoise, Pixels, VelocityStudent, load

from ..models import randomized, tiny_flow
from ..test_cli import error_of, tarflow
from ..test_cli_sample import contents, times

CODEC = Pixels(17)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A run folder of a tiny student, with its flow beside it."""
    folder = tmp_path_factory.mktemp("student")
    sizes = {"num_layers": 1, "model_dim": 16, "head_dim": 8}
    student = VelocityStudent(4, 2, 1, num_classes=3, codec=CODEC, **sizes)
    randomized(student, std=0.2).save_pretrained(folder / "student" / "pretrained")
    flow = tiny_flow(num_channels=1, num_classes=3, codec=CODEC, noise=GaussianNoise(0.3))
    flow.save_pretrained(folder / "flow" / "pretrained")
    return folder / "student"


@pytest.fixture
def sample(checkpoint, tmp_path, monkeypatch):
    """Calls the command on that folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return tarflow("sample", f"checkpoint={checkpoint}", *arguments)

    return call


def images(folder):
    with np.load(f"{folder}/samples.npz") as arrays:
        return torch.from_numpy(arrays["images"])


def test_samples_are_those_of_the_student(sample, checkpoint, capsys):
    sample("num_samples=5", "save_npz=true", "save_png=true", "steps=2", "guidance=1.5")
    output = checkpoint.parent / "student" / "samples"
    assert {path.name for path in output.iterdir()} == {
        *("certificates.csv", "grid.png", "samples.npz", "images", "shards")
    }
    student, label = load(checkpoint / "pretrained"), torch.arange(5) % 3
    source = ExampleSeeds(0, range(5))
    x = student.sample(5, label, steps=2, weight=1.5, source=source)
    assert torch.equal(images(output), CODEC.decode(x))
    settings = json.loads((output / "shards" / "settings.json").read_text())
    assert {"guidance": 1.5, "steps": 2, "seed": 0}.items() <= settings.items()
    assert "5 samples" in capsys.readouterr().out
    before = times(output)
    sample("num_samples=5", "save_npz=true", "save_png=true", "steps=2", "guidance=1.5")
    assert "5 samples are drawn already" in capsys.readouterr().out
    assert times(output) == before


def test_a_run_is_extended_and_shared(sample, capsys):
    what = ["batch_size=2", "save_npz=true"]
    sample("num_samples=3", "output=two", *what)
    sample("num_samples=7", "output=two", *what, "rank=1", "world_size=2")
    sample("num_samples=7", "output=two", *what, "rank=0", "world_size=2")
    assert "going on from" in capsys.readouterr().out
    sample("num_samples=7", "output=one", *what)
    assert contents(Path("two"))["samples.npz"] == contents(Path("one"))["samples.npz"]
    assert contents(Path("two"))["grid.png"] == contents(Path("one"))["grid.png"]


def test_a_flow_judges_and_the_likeliest_is_kept(sample, checkpoint, capsys):
    flow = f"flow={checkpoint.parent / 'flow'}"
    sample("num_samples=4", "output=judged", flow)
    out = capsys.readouterr().out
    assert "4 samples, log p" in out
    assert "residual" in out
    assert "likeliest" not in out
    sample("num_samples=4", "output=best", flow, "best_of=3", "batch_size=3")
    out = capsys.readouterr().out
    assert "the likeliest of 3 draws each: 12 draws" in out
    rows = {}
    for name in ("judged", "best"):
        with open(f"{name}/certificates.csv", newline="") as file:
            rows[name] = list(csv.DictReader(file))
    for one, best in zip(rows["judged"], rows["best"], strict=True):
        assert float(best["log_prob"]) >= float(one["log_prob"]) - 1e-3
        assert float(best["residual"]) > 0
    assert {row["draw"] for row in rows["best"]} <= {"0", "1", "2"}
    assert "flow: " in error_of(
        "sample", f"checkpoint={checkpoint}", "output=best", "num_samples=4"
    )


def test_lower_precision_and_other_choices_are_kept_apart(sample, checkpoint):
    sample("num_samples=4", "output=out", "save_npz=true")
    given = ["sample", f"checkpoint={checkpoint}", "num_samples=4", "output=out"]
    assert "steps: 4 -> 1" in error_of(*given, "steps=1")
    assert "guidance: 0.0 -> 2.0" in error_of(*given, "guidance=2.0")
    assert "dtype: None -> torch.bfloat16" in error_of(*given, "dtype=bfloat16")
    sample("num_samples=4", "output=half", "save_npz=true", "dtype=bfloat16")
    assert (images("out").int() - images("half").int()).abs().max() <= 1


@pytest.mark.parametrize(
    "option",
    [
        *("decoder=jacobi", "denoise=false", "denoiser=one_step", "denoising_steps=3"),
        *("temperature=2.0", "guidance_rule=gaussian", "guidance_rule.depths=[0]", "window=3"),
        *("tolerance=0.1", "compile=false"),
    ],
)
def test_settings_of_flows_are_refused(sample, checkpoint, option):
    key = option.split("=")[0].split(".")[0]
    message = error_of("sample", f"checkpoint={checkpoint}", "output=a", option)
    assert f"{key} is a setting of flows, and " in message
    assert "holds a student, a VelocityStudent: leave it out" in message


@pytest.mark.parametrize("option", ["steps=3", "flow=run", "best_of=2"])
def test_settings_of_students_are_refused_for_flows(checkpoint, tmp_path, option):
    given = [f"checkpoint={checkpoint.parent / 'flow'}", f"output={tmp_path / 'a'}", option]
    message = error_of("sample", *given)
    assert f"{option.split('=')[0]} is a setting of students, and " in message
    assert "holds a flow, a TarFlow: leave it out" in message


def test_errors_say_what_to_do(checkpoint, tmp_path):
    command = ["sample", f"checkpoint={checkpoint}", f"output={tmp_path / 'a'}"]
    assert "give flow=RUN" in error_of(*command, "best_of=2")
    assert "steps 0 must be at least 1" in error_of(*command, "steps=0")
    assert "neither a pretrained folder" in error_of(*command, "flow=nowhere")
    message = error_of(*command, f"flow={checkpoint}")
    assert "holds a VelocityStudent, which is not a Flow: give the folder of a Flow" in message
    assert "colour is unknown" in error_of(*command, "+context.colour=1")
