"""How a command finds its configuration and runs."""

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints
from unittest.mock import patch

import hydra
import hydra.utils
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tarflow.cli.loader import own_loader
from tarflow.cli.process_state import hydra_kept, process_kept
from tarflow.cli.settings import CONF, Settings
from tarflow.cli.sweep import job_told_plainly, watched_launcher
from tarflow.cli.targets import import_own_packages
from tarflow.cli.telling import told_plainly
from tarflow.cli.typed import options_first


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
        if argument.startswith("--e"):  # of --experimental-rerun, which argparse lets one shorten
            sys.exit(f"tarflow: {argument} would read a pickle, which may run anything")

    def task_told_plainly(config: DictConfig) -> Any:
        # Lightning starts other processes of a run with the arguments that started this one.
        sys.argv = given
        sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
        with process_kept(), job_told_plainly() if sweeps else told_plainly():
            return task(kind.of(config))

    main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=task.__name__)
    with told_plainly():
        import_own_packages()
        arguments = options_first(arguments)
    name = task.__name__.replace("_", "-")
    read = [f"tarflow {name}", *map(off, arguments)]  # what Hydra does
    with (
        process_kept(),
        hydra_kept(),
        patch.object(sys, "argv", read),
        own_loader(arguments, get_type_hints(kind)),
        watched_launcher(),
    ):
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
