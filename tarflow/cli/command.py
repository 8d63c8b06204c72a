"""How a command finds its configuration, runs, and tells of errors."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import hydra
import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, MissingMandatoryValue

from tarflow.errors import TarflowError

instantiate = partial(hydra.utils.instantiate, _convert_="all")

PACKAGED = Path(__file__).parents[1] / "conf"
CONF = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[2] / "conf"
"""The configuration: inside an installed wheel, or beside the package in a checkout."""


def run(name: str, task: Callable[[DictConfig], None]) -> None:
    """Compose a command's configuration from its arguments and run it."""

    def task_told_plainly(config: DictConfig) -> None:
        with told_plainly():
            task(config)

    hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task_told_plainly)()


@contextmanager
def told_plainly() -> Iterator[None]:
    """End the program with the message alone, where an error is the user's to mend."""
    try:
        yield
    except TarflowError as error:
        sys.exit(f"tarflow: {error}")
    except MissingMandatoryValue as error:
        sys.exit(f"tarflow: {error.full_key} is needed: give {error.full_key}=...")
    except InstantiationException as error:
        if not isinstance(error.__cause__, ValueError):
            raise
        place = str(error).splitlines()[-1].removeprefix("full_key: ")
        sys.exit(f"tarflow: {error.__cause__} (in {place})")
