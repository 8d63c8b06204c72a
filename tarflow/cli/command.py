"""How a command finds its configuration, runs, and tells of errors."""

import errno
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_type_hints
from unittest.mock import patch

import hydra
import hydra.utils
from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from omegaconf import DictConfig, MissingMandatoryValue
from omegaconf.errors import InterpolationResolutionError

from tarflow.cli.hydra_section import checked_section
from tarflow.cli.settings import CONF, Settings
from tarflow.cli.targets import import_own_packages
from tarflow.errors import TarflowError


def instantiate(section: Any, **arguments: Any) -> Any:
    """Make what a section of the settings describes, once they are checked; see `Settings.of`."""
    return hydra.utils.instantiate(section, **{"_convert_": "all", **arguments})


def settings_of(task: Callable[[Any], None]) -> type[Settings]:
    """The class of the settings that a command takes, whose defaults Hydra now knows."""
    [kind] = [kind for name, kind in get_type_hints(task).items() if name != "return"]
    ConfigStore.instance().store(f"{task.__name__}_settings", kind.defaults())
    return kind


def run(task: Callable[[Any], None], arguments: Sequence[str]) -> None:
    """Compose the settings of a command from its arguments and run it."""
    given, kind = sys.argv, settings_of(task)
    for argument in arguments:
        if argument.startswith("="):  # which Hydra would answer with a traceback
            sys.exit(f"tarflow: {argument} has no key: give key=value")
        if argument.startswith("--e"):  # of --experimental-rerun, which argparse lets one shorten
            sys.exit(f"tarflow: {argument} would read a pickle, which may run anything")

    def task_told_plainly(config: DictConfig) -> None:
        # Lightning starts other processes of a run with the arguments that started this one.
        sys.argv = given
        with told_plainly():
            task(kind.of(config))

    main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=task.__name__)
    with told_plainly():
        import_own_packages()
    read = [f"tarflow {task.__name__}", *map(off, arguments)]  # what Hydra does
    with patch.object(sys, "argv", read), checked_section(arguments, told_plainly):
        main(task_told_plainly)()


def off(argument: str) -> str:
    """Write a group of sections that is switched off, as by `logger=null`, as Hydra reads it.

    Example:
        >>> off("logger=null"), off("callbacks=False"), off("seed=null")
        ('logger=[]', 'callbacks=[]', 'seed=null')
    """
    key, _, value = argument.partition("=")
    group = re.fullmatch(r"\w+", key) and (CONF / key).is_dir()
    return f"{key}=[]" if group and value.lower() in ("null", "none", "false", "off") else argument


@contextmanager
def told_plainly() -> Iterator[None]:
    """End the program with the message alone, where an error is the user's to mend."""
    try:
        yield
    except TarflowError as error:
        sys.exit(f"tarflow: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # a full disk, or share
            raise
        sys.exit(f"tarflow: {error}: make room, and give the same command again")
    except MissingMandatoryValue as error:
        sys.exit(f"tarflow: {error.full_key} is needed: give {error.full_key}=...")
    except InterpolationResolutionError as error:
        sys.exit(f"tarflow: {str(error).splitlines()[0]} (in {error.full_key})")
    except InstantiationException as error:
        cause = error.__cause__  # of arguments, or else a bug
        lightnings = type(cause).__name__ == "MisconfigurationException"
        if not lightnings and not isinstance(cause, ValueError | TypeError | LookupError):
            raise
        place = str(error).splitlines()[-1].removeprefix("full_key: ")
        sys.exit(f"tarflow: {cause} (in {place})")
