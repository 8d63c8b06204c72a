"""The study of compression: flows first, then smaller ones of them, then how long samples take."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tarflow.ablation.compression.compression_runs import (
    FLOWS,
    CompressedRun,
    LaterRun,
    LongerRun,
    OriginalRun,
)
from tarflow.ablation.compression.compressors import COMPRESSORS, HALF
from tarflow.ablation.study import Study, check_known, write_results
from tarflow.ablation.times_run import TimesRun, with_times
from tarflow.arguments import check_integer
from tarflow.errors import ConfigurationError


@dataclass(frozen=True)
class CompressionStudy:
    """All runs, each of which leaves a file when it ends; only those without one are to be done.

    Attributes:
        directory: Where they and the models are kept.
        data: The data sets.
        compressors: Names of ways to make flows smaller.
        seeds: A flow of every data set is fitted with each, and made smaller in every way.
        flow_seconds: Processor time of training of each flow.
        tuning_seconds: And of tuning of each that is tuned.
        repetitions: Number of times that samples are timed.
        threads: Number of threads for that.

    Raises:
        ConfigurationError: A data set or a way is unknown, or a number is not positive.
    """

    directory: Path
    data: Sequence[str]
    compressors: Sequence[str]
    seeds: Sequence[int]
    flow_seconds: float
    tuning_seconds: float
    repetitions: int
    threads: int

    def __post_init__(self):
        check_known("datasets", self.data, FLOWS)
        check_known("compressors", self.compressors, COMPRESSORS)
        if not (self.flow_seconds > 0 and self.tuning_seconds > 0) or not self.seeds:
            raise ConfigurationError(
                f"flow_seconds={self.flow_seconds} and tuning_seconds={self.tuning_seconds} must"
                f" be positive, and seeds={list(self.seeds)} must name one"
            )
        check_integer("repetitions", self.repetitions, least=1)
        check_integer("threads", self.threads, least=1)

    @cached_property
    def flows(self) -> list[OriginalRun]:
        """Those that fit flows: all of a seed first, for a study that is cut short."""
        return [
            OriginalRun(self.directory, data, seed, self.flow_seconds)
            for seed in self.seeds
            for data in self.data
        ]

    @cached_property
    def compressed(self) -> list[CompressedRun]:
        """Those that make flows smaller."""
        return [
            CompressedRun(flow.directory, flow.data, flow.seed, 0.0, flow, name, share)
            for flow in self.flows
            for name in self.compressors
            for share in COMPRESSORS[name].shares
        ]

    @cached_property
    def tuned(self) -> list[LaterRun]:
        """Those that tune: flows with half of the operations of MLPs, and those with all."""
        found: list[LaterRun] = []
        for flow in self.flows:
            told = (flow.directory, flow.data, flow.seed, self.tuning_seconds, flow)
            found.append(LongerRun(*told))
            found += [CompressedRun(*told, name, HALF) for name in self.compressors]
        return found

    @property
    def times(self) -> list[TimesRun]:
        """The runs that time samples, of models that are there; tuning does not change times."""
        models = (*self.flows, *self.compressed)
        of = {data: tuple(run for run in models if run.data == data) for data in self.data}
        return [TimesRun(data, runs, self.repetitions, self.threads) for data, runs in of.items()]

    def do(self, workers: int) -> None:
        """Do what is left; what fits, in processes of one thread each, what is timed, alone.

        Raises:
            ConfigurationError: A file is of other settings, or there are no workers.
            TarflowError: Runs failed; the others of their kind are done.
        """
        for runs in (self.flows, [*self.compressed, *self.tuned]):
            Study(self.directory, runs).do(workers)
        Study(self.directory, self.times).do(1)

    def results(self) -> list[dict[str, Any]]:
        """What the runs have left, with the times of samples."""
        runs = [*self.flows, *self.compressed, *self.tuned]
        times = Study(self.directory, self.times).results()
        return with_times(Study(self.directory, runs).results(), times)

    def write(self) -> Path:
        """Put all results into one file, a line for each run."""
        return write_results(self.directory / "results.json", self.results())
