"""`tarflow compare-densities`: flows and older densities, of points in the plane and of tables."""

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tarflow.ablation.densities.density_data import DATA
from tarflow.ablation.densities.density_methods import METHODS
from tarflow.ablation.densities.density_study import DensityStudy
from tarflow.ablation.densities.density_tables import blocks, fill
from tarflow.ablation.densities.particle_tasks import TASKS
from tarflow.cli.settings import Settings
from tarflow.cli.study_page import leave_page


@dataclass(frozen=True, kw_only=True)
class CompareDensitiesSettings(Settings):
    """The settings of `tarflow compare-densities`."""

    # A file for each run, and log-densities; what is there stays.
    output: str = "outputs/densities"
    page: str | None = None  # a page of Markdown to bring up to date, as docs/densities.md
    datasets: list[str] = field(default_factory=lambda: list(DATA))
    systems: list[str] = field(default_factory=lambda: list(TASKS))  # of particles
    methods: list[str] = field(default_factory=lambda: list(METHODS))
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    # Processor time of each flow, with all settings that are tried: of tables, and in the plane.
    seconds: float = 60.0
    plane_seconds: float = 120.0
    workers: int | None = None  # processes of one thread each; by default one for each core


def compare_densities(config: CompareDensitiesSettings) -> None:
    """Do the runs that are missing, then write tables and a picture."""
    study = DensityStudy(
        Path(config.output),
        config.datasets,
        config.methods,
        config.seeds,
        config.seconds,
        config.plane_seconds,
        config.systems,
    )
    study.do((os.cpu_count() or 1) if config.workers is None else config.workers)
    page = Path(config.page or study.directory / "densities.md")
    leave_page(study, page, partial(fill, directory=study.directory), blocks)
