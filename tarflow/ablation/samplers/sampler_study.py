"""The study of samplers: flows first, then students of them, then how long samples take."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tarflow.ablation.data_sets import DATA
from tarflow.ablation.sampled_run import SampledRun
from tarflow.ablation.samplers.methods import METHODS
from tarflow.ablation.samplers.sampler_runs import FlowRun, StudentRun
from tarflow.ablation.study import Study, check_known, write_results
from tarflow.ablation.times_run import TimesRun, with_times
from tarflow.arguments import check_integer
from tarflow.errors import ConfigurationError


@dataclass(frozen=True)
class SamplerStudy:
    """All runs, each of which leaves a file when it ends; only those without one are to be done.

    Attributes:
        directory: Where they and the models are kept.
        flows: Those that fit flows.
        students: Those that fit students of them.
        repetitions: Number of times that samples are timed.
        threads: Number of threads for that.
    """

    directory: Path
    flows: Sequence[FlowRun]
    students: Sequence[StudentRun]
    repetitions: int
    threads: int

    @classmethod
    def of(
        cls,
        directory: Path,
        data: Sequence[str],
        methods: Sequence[str],
        seeds: Sequence[int],
        flow_seconds: float,
        seconds: float,
        num_samples: int,
        guidance: float,
        repetitions: int,
        threads: int,
    ) -> "SamplerStudy":
        """A flow of every data set with every seed, and a student of it by every method.

        Raises:
            ConfigurationError: One of them is unknown, or a number is not positive.
        """
        check_known("datasets", data, DATA)
        check_known("methods", methods, METHODS)
        if not (flow_seconds > 0 and seconds > 0 and guidance > 0) or not seeds:
            raise ConfigurationError(
                f"flow_seconds={flow_seconds}, seconds={seconds} and guidance={guidance} must be"
                f" positive, and seeds={list(seeds)} must name one"
            )
        check_integer("num_samples", num_samples, least=4)
        check_integer("repetitions", repetitions, least=1)
        check_integer("threads", threads, least=1)
        told = (num_samples, float(guidance))
        flows = [
            FlowRun(directory, which, seed, float(flow_seconds), *told)
            for seed in seeds  # so that a study that is cut short has all methods
            for which in data
        ]
        students = [
            StudentRun(directory, flow.data, flow.seed, float(seconds), *told, method, flow)
            for flow in flows
            for method in methods
        ]
        return cls(directory, flows, students, repetitions, threads)

    @property
    def fitted(self) -> list[SampledRun]:
        """Everything that is fitted."""
        return [*self.flows, *self.students]

    def do(self, workers: int) -> None:
        """Do what is left; what fits, in processes of one thread each, what is timed, alone.

        Raises:
            ConfigurationError: A file is of other settings, or there are no workers.
            TarflowError: Runs failed; the others of their kind are done.
        """
        for runs in (self.flows, self.students):
            Study(self.directory, runs).do(workers)
        Study(self.directory, self._times).do(1)

    @property
    def _times(self) -> list[TimesRun]:
        """The runs that time samples, of models that are there."""
        names = dict.fromkeys(run.data for run in self.flows)
        of = {name: tuple(run for run in self.fitted if run.data == name) for name in names}
        return [TimesRun(name, runs, self.repetitions, self.threads) for name, runs in of.items()]

    def results(self) -> list[dict[str, Any]]:
        """What the runs that fit have left, with the times of their samples."""
        found = Study(self.directory, self.fitted).results()
        return with_times(found, Study(self.directory, self._times).results())

    def write(self) -> Path:
        """Put all results into one file, a line for each run."""
        return write_results(self.directory / "results.json", self.results())
