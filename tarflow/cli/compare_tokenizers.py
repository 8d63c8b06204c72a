"""`tarflow compare-tokenizers`: what tokenizers keep of images, and flows of their latents."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tarflow.ablation.tokenizers.recipes import RECIPES
from tarflow.ablation.tokenizers.tokenizer_study import TokenizerStudy
from tarflow.ablation.tokenizers.tokenizer_tables import blocks, fill
from tarflow.cli.settings import Settings
from tarflow.cli.study_page import leave_page


@dataclass(frozen=True, kw_only=True)
class CompareTokenizersSettings(Settings):
    """The settings of `tarflow compare-tokenizers`."""

    output: str = "outputs/tokenizers"  # a file for each run, and models; what is there stays
    page: str | None = None  # a page of Markdown to bring up to date, as docs/latents.md
    dataset: str = "photographs_32"  # or random_32, random bytes, to try the study
    tokenizers: list[str] | None = None  # all; or names, such as [kl,vq,vq_rotation]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    tokenizer_seconds: float = 120.0  # processor time of training of each tokenizer
    flow_seconds: float = 150.0  # and of each flow
    num_samples: int = 1000  # for each distance
    repetitions: int = 5  # times that samples, and preparation, are timed; medians count
    threads: int | None = None  # that compute while something is timed; by default one a core
    workers: int | None = None  # processes of one thread each; by default one for each core


def compare_tokenizers(config: CompareTokenizersSettings) -> None:
    """Do the runs that are missing, time samples and preparation, then write tables and a plot."""
    cores = os.cpu_count() or 1
    study = TokenizerStudy(
        Path(config.output),
        config.dataset,
        list(RECIPES) if config.tokenizers is None else config.tokenizers,
        config.seeds,
        config.tokenizer_seconds,
        config.flow_seconds,
        config.num_samples,
        config.repetitions,
        cores if config.threads is None else config.threads,
    )
    study.do(cores if config.workers is None else config.workers)
    leave_page(study, Path(config.page or study.directory / "latents.md"), fill, blocks)
