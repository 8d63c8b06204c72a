"""`tarflow calibrate`: finds the fastest decoders for this machine, or times a student."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from tarflow.arguments import check_integer
from tarflow.cli.choices import (
    device_of,
    find_pretrained,
    guidance_of,
    load_model,
    read_dtype,
    read_precision,
)
from tarflow.cli.settings import Section, Settings
from tarflow.flows.checkpoint import WEIGHTS
from tarflow.flows.flow import Flow
from tarflow.machine.files import check_writable, writing
from tarflow.sampling import calibration
from tarflow.sampling.drawing import in_turn, read_classes
from tarflow.sampling.plan_table import PlanTable
from tarflow.sampling.sample_folder import fingerprints
from tarflow.students.student import Student
from tarflow.students.student_sampler import StudentSampler
from tarflow.students.timing import time_samples
from tarflow.students.timing_table import TimingTable

OF_STUDENTS = ("steps",)
OF_FLOWS = ("guidance_rule", "temperature", "tolerance", "windows", "deviation")
"""Keys that mean nothing for the other kind of model."""


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(Settings):
    """The settings of `tarflow calibrate`."""

    checkpoint: str = "???"  # a run folder or a pretrained folder
    batch_size: int = 100  # samples decoded at a time: a plan holds for one number
    label: str | int | list[str | int] = "all"  # as for sampling
    guidance: float = 0.0  # weight; 0 is off
    guidance_rule: Section
    temperature: float = 1.0  # attention temperature of the null prediction
    dtype: str | None = None  # precision of the transformers: as for sampling
    deviation: float | None = None  # RMS, in units of the data, within which to choose it
    tolerance: float = 1e-3  # largest residual of a certified sample
    # Those over the length count as the whole length.
    windows: list[int] = field(default_factory=lambda: [8, 16, 32, 64, 128, 1000000])
    steps: int | list[int] | None = None  # passes of a student; by default 1, 2, 4 and 8
    repetitions: int = 3
    device: str = "auto"  # or cpu, cuda, cuda:1, mps


def calibrate(config: CalibrateSettings) -> None:
    """Measure decoders of a flow and leave a plan in its folder; or time a student's samples."""
    check_integer("batch_size", config.batch_size, least=1)
    directory = find_pretrained(config.checkpoint)
    model = load_model(directory, device_of(config.device), OF_FLOWS, OF_STUDENTS)
    if isinstance(model, Student):
        _time(config, model)
    else:
        _plan(config, model, directory)


def _plan(config: CalibrateSettings, flow: Flow, directory: Path) -> None:
    """Measure decoders and leave a plan in the pretrained folder."""
    with writing(directory):
        check_writable(directory)
    classes = read_classes(config.label, flow.num_classes, flow.class_names)
    table = PlanTable()
    with table.measuring() as tell:
        plan = calibration.calibrate(
            flow,
            config.batch_size,
            None if classes is None else in_turn(classes, range(config.batch_size)),
            guidance=guidance_of(config.guidance_rule, config.guidance, flow),
            dtype=read_precision(config.dtype),
            tolerance=config.tolerance,
            windows=config.windows,
            repetitions=config.repetitions,
            deviation=config.deviation,
            show=table.show,
            tell=tell,
        )
    table.print(plan)
    weights = fingerprints(directory)[WEIGHTS]
    plan = replace(plan, conditions=replace(plan.conditions, weights=weights))
    with writing(directory):
        path = plan.save(directory)
    print(f"the plan is in {path}: `tarflow sample` uses it where it holds")


def _time(config: CalibrateSettings, student: Student) -> None:
    """Time samples of a student, one at a time and in batches, by their number of passes."""
    classes = read_classes(config.label, student.num_classes, student.class_names)
    dtype, given = read_dtype(config.dtype), config.steps
    student = student if dtype is None else student.to(dtype)
    sampler = StudentSampler(student, classes=classes, weight=config.guidance)
    table = TimingTable()
    with table.measuring() as tell:
        timings = time_samples(
            student,
            (1, config.batch_size),
            sampler.context,
            weight=sampler.weight,
            steps=[given] if isinstance(given, int) else given or (),
            repetitions=config.repetitions,
            tell=tell,
        )
    table.print(timings)
