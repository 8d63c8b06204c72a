"""The runs of `tarflow ablate`: every variant on every data set with every seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tarflow.ablation.claims import Results
from tarflow.ablation.data_sets import DATA
from tarflow.ablation.fitting import fit
from tarflow.ablation.judging import Judge
from tarflow.ablation.study import Study, StudyRun, check_known
from tarflow.ablation.variants import VARIANTS
from tarflow.errors import ConfigurationError
from tarflow.evaluation.provenance import software


@dataclass(frozen=True)
class VariantRun(StudyRun):
    """A variant on a data set with a seed."""

    data: str
    variant: str
    seed: int  # of the weights, of all draws in training, and of the samples
    seconds: float  # processor time of training
    num_samples: int  # for each distance

    @property
    def settings(self) -> dict[str, Any]:
        """All that the result depends on."""
        return {**vars(self), **VARIANTS[self.variant].settings}

    @property
    def name(self) -> str:
        """In files."""
        return f"{self.data}-{self.variant}-{self.seed}"

    def do(self) -> dict[str, Any]:
        """Fit and judge, with one thread: then what runs beside it changes least."""
        torch.set_num_threads(1)
        judge, variant = _judge(self.data, self.num_samples), VARIANTS[self.variant]
        torch.manual_seed(self.seed)
        model = variant.make(judge.data)
        fitted = fit(model, variant, judge.train, judge.validation, self.seconds)
        return {
            "settings": self.settings,
            "data": judge.data.name,
            "software": software(),
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "steps": fitted.steps,
            "skipped_steps": fitted.skipped,
            "validation_nats_per_dim": fitted.curve,
            **judge(fitted, variant, self.seed),
            "real": judge.real,
        }


def ablation(
    directory: Path,
    data: Sequence[str],
    variants: Sequence[str],
    seeds: Sequence[int],
    seconds: float,
    num_samples: int,
    earlier: Results = (),
) -> Study:
    """Every variant on every data set with every seed.

    Raises:
        ConfigurationError: One of them is unknown, or a number is not positive.
    """
    check_known("datasets", data, DATA)
    check_known("variants", variants, VARIANTS)
    if not seconds > 0 or num_samples < 2 or not seeds:
        raise ConfigurationError(
            f"seconds={seconds} must be positive, num_samples={num_samples} at least 2, and"
            f" seeds={list(seeds)} must name one"
        )
    runs = [
        VariantRun(which, variant, seed, float(seconds), num_samples)
        for seed in seeds  # so that a study that is cut short has all variants
        for variant in variants
        for which in data
    ]
    return Study(directory, runs, earlier)


@cache
def _judge(data: str, num_samples: int) -> Judge:
    """The judge of a data set, made once in each process."""
    return Judge(DATA[data](), num_samples)
