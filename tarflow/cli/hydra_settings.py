"""What a configuration may set of Hydra itself, which acts on it before a command runs."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tarflow.arguments import shown
from tarflow.cli.targets import VARIABLE, own_packages
from tarflow.errors import ConfigurationError

PLUGINS = re.compile(
    r"(hydra\._internal\.core_plugins|hydra_plugins|hydra\.experimental\.callbacks)"
    r"\.[\w.]*(Launcher|Sweeper|Callback)"
)
"""What Hydra may make: a launcher, a sweeper, or a callback of its own or of a plugin."""

LOGGING = (
    *("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler"),
    *("logging.handlers.RotatingFileHandler", "logging.Formatter", "colorlog.ColoredFormatter"),
)
"""What its logging may make."""

STREAMS = ("ext://sys.stdout", "ext://sys.stderr")

FROM_THE_USER = (
    *("job.env_set", "launcher.setup", "launcher.python"),
    *("launcher.srun_args", "launcher.additional_parameters"),
)
"""Environments and shell lines: what a file could make any program of."""


@contextmanager
def checked_settings(arguments: Sequence[str], told: Callable[[], Any]) -> Iterator[None]:
    """Check what Hydra composes before it acts on it; `told` is the context errors are told in.

    Hydra makes its launcher, callbacks and logging before a program sees its configuration, so
    the check is within the class that loads it.
    """

    class CheckedLoader(ConfigLoaderImpl):
        def load_configuration(self, *args: Any, **kwargs: Any) -> DictConfig:
            config = super().load_configuration(*args, **kwargs)
            with told():
                check_hydra_settings(config.hydra, arguments)
            return config

    with patch.object(hydra._internal.hydra, "ConfigLoaderImpl", CheckedLoader):
        yield


def check_hydra_settings(settings: DictConfig, arguments: Sequence[str] = ()) -> None:
    """Refuse what would run code of a configuration's choice.

    Args:
        settings: The section `hydra`.
        arguments: Those of the command, which are the user's own.

    Raises:
        ConfigurationError: It would.
    """
    for key in FROM_THE_USER:
        given = any(argument.lstrip("+").startswith(f"hydra.{key}") for argument in arguments)
        if not given and OmegaConf.select(settings, key):
            raise ConfigurationError(
                f"hydra.{key} is not taken from a file, which may be somebody else's:"
                f" give it on the command line, as hydra.{key}=..."
            )
    for path, value in _leaves(settings, "hydra"):
        section, key = path.split(".")[1], path.split(".")[-1]
        if key == "_target_" and not _may_be_made(value):
            _refuse(path, value, f"Hydra's own parts, or, with {VARIABLE}, a package of yours")
        if section.endswith("_logging"):
            if key in ("()", "class") and (key == "()" or value not in LOGGING):
                _refuse(path, value, ", ".join(LOGGING))
            if str(value).startswith("ext://") and value not in STREAMS:
                _refuse(path, value, ", ".join(STREAMS))


def _may_be_made(target: Any) -> bool:
    """Whether Hydra may make this."""
    own = tuple(f"{name}." for name in own_packages())
    return isinstance(target, str) and bool(PLUGINS.fullmatch(target) or target.startswith(own))


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value with its path: as written, and what it stands for where that is known."""
    if isinstance(node, DictConfig):
        for key in node:
            yield from _below(node, key, f"{path}.{key}")
    elif OmegaConf.is_list(node):
        for index in range(len(node)):
            yield from _below(node, index, f"{path}.{index}")


def _below(node: Any, key: Any, path: str) -> Iterator[tuple[str, Any]]:
    """One value, or those within it."""
    if OmegaConf.is_interpolation(node, key):
        yield path, OmegaConf.to_container(node, resolve=False)[key]  # pyright: ignore
    try:
        value = node[key]
    except OmegaConfBaseException:  # known only later, in a job: judged as written
        return
    if OmegaConf.is_config(value):
        yield from _leaves(value, path)
    else:
        yield path, value


def _refuse(path: str, value: Any, allowed: str) -> None:
    """Tell what is allowed."""
    raise ConfigurationError(f"{path}={shown(value)} is not called: allowed are {allowed}")
