"""`tarflow distill`: every method leaves a student, and goes on; what does not fit is refused."""

import csv
import json
from pathlib import Path

import pytest
import torch

from tarflow import GaussianNoise, InverseStudent, NoNoise, Pixels, Student, VelocityStudent, load
from tests.composing import composed
from tests.models import tiny_flow
from tests.test_cli import error_of, tarflow
from tests.test_training.test_resume import assert_same

SMALL = [
    *("model.num_layers=1", "model.model_dim=16", "model.head_dim=8", "data.batch_size=16"),
    *("schedule.warmup_steps=1", "callbacks.sample_grid.num_samples=4", "schedule.total_steps=9"),
    *("trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "callbacks.throughput=null"),
]
TINY_SCORE = [
    "+objective.second={_target_: tarflow.training.SecondNetwork, num_layers: 1, model_dim: 16,"
    " head_dim: 8}",
    *("objective.warm_up=0", "objective.second_steps=1"),
]
METHODS = ("inverse", "flow_matching", "shortcut", "score")
KEPT = ("state_dict", "averaging", "optimizer_states", "lr_schedulers", "global_step")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def flow(elsewhere) -> None:
    """A flow of digits, in the current folder."""
    known = {"num_classes": 10, "codec": Pixels(17), "noise": GaussianNoise(0.1)}
    tiny_flow(8, 2, 1, num_layers=1, **known).save_pretrained("flow")


def distill(*arguments: str, run: str = "run", steps: int = 2) -> None:
    tarflow("distill", "checkpoint=flow", f"run_dir={run}", *SMALL, *arguments, *max_steps(steps))


def max_steps(steps: int) -> list[str]:
    return [f"trainer.max_steps={steps}"]


def refused(*arguments: str) -> str:
    given = any(argument.startswith("checkpoint=") for argument in arguments)
    flow = [] if given else ["checkpoint=flow"]
    return error_of("distill", *flow, "run_dir=run", *SMALL, *max_steps(2), *arguments)


def state(run: str) -> dict:
    return torch.load(Path(run, "checkpoints/last.ckpt"), weights_only=True)


def columns(run: str) -> set[str]:
    rows = Path(run, "logs/version_0/metrics.csv").read_text().splitlines()
    return set(next(csv.reader(rows)))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_a_student_and_goes_on_bitwise(method, capsys):
    small = [f"method={method}", *(TINY_SCORE if method == "score" else ())]
    distill(*small, run="straight", steps=5)
    assert "the trained model is in straight/pretrained" in capsys.readouterr().out
    distill(*small, run="stopped", steps=2)
    distill(*small, run="stopped", steps=5)
    said = capsys.readouterr().out
    assert "going on from stopped/checkpoints/last.ckpt at step 2" in said
    assert_same(*({name: state(run)[name] for name in KEPT} for run in ("stopped", "straight")))
    student = load("straight/pretrained")
    assert isinstance(student, Student)
    assert student.codec == Pixels(17)
    assert torch.isfinite(student.sample(3, torch.tensor([1, 2, 3]), weight=1.0)).all()
    assert {"train/loss", "train/grad_norm"} <= columns("straight")
    distill(*small, run="straight", steps=5)
    assert "straight is trained already: 5 steps" in capsys.readouterr().out


@pytest.mark.parametrize("method", METHODS)
def test_smoke_takes_two_small_steps_into_a_folder_of_its_own(method, capsys):
    options = ["data.data.validation_fraction=0.1"]
    tarflow("distill", "checkpoint=flow", f"method={method}", "trainer=smoke", *options)
    [run] = Path("outputs/smoke", method).iterdir()
    assert [path.name for path in Path("outputs").iterdir()] == ["smoke"]
    assert isinstance(load(run / "pretrained"), Student)
    assert (run / "grids/step_0000002.png").exists()
    assert {"val/loss", "train/loss", "perf/images_per_second"} <= columns(str(run))
    assert "perf/mfu" not in columns(str(run))  # nobody counts what a step computes
    assert "the trained model is in" in capsys.readouterr().out


def test_a_student_is_finished_by_another_method():
    distill("callbacks.sample_grid=null", run="begun")
    short = ["method=score", "student=begun", "objective/weights=none"]
    distill(*short, "objective.warm_up=1", run="finished", steps=2)
    begun, finished = load("begun/pretrained"), load("finished/pretrained")
    assert isinstance(finished, InverseStudent)
    assert finished.description == begun.description
    assert_same(finished.state_dict(), begun.state_dict())  # the second network alone learned
    Path("begun/pretrained/model.safetensors").write_bytes(
        Path("finished/checkpoints/last.ckpt").read_bytes()
    )
    message = refused(*short, "run_dir=finished", "trainer.max_steps=9")
    assert "origin.student.model.safetensors" in message


def test_what_a_run_began_with_belongs_to_it():
    distill()
    kept = json.loads(Path("run/config.json").read_text())
    assert kept["origin"]["checkpoint"].keys() == {"config.json", "model.safetensors"}
    assert "objective.alignment: 1.0 -> 0.5" in refused("objective.alignment=0.5", *max_steps(5))
    assert "model.model_dim: 16 -> 32" in refused("model.model_dim=32", *max_steps(5))
    other = {"num_classes": 10, "codec": Pixels(17), "noise": GaussianNoise(0.2)}
    tiny_flow(8, 2, 1, num_layers=1, **other).save_pretrained("flow")
    assert "origin.checkpoint.config.json" in refused(*max_steps(5))


def test_methods_make_their_students():
    for method, kind in (("flow_matching", VelocityStudent), ("inverse", InverseStudent)):
        section = composed("distill", f"method={method}").model
        assert section["_target_"] == f"tarflow.{kind.__name__}"
    heun = composed("distill", "method=flow_matching", "model/solver=heun")
    assert heun.model.solver == {"_target_": "tarflow.Heun"}


def test_jobs_of_a_sweep_have_folders_of_their_own():
    sweep = ["objective.alignment=0.0,1.0", "seed=1", "name=aligned_${objective.alignment}"]
    tarflow("distill", "--multirun", "checkpoint=flow", *SMALL, *sweep, *max_steps(1))
    for each in (0.0, 1.0):
        assert (Path(f"outputs/aligned_{each}/seed_1") / "pretrained/config.json").exists()


def test_a_student_is_not_a_teacher_nor_a_flow_a_student():
    student = VelocityStudent(8, 2, 1, num_layers=1, model_dim=16, head_dim=8)
    student.save_pretrained("student")
    message = refused("checkpoint=student")
    assert "student holds a student (VelocityStudent), which learns from a flow" in message
    message = refused("method=score", "student=flow")
    assert "student=flow holds a TarFlow, which is not a student" in message
    assert "neither a pretrained folder" in refused("checkpoint=nowhere")
    assert "checkpoint is needed" in error_of("distill", "run_dir=new")


def test_data_have_to_fit_the_flow():
    message = refused("data=random", "data.data.num_train=16", "data.data.num_test=4")
    assert "but the flow was made for" in message


def test_an_unknown_method_is_named_with_those_that_are_known():
    message = refused("method=magic")
    assert "method/magic" in message
    assert all(method in message for method in METHODS)


def test_a_flow_without_classes_has_no_guidance_to_teach():
    known = {"codec": Pixels(17), "noise": GaussianNoise(0.1)}
    tiny_flow(8, 2, 1, num_layers=1, **known).save_pretrained("flow")
    assert "without classes" in refused("objective/weights=uniform")
    distill()
    assert load("run/pretrained").num_classes == 0


def test_scores_need_gaussian_noise():
    known = {"num_classes": 10, "codec": Pixels(17), "noise": NoNoise()}
    tiny_flow(8, 2, 1, num_layers=1, **known).save_pretrained("flow")
    assert "Gaussian" in refused("method=score")


def test_a_model_of_another_kind_is_refused():
    message = refused("model._target_=tarflow.TarFlow")
    assert "model._target_=tarflow.TarFlow is not a kind of student" in message


def test_weights_are_not_divided_between_processes():
    assert "trainer=ddp" in refused("trainer=fsdp2", "trainer.devices=1")
