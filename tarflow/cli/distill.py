"""`tarflow distill`: fits a student of a flow, which samples in one pass or a few."""

from dataclasses import dataclass
from pathlib import Path

from tarflow.cli.choices import find_pretrained
from tarflow.cli.command import instantiate
from tarflow.cli.fit import FitSettings, check_whole, filled, fit
from tarflow.cli.settings import Section
from tarflow.cli.targets import find
from tarflow.data import ImageData
from tarflow.errors import CheckpointError, ConfigurationError
from tarflow.evaluation.metrics import check_fit
from tarflow.flows.flow import Flow
from tarflow.flows.pretrained import load
from tarflow.sampling.sample_folder import fingerprints
from tarflow.students.student import Student
from tarflow.training import StudentModule


@dataclass(frozen=True, kw_only=True)
class DistillSettings(FitSettings):
    """The settings of `tarflow distill`."""

    name: str | int = "student"  # a method has its own
    checkpoint: str = "???"  # the flow: a run folder or a pretrained folder
    student: str | None = None  # one to go on from, likewise, in place of a new one of `model`
    model: Section
    attention: Section


def distill(config: DistillSettings) -> float | None:
    """Fit a student and leave a run folder; returns what a sweeper may make small.

    Which weights of the flow it learned from, and of the student it began with, belongs to what a
    run must have as it was to go on.
    """
    check_whole(config.trainer)
    directory = find_pretrained(config.checkpoint)
    start = None if config.student is None else find_pretrained(config.student)
    origin = {"checkpoint": fingerprints(directory)}
    if start is not None:
        origin["student"] = fingerprints(start)

    def make(data: ImageData) -> StudentModule:
        flow = _flow(directory)
        check_fit(flow, data)
        student = make_student(config.model, flow) if start is None else _student(start)
        objective = instantiate(config.objective, student=student, teacher=flow)
        objective.prepare(data)
        return instantiate(config.module, student=student, objective=objective)

    return fit(config, make, origin)


def make_student(model: Section, flow: Flow) -> Student:
    """Make the student; what the flow determines need not be configured.

    Its patches are twice as large as the flow's, where they divide the image.
    """
    kind = find(model["_target_"])
    if not (isinstance(kind, type) and issubclass(kind, Student)):
        raise ConfigurationError(f"model._target_={model['_target_']} is not a kind of student")
    told = kind.told_by(flow)
    side = 2 * told["patch_size"]
    if all(size % side == 0 for size in told["image_size"]):
        # A student attends to all patches at once. On the digits it learns several times as much
        # in a second from patches of 4 pixels as from the flow's of 2.
        told["patch_size"] = side
    return filled(model, told)


def _flow(directory: Path) -> Flow:
    """The flow of a folder."""
    model = load(directory)
    if isinstance(model, Student):
        raise CheckpointError(
            f"{directory} holds a student ({type(model).__name__}), which learns from a flow: give"
            " the flow as checkpoint=..., and student=... to go on from a student"
        )
    if not isinstance(model, Flow):
        raise CheckpointError(f"{directory} holds a {type(model).__name__}, which is not a flow")
    return model


def _student(directory: Path) -> Student:
    """The student of a folder."""
    model = load(directory)
    if not isinstance(model, Student):
        raise CheckpointError(
            f"student={directory} holds a {type(model).__name__}, which is not a student: give the"
            " run of one, or leave it out for a new one"
        )
    return model
