"""The study of densities: every method on every data set, with several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tarflow.ablation.densities.density_data import DATA, PLANAR
from tarflow.ablation.densities.density_methods import METHODS
from tarflow.ablation.densities.density_runs import DensityRun, difference
from tarflow.ablation.densities.particle_runs import EnergyRun, ParticleRun, SamplesRun
from tarflow.ablation.densities.particle_tasks import TASKS
from tarflow.ablation.study import Study, check_known, write_results
from tarflow.errors import ConfigurationError

RIVAL = "neural_spline"
"""The method that others are compared with, row by row."""


@dataclass(frozen=True)
class DensityStudy:
    """All runs, each of which leaves a file when it ends; only those without one are to be done.

    Attributes:
        directory: Where they are kept.
        data: The data sets.
        methods: Names of ways to fit densities.
        seeds: Every method is fitted to every data set with each.
        seconds: Processor time of every flow of a table.
        plane_seconds: And of points in the plane.
        systems: Systems of particles, to which flows are fitted by samples and by energy.

    Raises:
        ConfigurationError: A data set or a method is unknown, or a number is not positive.
    """

    directory: Path
    data: Sequence[str]
    methods: Sequence[str]
    seeds: Sequence[int]
    seconds: float
    plane_seconds: float
    systems: Sequence[str] = ()

    def __post_init__(self):
        if self.data or not self.systems:
            check_known("datasets", self.data, DATA)
        if self.systems:
            check_known("systems", self.systems, TASKS)
        check_known("methods", self.methods, METHODS)
        if not (self.seconds > 0 and self.plane_seconds > 0) or not self.seeds:
            raise ConfigurationError(
                f"seconds={self.seconds} and plane_seconds={self.plane_seconds} must be positive,"
                f" and seeds={list(self.seeds)} must name one"
            )

    @cached_property
    def runs(self) -> list[DensityRun]:
        """All of a seed first, for a study that is cut short."""
        return [
            DensityRun(self.directory, data, method, seed, self.seconds_of(data))
            for seed in self.seeds
            for data in self.data
            for method in self.methods
        ]

    @cached_property
    def particles(self) -> list[ParticleRun]:
        """The runs of systems of particles."""
        return [
            kind(data=name, seed=seed)
            for seed in self.seeds
            for name in self.systems
            for kind in (SamplesRun, EnergyRun)
        ]

    def seconds_of(self, data: str) -> float:
        """Processor time of every flow of a data set."""
        return self.plane_seconds if data in PLANAR else self.seconds

    def do(self, workers: int) -> None:
        """Do what is left, in processes of one thread each.

        Raises:
            ConfigurationError: A file is of other settings, or there are no workers.
            TarflowError: Runs failed; the others are done.
        """
        Study(self.directory, [*self.runs, *self.particles]).do(workers)

    def results(self) -> list[dict[str, Any]]:
        """What the runs have left, with how far they are from the rival, row by row."""
        found = {}
        for run in self.runs:
            for result in Study(self.directory, [run]).results():
                found[run] = result
        for run, result in found.items():
            rival = DensityRun(run.directory, run.data, RIVAL, run.seed, run.seconds)
            if rival in found:
                rows, others = (np.load(each.arrays)["rows"] for each in (run, rival))
                found[run] = {**result, "difference": difference(rows, others)}
        return [*found.values(), *Study(self.directory, self.particles).results()]

    def write(self) -> Path:
        """Put all results into one file, a line for each run."""
        return write_results(self.directory / "results.json", self.results())
