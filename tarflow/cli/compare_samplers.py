"""`tarflow compare-samplers`: exact samples, and those of students, by quality and time."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tarflow.ablation.samplers.methods import METHODS
from tarflow.ablation.samplers.sampler_study import SamplerStudy
from tarflow.ablation.samplers.sampler_tables import blocks, fill
from tarflow.cli.settings import Settings
from tarflow.cli.study_page import leave_page


@dataclass(frozen=True, kw_only=True)
class CompareSamplersSettings(Settings):
    """The settings of `tarflow compare-samplers`."""

    output: str = "outputs/samplers"  # a file for each run, and models; what is there stays
    page: str | None = None  # a page of Markdown to bring up to date, as docs/few-passes.md
    datasets: list[str] = field(default_factory=lambda: ["digits", "photographs"])
    methods: list[str] | None = None  # all; or names, such as [inverse,plain]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    flow_seconds: float = 180.0  # processor time of training of each flow
    seconds: float = 120.0  # and of each student
    num_samples: int = 1000  # for each distance
    guidance: float = 1.0  # weight of guided samples
    repetitions: int = 5  # times that samples are timed; medians count
    threads: int | None = None  # that compute while samples are timed; by default one a core
    workers: int | None = None  # processes of one thread each; by default one for each core


def compare_samplers(config: CompareSamplersSettings) -> None:
    """Do the runs that are missing, time all samplers, then write tables and a plot."""
    cores = os.cpu_count() or 1
    study = SamplerStudy.of(
        Path(config.output),
        config.datasets,
        list(METHODS) if config.methods is None else config.methods,
        config.seeds,
        config.flow_seconds,
        config.seconds,
        config.num_samples,
        config.guidance,
        config.repetitions,
        cores if config.threads is None else config.threads,
    )
    study.do(cores if config.workers is None else config.workers)
    leave_page(study, Path(config.page or study.directory / "few-passes.md"), fill, blocks)
