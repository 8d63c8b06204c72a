"""Score identity distillation, and flow generator matching (arXiv 2404.04057, 2410.19310)."""

from dataclasses import replace
from typing import Any

import torch

from tarflow.flows.flow import Flow
from tarflow.flows.shapes import Examples, PerExample
from tarflow.students.student import Student
from tarflow.training.distillation.clean import Kept, finite, where_kept
from tarflow.training.distillation.score_objective import Noised, ScoreObjective
from tarflow.training.distillation.student_objective import not_negative


class ScoreIdentity(ScoreObjective):
    r"""Score identity distillation (SiD, arXiv 2404.04057).

    $$L = w (D^* - D_\psi)^T [(D^* - x) - a (D^* - D_\psi)]$$

    with w detached. Its gradient goes through the teacher's score, a second derivative of the
    density. At a = 1/2 it is the true gradient of half the squared gap (flow generator matching,
    arXiv 2410.19310); 1 to 1.2 work best.

    Args:
        a: Weight of the squared gap.
    """

    def __init__(self, student: Student, teacher: Flow, *, a: float = 1.0, **options: Any):
        super().__init__(student, teacher, **options)
        self.a = not_negative("a", a)

    def directions(self, noised: Noised) -> tuple[Examples, PerExample, Kept]:
        shift = (noised.x - noised.sample.x).detach()
        with torch.enable_grad():
            x = noised.sample.x.detach().requires_grad_()
            own = replace(noised, x=x + shift, sample=replace(noised.sample, x=x))
            told, mean = self.student_mean(own), self.teacher_mean(own, differentiable=True)
            weight = self.scale.weights(x, mean).detach()
            value = score_identity(x, mean, told, self.a)
            gradient = torch.autograd.grad((weight * value).sum(), x)[0]
        kept = finite(told, mean, gradient)
        gradient = self.scale.scaled(where_kept(kept, gradient), kept)
        return gradient, self.gaps(noised, told.detach(), mean.detach()), kept


def score_identity(x: Examples, mean: Examples, told: Examples, a: float) -> PerExample:
    r"""$(D^* - D_\psi)^T [(D^* - x) - a (D^* - D_\psi)]$ of each example."""
    gap = mean - told
    return (gap * (mean - x - a * gap)).flatten(1).sum(dim=1)
