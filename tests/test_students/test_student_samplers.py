"""Samplers of students, and what a flow says of their samples."""

import csv
import io

import numpy as np
import pytest
import torch

from tarflow import (
    ConfigurationError,
    ExampleSeeds,
    GaussianNoise,
    InverseStudent,
    Pixels,
    VelocityStudent,
    best_of,
    judge,
)
from tarflow.students.judged_sampler import JudgedSampler
from tarflow.students.student_sampler import StudentSampler

from ..memory import limit_memory
from ..models import randomized, tiny_flow

CODEC = Pixels(17)
SIZES = {"num_layers": 1, "model_dim": 16, "head_dim": 8}


def tiny_student(kind=VelocityStudent, **options):
    """A student of images of 2 x 4 x 4, in float64."""
    told = {"num_channels": 2, "num_classes": 3, "codec": CODEC, **SIZES, **options}
    return randomized(kind(4, 2, **told), std=0.2).double().eval()


@pytest.fixture
def student():
    return tiny_student()


@pytest.fixture(scope="module")
def flow():
    """The flow that judges, with other patches than the student's would be allowed as well."""
    return tiny_flow(num_classes=3, codec=CODEC, noise=GaussianNoise(0.3)).double()


def test_samples_are_those_of_the_student_as_pixels(student):
    sampler = StudentSampler(student, 5, torch.tensor([2, 0]), weight=1.5, steps=3)
    source, label = ExampleSeeds(5, range(3, 6)), torch.tensor([0, 2, 0])
    x = student.sample(3, label, weight=1.5, steps=3, source=source)
    found = sampler(range(3, 6))
    assert list(found) == ["samples", "why", "labels"]
    assert np.array_equal(found["samples"], CODEC.decode(x))
    assert found["why"].tolist() == [""] * 3
    assert sampler.settings == {"seed": 5, "label": "[2, 0]", "guidance": 1.5, "steps": 3} | {
        "dtype": "torch.float64"
    }
    assert str(sampler.certificates.join([found])) == "3 samples"
    assert sampler.certificates.join([found]).to_csv() == "index,finite,why\n0,1,\n1,1,\n2,1,\n"


def test_a_sample_depends_on_seed_and_index_alone(student, flow):
    for sampler in (
        StudentSampler(student, classes=torch.arange(3)),
        JudgedSampler(student, classes=torch.arange(3), flow=flow, count=2),
    ):
        many, one = sampler(range(1000, 1005)), sampler(range(1003, 1004))
        for name in many:
            if many[name].dtype.kind == "f":
                assert np.allclose(many[name][3:4], one[name], rtol=1e-12, atol=0)
            else:
                assert np.array_equal(many[name][3:4], one[name])


def test_a_flow_judges_every_sample(student, flow):
    sampler = JudgedSampler(student, 1, torch.arange(3), flow=flow, steps=2)
    found, label = sampler(range(4)), torch.arange(4) % 3
    source = ExampleSeeds(1, range(4))
    z = student.draw_noise(4, source)
    x = student.generate(z, label, steps=2)
    expected = judge(flow, z, x, label)
    assert np.array_equal(found["samples"], CODEC.decode(x.detach()))
    assert np.allclose(found["log_prob"], expected.log_prob)
    assert np.allclose(found["residual"], expected.residual)
    assert not found["draw"].any()
    certificates = sampler.certificates.join([found])
    rows = list(csv.DictReader(io.StringIO(certificates.to_csv())))
    assert list(rows[0]) == ["index", "log_prob", "residual", "draw", "finite", "why"]
    log_probs = [float(row["log_prob"]) for row in rows]
    assert log_probs == pytest.approx(expected.log_prob.tolist(), rel=1e-5)
    mean = float(expected.log_prob.mean())
    assert f"4 samples, log p {mean:.1f} nats in the mean" in str(certificates)
    assert f"(largest {float(expected.residual.max()):.2g})" in str(certificates)
    assert sampler.notes == []


def test_the_likeliest_is_kept_at_a_price_that_is_told(student, flow):
    sampler = JudgedSampler(student, 1, torch.arange(3), flow=flow, count=3)
    found = sampler(range(4))
    source, label = ExampleSeeds(1, range(4)), torch.arange(4) % 3
    chosen = best_of(student, flow, 3, 4, label, source=source)
    assert np.array_equal(found["samples"], CODEC.decode(chosen.x))
    assert found["draw"].tolist() == chosen.index.tolist()
    single = JudgedSampler(student, 1, torch.arange(3), flow=flow)(range(4))
    assert (found["log_prob"] >= single["log_prob"] - 1e-9).all()
    assert (found["log_prob"] > single["log_prob"] + 1e-9).any()
    [note] = sampler.notes
    assert "the likeliest of 3 draws each: 12 draws" in note
    assert "for the 4 samples that this process drew" in note
    assert sampler.price.seconds > 0
    sampler(range(4, 6))
    assert (sampler.price.draws, sampler.price.samples) == (18, 6)
    assert sampler.settings["best_of"] == 3


def test_memory_that_runs_out_changes_nothing(student, flow):
    sampler = JudgedSampler(student, classes=torch.arange(3), flow=flow)
    expected = sampler(range(4))
    limit_memory(student, 2)
    with pytest.warns(RuntimeWarning, match="going on with 2"):
        found = sampler(range(4))
    assert np.array_equal(found["samples"], expected["samples"])
    assert np.allclose(found["log_prob"], expected["log_prob"])


def test_what_is_not_finite_is_black_and_told(flow):
    student = tiny_student()
    with torch.no_grad():
        student.get_submodule("label_embedding").weight[1] = torch.nan
    for sampler in (
        StudentSampler(student, classes=torch.tensor([0, 1])),
        JudgedSampler(student, classes=torch.tensor([0, 1]), flow=flow, count=2),
    ):
        found = sampler(range(4))
        assert found["why"].tolist() == ["", "the student"] * 2
        assert not found["samples"][1].any()
        assert "2 not finite (black" in str(sampler.certificates.join([found]))


def test_one_pass_is_all_that_a_learned_inverse_takes(flow):
    student = tiny_student(InverseStudent, num_blocks=2)
    assert StudentSampler(student).settings["steps"] == 1
    with pytest.raises(ConfigurationError, match="takes at most 1"):
        StudentSampler(student, steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "best_of 0 must be at least 1"),
        ({"weight": -1.0}, "guidance -1.0 must be a finite weight"),
        ({"weight": float("nan")}, "guidance nan must be a finite weight"),
        ({"flow": tiny_flow(8, codec=CODEC)}, "its image shape is"),
        ({"flow": tiny_flow(codec=Pixels(3))}, "its codec is"),
        ({"flow": tiny_flow(codec=CODEC)}, "its number of classes is 0"),
    ],
)
def test_wrong_choices_are_refused(student, flow, options, message):
    with pytest.raises(ConfigurationError, match=message):
        JudgedSampler(student, **{"flow": flow, **options})


def test_a_student_without_labels_is_judged_by_a_flow_with_them(flow):
    found = JudgedSampler(tiny_student(num_classes=0), flow=flow)(range(2))
    assert np.isfinite(found["log_prob"]).all()
