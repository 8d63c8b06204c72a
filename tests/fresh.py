"""Processes without the time that imports take.

They are forked off one that has imported what all commands do, and has done nothing else.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any, NamedTuple

SECONDS = 240
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tarflow.cli.train", "tarflow.cli.sample", "tarflow.cli.evaluate"])


class Finished(NamedTuple):
    """What is left of a process."""

    returncode: int | None
    stdout: str
    stderr: str


class Running(NamedTuple):
    """A process, and the files that it writes to."""

    process: BaseProcess
    files: tuple[IO[str], ...]

    def finish(self) -> Finished:
        """Wait for its end, or end it."""
        self.process.join(SECONDS)
        self.process.kill()
        self.process.join()
        said = []
        for file in self.files:
            file.seek(0)
            said.append(file.read())
            file.close()
        return Finished(self.process.exitcode, *said)


def start(
    function: Callable[..., Any],
    *arguments: Any,
    folder: Path | str = ".",
    environment: Mapping[str, str] = os.environ,
) -> Running:
    """Call a function in a process with a folder and an environment of its own."""
    files = tuple(tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115 (finish closes)
    streams = [DupFd(file.fileno()) for file in files]
    place = os.path.abspath(folder), dict(environment), streams
    process = FORKS.Process(target=call, args=(place, function, arguments))
    process.start()
    return Running(process, files)


def tarflow(
    folder: Path, *arguments: str, environment: Mapping[str, str] = os.environ
) -> Finished:
    """Run the command `tarflow`."""
    return start(command, arguments, folder=folder, environment=environment).finish()


def call(place: tuple[str, dict, list], function: Callable[..., Any], arguments: tuple) -> None:
    """Call a function in the process that was made for it."""
    folder, environment, streams = place
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream.detach(), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    function(*arguments)


def command(arguments: tuple[str, ...]) -> None:
    """Be `tarflow` with some arguments."""
    from tarflow.cli import main

    sys.argv = ["tarflow", *arguments]
    main()
