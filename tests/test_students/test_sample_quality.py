"""Quality of a student's samples, in one pass and several."""

import json
import statistics

import pytest
import torch

from tarflow import ConfigurationError, ExampleSeeds, LinearGuidance, Pixels, VelocityStudent
from tarflow.cli import run_command
from tarflow.data import digits
from tarflow.evaluation import (
    ClassificationMetrics,
    LikelihoodMetrics,
    PixelFeatures,
    SampleMetrics,
    frechet_distance,
)

from ..models import randomized
from ..test_cli import error_of
from ..test_evaluation.test_samples import rows_of

NUM_SAMPLES = 20


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def student():
    """A student of digits with random weights."""
    sizes = {"num_layers": 1, "model_dim": 16, "head_dim": 8}
    student = VelocityStudent(8, 2, 1, num_classes=10, codec=Pixels(17), **sizes)
    return randomized(student, std=0.1).eval()


def metrics(**options):
    told = {"num_samples": NUM_SAMPLES, "seeds": (0, 1), "extractors": {"pixels": PixelFeatures()}}
    return SampleMetrics(**(told | options))


def test_each_number_of_steps_is_judged_with_guidance_and_without(student, data):
    report = metrics(steps=[4, 1], guidance=LinearGuidance(2.0))(student, data)
    names = [f"{g}, {p}" for g in ("guidance 2", "no guidance") for p in ("1 pass", "4 passes")]
    assert list(report.values["samples"]) == [*names, "real held-out images"]
    assert report.values["steps"] == [1, 4]
    assert report.values["guidance"] == 2.0
    train, _ = rows_of(data.train)
    label = torch.arange(NUM_SAMPLES) % 10
    for weight, steps, name in ((2.0, 1, names[0]), (0.0, 4, names[3])):
        distances = []
        for seed in (0, 1):
            source = ExampleSeeds(seed, range(NUM_SAMPLES))
            x = student.sample(NUM_SAMPLES, label, weight=weight, steps=steps, source=source)
            rows = data.codec.decode(x).flatten(1).numpy()
            distances.append(frechet_distance(rows, train))
        found = report.values["samples"][name]["pixels"]["frechet_distance"]
        assert found["mean"] == pytest.approx(statistics.fmean(distances))


def test_a_student_has_its_own_number_of_steps_and_may_be_without_classes(data):
    sizes = {"num_layers": 1, "model_dim": 16, "head_dim": 8}
    student = VelocityStudent(8, 2, 1, codec=Pixels(17), steps=2, **sizes)
    report = metrics()(student, data)
    assert list(report.values["samples"]) == ["no guidance, 2 passes", "real held-out images"]


@pytest.mark.parametrize("kind", [LikelihoodMetrics, ClassificationMetrics])
def test_metrics_of_densities_refuse_a_student(student, data, kind):
    with pytest.raises(ConfigurationError, match="needs a density, and a VelocityStudent has no"):
        kind()(student, data)


@pytest.mark.parametrize("steps", [0, [1, 1], [0, 1]])
def test_wrong_numbers_of_steps_are_refused(steps):
    with pytest.raises(ConfigurationError, match="steps"):
        metrics(steps=steps)


def test_the_command_judges_a_student(student, tmp_path, capsys):
    student.save_pretrained(tmp_path / "run" / "pretrained")
    given = [f"checkpoint={tmp_path / 'run'}", "data=digits", f"output={tmp_path / 'report'}"]
    sizes = ["metrics.num_samples=8", "metrics.seeds=[0]"]
    run_command("evaluate", [*given, "metrics=samples", *sizes, "steps=[1,2]", "guidance=3.0"])
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert list(report["samples"])[:2] == ["guidance 3, 1 pass", "guidance 3, 2 passes"]
    assert "guidance 3, 2 passes" in capsys.readouterr().out
    for option in ("denoiser=one_step", "temperature=2.0", f"baseline={tmp_path / 'run'}"):
        message = error_of("evaluate", *given, "metrics=likelihood", option)
        assert f"{option.split('=')[0]} is a setting of flows, and" in message
    message = error_of("evaluate", *given, "metrics=likelihood")
    assert "likelihood needs a density, and a VelocityStudent has none: give the flow" in message
