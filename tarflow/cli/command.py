"""How a command finds its configuration, runs, and tells of errors."""

import errno
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf

from tarflow.cli.hydra_settings import checked_settings
from tarflow.cli.targets import check_targets
from tarflow.cli.values import check_arguments, check_values
from tarflow.errors import TarflowError

PACKAGED = Path(__file__).parents[1] / "conf"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a user's share or a file that is full."""

CONF = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[2] / "conf"
"""The configuration: inside an installed wheel, or beside the package in a checkout."""


def instantiate(config: Any, **arguments: Any) -> Any:
    """Make what a section of the configuration describes.

    Raises:
        ConfigurationError: It names something that it may not; see `targets.py`.
    """
    check_targets(config)
    if OmegaConf.is_config(config):
        check_arguments(OmegaConf.to_container(config, resolve=True))
    return hydra.utils.instantiate(config, **{"_convert_": "all", **arguments})


def run(name: str, task: Callable[[DictConfig], None], arguments: Sequence[str]) -> None:
    """Compose a command's configuration from its arguments and run it."""
    given = sys.argv
    for argument in arguments:
        if argument.startswith("="):  # which Hydra would answer with a traceback
            sys.exit(f"tarflow: {argument} has no key: give key=value")

    def task_told_plainly(config: DictConfig) -> None:
        # Lightning starts other processes of a run with the arguments that started this one.
        sys.argv = given
        with told_plainly():
            check_values(config)
            task(config)

    try:
        sys.argv = [f"tarflow {name}", *arguments]  # what Hydra reads
        main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)
        with checked_settings(arguments, told_plainly):
            main(task_told_plainly)()
    finally:
        sys.argv = given


@contextmanager
def told_plainly() -> Iterator[None]:
    """End the program with the message alone, where an error is the user's to mend."""
    try:
        yield
    except TarflowError as error:
        sys.exit(f"tarflow: {error}")
    except OSError as error:
        if error.errno not in FULL:
            raise
        sys.exit(f"tarflow: {error}: make room, and give the same command again")
    except MissingMandatoryValue as error:
        sys.exit(f"tarflow: {error.full_key} is needed: give {error.full_key}=...")
    except InstantiationException as error:
        if not _is_about_arguments(error.__cause__):
            raise
        place = str(error).splitlines()[-1].removeprefix("full_key: ")
        sys.exit(f"tarflow: {error.__cause__} (in {place})")


def _is_about_arguments(error: BaseException | None) -> bool:
    """Whether something that could not be made tells why, as Lightning's classes do."""
    told = isinstance(error, ValueError | TypeError | LookupError)
    return told or type(error).__name__ == "MisconfigurationException"
