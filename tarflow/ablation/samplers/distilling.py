"""Fits a student for some processor time, by what `tarflow distill` fits it by."""

import time
from dataclasses import dataclass
from functools import partial

import torch

from tarflow.ablation.fitting import OPTIMIZERS
from tarflow.ablation.samplers.methods import Method, Stage
from tarflow.ablation.time_budget import TimeBudget, fit_in
from tarflow.data import ImageData
from tarflow.flows.flow import Flow
from tarflow.students.student import Student
from tarflow.training import StudentModule


@dataclass(frozen=True)
class Fitted:
    """A fitted student.

    Attributes:
        student: It, with averaged weights.
        steps: Number of steps in all stages.
        skipped: How many of them were not finite, and changed nothing.
        seconds: Processor time that it took.
    """

    student: Student
    steps: int
    skipped: int
    seconds: float


def distil(method: Method, flow: Flow, data: ImageData, seconds: float, seed: int) -> Fitted:
    """Fit a new student by a method; all draws follow the seed."""
    torch.manual_seed(seed)
    start = time.process_time()
    student = method.make(flow)
    runs = [_fit(student, each, method, flow, data, seconds) for each in method.stages]
    steps, skipped = (sum(counts) for counts in zip(*runs, strict=True))
    return Fitted(student.eval(), steps, skipped, time.process_time() - start)


def _fit(
    student: Student, stage: Stage, method: Method, flow: Flow, data: ImageData, seconds: float
) -> tuple[int, int]:
    """Train a student in a stage, and leave its averaged weights in it; returns two counts."""
    budget = TimeBudget(stage.share * seconds)
    objective = stage.make(student, flow)
    objective.prepare(data)
    optimizer = partial(OPTIMIZERS[stage.optimizer], lr=stage.lr)
    module = StudentModule(student, objective, optimizer, budget.schedule)
    return fit_in(budget, module, data, method.batch_size), module.skipped_steps
