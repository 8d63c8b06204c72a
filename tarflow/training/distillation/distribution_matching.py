"""Distribution matching: the difference of two scores moves samples (arXiv 2311.18828)."""

import torch

from tarflow.flows.shapes import Examples, PerExample
from tarflow.training.distillation.clean import Kept, beside, finite, where_kept
from tarflow.training.distillation.score_objective import Noised, ScoreObjective


class DistributionMatching(ScoreObjective):
    r"""Gradient $D_\psi - D^*$ at the samples (distribution matching, arXiv 2311.18828).

    It is that of the divergence of the noisy distributions, times their noise's variance, and
    takes no second derivative.
    """

    @torch.no_grad()
    def directions(self, noised: Noised) -> tuple[Examples, PerExample, Kept]:
        told, mean = self.student_mean(noised), self.teacher_mean(noised)
        kept = finite(told, mean)
        weight = self.scale.weights(noised.sample.x, mean)
        gradient = where_kept(kept, beside(weight, told) * (told - mean))
        return self.scale.scaled(gradient, kept), self.gaps(noised, told, mean), kept
