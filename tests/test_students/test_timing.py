"""`tarflow calibrate` of a student: how long samples take by steps and batch size."""

import pytest

from tarflow import ConfigurationError, InverseStudent, Pixels, VelocityStudent
from tarflow.machine.device import medians
from tarflow.students.timing import time_samples

from ..test_cli import error_of, tarflow

SIZES = {"num_channels": 1, "num_layers": 1, "model_dim": 16, "head_dim": 8, "codec": Pixels(17)}


def test_functions_are_timed_in_turns():
    called, told = [], []
    functions = {name: lambda name=name: called.append(name) for name in "ab"}
    found = medians(functions, "cpu", 3, told.append)
    assert called == told == ["a", "b"] * 3
    assert list(found) == ["a", "b"]
    assert min(found.values()) >= 0


def test_every_number_of_steps_is_timed_with_every_batch_size():
    student = VelocityStudent(4, 2, **SIZES)
    timings = time_samples(student, (1, 3), repetitions=1)
    keys = [(each.steps, each.passes, each.batch_size) for each in timings]
    assert keys == [(n, n, size) for n in (1, 2, 4, 8) for size in (1, 3)]
    assert all(each.seconds > 0 for each in timings)
    one = time_samples(InverseStudent(4, 2, num_blocks=1, **SIZES), (2,), repetitions=1)
    assert [(each.steps, each.batch_size) for each in one] == [(1, 2)]
    for wrong in ({"batch_sizes": (0,)}, {"repetitions": 0}, {"steps": (0,)}):
        with pytest.raises(ConfigurationError, match="at least 1"):
            time_samples(student, **{"batch_sizes": (1,), **wrong})


def test_the_command_shows_a_table_and_keeps_no_plan(tmp_path, capsys):
    run = tmp_path / "run"
    VelocityStudent(4, 2, num_classes=3, **SIZES).save_pretrained(run / "pretrained")
    tarflow("calibrate", f"checkpoint={run}", "batch_size=2", "steps=[1,3]", "repetitions=1")
    out = capsys.readouterr().out
    assert "samples of the student" in out
    assert "no plan is kept: a student decodes nothing" in out
    assert [path.name for path in (run / "pretrained").iterdir()] != ["plans.json"]
    given = ["calibrate", f"checkpoint={run}"]
    assert "windows is a setting of flows, and" in error_of(*given, "windows=[4]")
    assert "guidance -1.0 must be" in error_of(*given, "guidance=-1.0")
    assert "steps 0 must be at least 1" in error_of(*given, "steps=0")
