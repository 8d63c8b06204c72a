"""`tarflow compare-compression`: flows made smaller in several ways, and what they lose by it."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tarflow.ablation.compression.compression_study import CompressionStudy
from tarflow.ablation.compression.compression_tables import blocks, fill
from tarflow.ablation.compression.compressors import COMPRESSORS
from tarflow.cli.settings import Settings
from tarflow.cli.study_page import leave_page


@dataclass(frozen=True, kw_only=True)
class CompareCompressionSettings(Settings):
    """The settings of `tarflow compare-compression`."""

    output: str = "outputs/compression"  # a file for each run, and models; what is there stays
    page: str | None = None  # a page of Markdown to bring up to date, as docs/compression.md
    datasets: list[str] = field(default_factory=lambda: ["digits", "photographs_32"])
    compressors: list[str] | None = None  # all; or names, such as [decomposition,magnitude]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    flow_seconds: float = 600.0  # processor time of training of each flow
    tuning_seconds: float = 30.0  # and of tuning of each that is tuned
    repetitions: int = 5  # times that samples are timed; medians count
    threads: int | None = None  # that compute while samples are timed; by default one a core
    workers: int | None = None  # processes of one thread each; by default one for each core


def compare_compression(config: CompareCompressionSettings) -> None:
    """Do the runs that are missing, time all samples, then write tables and a plot."""
    cores = os.cpu_count() or 1
    study = CompressionStudy(
        Path(config.output),
        config.datasets,
        list(COMPRESSORS) if config.compressors is None else config.compressors,
        config.seeds,
        config.flow_seconds,
        config.tuning_seconds,
        config.repetitions,
        cores if config.threads is None else config.threads,
    )
    study.do(cores if config.workers is None else config.workers)
    leave_page(study, Path(config.page or study.directory / "compression.md"), fill, blocks)
