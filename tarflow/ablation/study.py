"""Runs of a study, in processes: each leaves a file, and is not done again."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from tarflow.ablation.claims import Results
from tarflow.arguments import check_integer
from tarflow.errors import ConfigurationError, TarflowError
from tarflow.machine.files import json_text, write_atomically


class StudyRun(ABC):
    """A run of a study: whatever leaves a result that depends on its settings alone."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that the result depends on, as JSON gives it back."""

    @property
    @abstractmethod
    def name(self) -> str:
        """In files."""

    @abstractmethod
    def do(self) -> dict[str, Any]:
        """Do it, in a process of its own; the result holds the settings."""


@dataclass(frozen=True)
class Study:
    """Runs, each of which leaves a file when it ends; only those without one are still to do.

    Nor are those done again whose results another study has left, of the same settings.
    """

    directory: Path
    runs: Sequence[StudyRun]
    earlier: Results = ()

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
        return write_results(self.directory / "results.json", self.results())

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


def write_results(path: Path, results: Results) -> Path:
    """Put results into one file, a line for each."""
    lines = ",\n".join(json.dumps(each, allow_nan=False) for each in results)
    write_atomically(path, f"[\n{lines}\n]\n")
    return path


def read_results(path: Path) -> Results:
    """Read what a study has put into one file.

    Raises:
        ConfigurationError: It is not such a file.
    """
    try:
        # Earlier versions wrote infinity, which is not JSON.
        results = json.loads(path.read_text(), parse_constant=lambda name: None)
        known = [{"data", "variant", "seed"} <= result["settings"].keys() for result in results]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{path} does not hold the results of a study: {error}"
        ) from error
    if not all(known):
        raise ConfigurationError(f"{path} does not hold the results of a study")
    return results


def check_known(name: str, given: Sequence[str], allowed: Collection[str]) -> None:
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
