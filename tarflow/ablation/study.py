"""All runs of a study: every variant on every data set with every seed, in processes."""

import json
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from tarflow.ablation.claims import Results
from tarflow.ablation.fitting import fit
from tarflow.ablation.judging import Judge
from tarflow.ablation.variants import VARIANTS
from tarflow.arguments import check_integer
from tarflow.data import digits, photographs
from tarflow.errors import ConfigurationError, TarflowError
from tarflow.evaluation.provenance import software
from tarflow.machine.files import json_text, write_atomically

DATA = {"digits": partial(digits, validation_fraction=0.1), "photographs": photographs}


@dataclass(frozen=True)
class StudyRun:
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


@dataclass(frozen=True)
class Study:
    """Runs, each of which leaves a file when it ends; only those without one are still to do.

    Nor are those done again whose results another study has left, of the same settings.
    """

    directory: Path
    runs: Sequence[StudyRun]
    earlier: Results = ()

    @classmethod
    def of(
        cls,
        directory: Path,
        data: Sequence[str],
        variants: Sequence[str],
        seeds: Sequence[int],
        seconds: float,
        num_samples: int,
        earlier: Results = (),
    ) -> "Study":
        """Every variant on every data set with every seed.

        Raises:
            ConfigurationError: One of them is unknown, or a number is not positive.
        """
        _check_known("datasets", data, DATA)
        _check_known("variants", variants, VARIANTS)
        if not seconds > 0 or num_samples < 2 or not seeds:
            raise ConfigurationError(
                f"seconds={seconds} must be positive, num_samples={num_samples} at least 2, and"
                f" seeds={list(seeds)} must name one"
            )
        runs = [
            StudyRun(which, variant, seed, float(seconds), num_samples)
            for seed in seeds  # so that a study that is cut short has all variants
            for variant in variants
            for which in data
        ]
        return cls(directory, runs, earlier)

    def path(self, run: StudyRun) -> Path:
        """The file of a run."""
        return self.directory / "runs" / f"{run.name}.json"

    def do(self, workers: int) -> None:
        """Do what is left, in processes of one thread each.

        Raises:
            ConfigurationError: A file is of other settings, or there are no workers.
            TarflowError: Runs failed; the others are done.
        """
        check_integer("workers", workers, least=1)
        left = [run for run in self.runs if self._result(run) is None]
        (self.directory / "runs").mkdir(parents=True, exist_ok=True)
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        total, failed = len(self.runs), []
        with Progress(*columns) as progress:
            task = progress.add_task("runs", total=total, completed=total - len(left))
            for run, future in _in_processes(left, workers):
                error = future.exception()
                if error is None:
                    write_atomically(self.path(run), json_text(future.result(), indent=1))
                else:
                    progress.console.print(f"{run.name} failed: {error!r}")
                    failed.append(f"{run.name} ({error})")
                progress.advance(task)
        if failed:
            raise TarflowError(
                f"{len(failed)} of {total} runs failed: {'; '.join(failed)}. The same command"
                " does them again"
            )

    def results(self) -> list[dict[str, Any]]:
        """What the runs have left, without those to come."""
        found = (self._result(run) for run in self.runs)
        return [result for result in found if result is not None]

    def write(self) -> Path:
        """Put all results into one file, a line for each run."""
        path = self.directory / "results.json"
        lines = ",\n".join(json.dumps(each, allow_nan=False) for each in self.results())
        write_atomically(path, f"[\n{lines}\n]\n")
        return path

    def _result(self, run: StudyRun) -> dict[str, Any] | None:
        """What a run has left."""
        path, wanted = self.path(run), run.settings
        if not path.exists():
            return next((each for each in self.earlier if each["settings"] == wanted), None)
        result = json.loads(path.read_text())
        changed = sorted(key for key in wanted if result["settings"].get(key) != wanted[key])
        if changed:
            raise ConfigurationError(
                f"{path} is of other settings ({', '.join(changed)}): choose another output=...,"
                " or move it away"
            )
        return result


def read_results(path: Path) -> Results:
    """Read what a study has put into one file.

    Raises:
        ConfigurationError: It is not such a file.
    """
    try:
        results = json.loads(path.read_text())
        known = [{"data", "variant", "seed"} <= result["settings"].keys() for result in results]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{path} does not hold the results of a study: {error}"
        ) from error
    if not all(known):
        raise ConfigurationError(f"{path} does not hold the results of a study")
    return results


def _check_known(name: str, given: Sequence[str], allowed: Collection[str]) -> None:
    """Refuse what is not known."""
    if not given or not set(given) <= set(allowed):
        raise ConfigurationError(f"{name}={list(given)}: choose among {', '.join(allowed)}")


def _in_processes(runs: Sequence[StudyRun], workers: int) -> Iterator[tuple[StudyRun, Future]]:
    """Do runs, each as soon as a process is free."""
    # Set before torch is imported there: threads that wait for one another spin.
    kept = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            futures = {pool.submit(run.do): run for run in runs}
            try:
                for future in as_completed(futures):
                    yield futures[future], future
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if kept is not None:
            os.environ["OMP_NUM_THREADS"] = kept


@cache
def _judge(data: str, num_samples: int) -> Judge:
    """The judge of a data set, made once in each process."""
    return Judge(DATA[data](), num_samples)
