"""Fitting students: they learn, go on bitwise, and are left as folders and pictures."""

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from tarflow import ConfigurationError, InverseStudent, Student, load
from tarflow.training import StudentGrid, StudentModule, adamw, warmup_cosine
from tests.quiet import QUIET
from tests.test_training.distilling import LAST, METHODS, distill, inverse, teacher
from tests.test_training.test_resume import assert_same

DROPOUT = 0.2

pytestmark = pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")


@pytest.fixture(params=METHODS)
def method(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Any:
    """A run of a method that never stopped, and its folder; made once."""

    @functools.cache
    def run(method: str) -> tuple[Path, dict]:
        folder = tmp_path_factory.mktemp(method)
        return folder, distill(folder, method, 0, LAST, DROPOUT)

    return run


@pytest.mark.parametrize("stop", [1, 4])
def test_a_stopped_run_goes_on_as_if_it_never_was(straight, method, stop, tmp_path):
    _, expected = straight(method)
    stopped = distill(tmp_path, method, 0, stop, DROPOUT)
    resumed = distill(tmp_path, method, stop, LAST, DROPOUT)
    assert stopped["losses"] + resumed["losses"] == expected["losses"]
    assert all(map(math.isfinite, expected["losses"]))
    assert len(set(expected["losses"])) == LAST
    assert_same(resumed["validation"], expected["validation"][-len(resumed["validation"]) :])
    rest = {"losses", "validation"}
    assert_same(*({k: v for k, v in run.items() if k not in rest} for run in (resumed, expected)))


@pytest.mark.parametrize("stop", [0, 3])
def test_batches_that_are_taken_in_parts_serve_one_network_in_each_step(tmp_path, stop):
    """Also where a run goes on in parts of another size."""
    whole = distill(tmp_path, "score", 0, LAST)
    if stop:
        distill(tmp_path, "score", 0, stop)
    parts = distill(tmp_path, "score", stop, LAST, device_batch_size=4)
    torch.testing.assert_close(parts["averaging"], whole["averaging"], rtol=0, atol=1e-4)
    assert parts["validation"][-1] == pytest.approx(whole["validation"][-1], rel=1e-4)


def test_the_average_is_left_as_a_folder_and_drawn(straight, method):
    folder, run = straight(method)
    student = load(folder / method)
    assert isinstance(student, Student)
    averages = run["averaging"]["averages"][0.9]
    assert averages.keys() == dict(student.named_parameters()).keys()
    for name, parameter in student.named_parameters():
        assert torch.equal(parameter, averages[name])
        if "step_embedding" not in name:  # which learns nothing where all steps are of size 0
            assert not torch.equal(parameter, run["state_dict"][f"student.{name}"])
    assert (folder / f"{method}_grids" / f"step_{LAST:07d}.png").exists()
    assert not any("teacher" in name or "unlearned" in name for name in run["state_dict"])


def test_what_an_objective_learns_moves_and_the_teacher_does_not(tmp_path):
    flow = teacher()
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    early, late = (distill(tmp_path, "score", 0, steps)["state_dict"] for steps in (2, 4))
    parts = {"student.", "objective.second."}
    for part in parts:
        names = [name for name in early if name.startswith(part) and "weight" in name]
        assert any(not torch.equal(early[name], late[name]) for name in names)
    assert_same(flow.state_dict(), before)


def made(student: Any, objective: Any) -> StudentModule:
    schedule = functools.partial(warmup_cosine, total_steps=50, warmup_steps=2)
    return StudentModule(student, objective, adamw, schedule)


def test_a_loaded_student_learns_in_training_mode():
    student, objective = inverse(teacher())
    module = made(student.eval(), objective.eval())
    assert student.training
    assert module.objective.training
    assert not module.objective.teacher.training


def test_grids_refuse_what_a_student_does_not_take(tmp_path):
    student, objective = inverse(teacher())
    with pytest.raises(ConfigurationError, match=r"steps 4: .*takes at most 1"):
        StudentGrid(tmp_path, steps=4).on_fit_start(Trainer(**QUIET), made(student, objective))
    with pytest.raises(ConfigurationError, match="weight inf"):
        StudentGrid(tmp_path, weight=math.inf)


def test_grids_draw_by_weight_and_steps(tmp_path):
    student = METHODS["flow_matching"](teacher())[0].eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    label, pictures = torch.arange(4) % 3, []
    for weight, steps in ((0.0, None), (2.0, None), (2.0, 1)):
        grid = StudentGrid(tmp_path, num_samples=4, weight=weight, steps=steps)
        found = grid.samples(student, label, range(4))
        one_by_one = [grid.samples(student, label[i : i + 1], range(i, i + 1)) for i in range(4)]
        torch.testing.assert_close(found, torch.cat(one_by_one), rtol=0, atol=1e-5)
        pictures.append(found)
    assert not torch.allclose(pictures[0], pictures[1])
    assert not torch.allclose(pictures[1], pictures[2])


def test_inverse_students_have_a_block_for_each_transform_and_one_more():
    assert InverseStudent.of(teacher()).description.num_blocks == 4
