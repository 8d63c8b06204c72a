"""One of several processes that share a task; they know their rank, and nothing of each other."""

import errno
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tarflow.arguments import check_integer, keep
from tarflow.errors import ConfigurationError, TarflowError

LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),  # srun
)
"""Environment variables of rank, number of processes and rank on the machine, by launcher.

A batch script of Slurm that starts a command without srun has SLURM_PROCID and SLURM_NTASKS too,
but runs it once: SLURM_STEP_NUM_TASKS is there under srun alone.
"""

HELD = (errno.EAGAIN, errno.EACCES)
"""Errors of a lock that another process holds; others tell of a file system without locks."""


@dataclass(frozen=True)
class Process:
    """Which of several processes this is, from 0.

    Attributes:
        local_rank: Its number on this machine, and of its device there.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def __post_init__(self):
        keep(self, rank=check_integer("rank", self.rank))
        keep(self, world_size=check_integer("world_size", self.world_size))
        if not 0 <= self.rank < self.world_size:
            given = f"rank {self.rank} of world_size {self.world_size}"
            raise ConfigurationError(f"{given}: ranks go from 0 to world_size - 1")

    @classmethod
    def find(
        cls,
        rank: int | None = None,
        world_size: int | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> "Process":
        """Read the arguments, else what torchrun or srun tell; alone without any of these.

        Raises:
            ConfigurationError: One argument is there without the other, or out of range.
        """
        if (rank is None) != (world_size is None):
            given = f"rank={rank} with world_size={world_size}"
            raise ConfigurationError(f"{given}: give both, or neither of them")
        if rank is not None and world_size is not None:
            return cls(rank, world_size, rank)
        for names in LAUNCHERS:
            if all(name in environment for name in names):
                return cls(*(int(environment[name]) for name in names))
        return cls()

    @property
    def leads(self) -> bool:
        """Whether this process does what is to be done once."""
        return self.rank == 0

    def owns(self, task: int) -> bool:
        """Whether a task is this process's: every `world_size`-th is, so that shares are even."""
        return task % self.world_size == self.rank

    @contextmanager
    def claim(self, directory: Path) -> Iterator[None]:
        """Keep a second process of this rank out of a folder, until this one ends or is killed.

        Raises:
            ConfigurationError: There is a second one already.
            TarflowError: The system has no such locks.
        """
        try:
            import fcntl
        except ImportError as error:
            raise TarflowError(
                f"{directory} cannot be kept for one process: this system has no locks of files"
                " (Python's fcntl is missing); use Linux or macOS"
            ) from error
        with (directory / ".lock").open("a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self.rank)
            except OSError as error:
                if error.errno in HELD:
                    raise ConfigurationError(
                        f"another process of rank {self.rank} works in {directory}: wait for it,"
                        " or give every process its own rank=... and all the same world_size=..."
                    ) from error
                warnings.warn(f"{directory} cannot be locked: {error}", stacklevel=3)
            yield
