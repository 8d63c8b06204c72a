"""`tarflow ablate`: what each part of the method is worth, on data that everyone has."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tarflow.ablation.page import fill, tables
from tarflow.ablation.study import read_results
from tarflow.ablation.variant_runs import ablation
from tarflow.ablation.variants import VARIANTS
from tarflow.cli.settings import Settings


@dataclass(frozen=True, kw_only=True)
class AblateSettings(Settings):
    """The settings of `tarflow ablate`."""

    output: str = "outputs/ablations"  # a file for each run; what is there is not done again
    page: str | None = None  # a page of Markdown to bring up to date, as docs/ablations.md
    earlier: str | None = None  # results.json of another study: what is in it is not done again
    datasets: list[str] = field(default_factory=lambda: ["digits", "photographs"])
    variants: list[str] | None = None  # all; or names, such as [default,fixed_order]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    seconds: float = 40.0  # processor time of training in each run
    num_samples: int = 1000  # for each Fréchet distance
    workers: int | None = None  # processes of one thread each; by default one for each core


def ablate(config: AblateSettings) -> None:
    """Do the runs that are missing, then write tables and pictures."""
    variants = list(VARIANTS) if config.variants is None else config.variants
    what = (config.datasets, variants, config.seeds, config.seconds, config.num_samples)
    earlier = () if config.earlier is None else read_results(Path(config.earlier))
    study = ablation(Path(config.output), *what, earlier)
    study.do(os.cpu_count() or 1 if config.workers is None else config.workers)
    page = Path(config.page or study.directory / "ablations.md")
    for path in (study.write(), *fill(page, study.results())):
        print(path)
    print(tables(study.results()))
