"""The jobs of a sweep: each runs, whatever becomes of the others."""

import math
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from tarflow.cli.telling import told_plainly
from tarflow.machine.files import json_text, write_atomically


class JobError(Exception):
    """A job failed; holds what there is to tell, which passes from one process to another."""


@contextmanager
def job_told_plainly() -> Iterator[None]:
    """Raise a `JobError` where a command would end, so that the next job of a sweep runs.

    A signal ends the sweep.
    """
    try:
        with told_plainly():
            yield
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        print(f"{end.code}\nThe sweep goes on.", file=sys.stderr)
        raise JobError(end.code.removeprefix("tarflow: ")) from None
    except Exception as error:
        traceback.print_exc()
        print("The sweep goes on.", file=sys.stderr)
        raise JobError(f"{type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class FailedJob:
    """A job of a sweep that failed.

    Attributes:
        job: Its number.
        overrides: What it differs in from the others.
        message: What there is to tell.
    """

    job: int
    overrides: str
    message: str


class WatchedLauncher(Launcher):
    """Gives a sweeper NaN for a job that failed, and notes it, whatever launcher starts the jobs.

    Args:
        launcher: It.
        folder: Of the sweep, where `failed.json` lists these jobs.
    """

    def __init__(self, launcher: Launcher, folder: Path):
        self.launcher, self.folder = launcher, folder
        self.jobs, self.failed = 0, list[FailedJob]()

    def setup(self, **what: Any) -> None:
        self.launcher.setup(**what)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        returns = self.launcher.launch(job_overrides, initial_job_idx)
        self.jobs += len(returns)
        same = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
        for number, (job, given) in enumerate(zip(returns, job_overrides, strict=True)):
            if job.status is JobStatus.FAILED:
                own = " ".join(each for each in given if each not in same)
                told = FailedJob(initial_job_idx + number, own, str(job._return_value))
                self.failed.append(told)
                job.return_value, job.status = math.nan, JobStatus.COMPLETED
        failed = [asdict(each) for each in self.failed]
        write_atomically(self.folder / "failed.json", json_text(failed))
        return returns

    def told(self) -> str:
        """The jobs that failed, one a line."""
        lines = [f"  job {each.job} ({each.overrides}): {each.message}" for each in self.failed]
        return "\n".join([f"tarflow: {len(self.failed)} of {self.jobs} jobs failed", *lines])


@contextmanager
def watched_launcher() -> Iterator[None]:
    """Watch the jobs of a sweep within, and end the program with code 1 if any failed.

    Hydra has no place for that: a callback of its own is called in the process of a job.
    """
    make, watched = Plugins.instantiate_launcher, list[WatchedLauncher]()

    def instantiate_launcher(plugins: Plugins, **what: Any) -> WatchedLauncher:
        folder = Path(what["config"].hydra.sweep.dir)
        watched.append(WatchedLauncher(make(plugins, **what), folder))
        return watched[-1]

    with patch.object(Plugins, "instantiate_launcher", instantiate_launcher):
        yield
    for launcher in watched:
        if launcher.failed:
            sys.exit(launcher.told())
