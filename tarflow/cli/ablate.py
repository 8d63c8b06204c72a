"""`tarflow ablate`: what each part of the method is worth, on data that everyone has."""

import os
from pathlib import Path

from omegaconf import DictConfig

from tarflow.ablation.page import fill, tables
from tarflow.ablation.study import Study
from tarflow.ablation.variants import VARIANTS


def ablate(config: DictConfig) -> None:
    """Do the runs that are missing, then write tables and pictures."""
    variants = list(VARIANTS) if config.variants is None else list(config.variants)
    study = Study.of(
        Path(config.output),
        list(config.datasets),
        variants,
        list(config.seeds),
        float(config.seconds),
        config.num_samples,
    )
    study.do(os.cpu_count() or 1 if config.workers is None else config.workers)
    for path in fill(Path(config.page or study.directory / "ablations.md"), study.results()):
        print(path)
    print(tables(study.results()))
