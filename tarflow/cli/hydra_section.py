"""What a configuration may set of Hydra itself, which acts on it before a command runs."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

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


def check_section(section: DictConfig, arguments: Sequence[str] = ()) -> None:
    """Refuse what would run code of a configuration's choice.

    Args:
        section: The section `hydra`.
        arguments: Those of the command, which are the user's own.

    Raises:
        ConfigurationError: Something would; names it.
    """
    for key in FROM_THE_USER:
        given = any(argument.lstrip("+").startswith(f"hydra.{key}") for argument in arguments)
        if not given and OmegaConf.select(section, key):
            raise ConfigurationError(
                f"hydra.{key} is not taken from a file, which may be somebody else's:"
                f" give it on the command line, as hydra.{key}=..."
            )
    for path, value in _leaves(section, "hydra"):
        if allowed := _allowed(path, value):
            raise ConfigurationError(f"{path}={shown(value)} is not called: allowed are {allowed}")


def _allowed(path: str, value: Any) -> str | None:
    """What is allowed in place of a value; None where it may be what it is."""
    part, key = path.split(".")[1], path.split(".")[-1]
    own = tuple(f"{package}." for package in own_packages())
    if key == "_target_" and not (PLUGINS.fullmatch(str(value)) or str(value).startswith(own)):
        return f"Hydra's own parts, or, with {VARIABLE}, a package of yours"
    if part.endswith("_logging"):
        if key == "()" or (key == "class" and value not in LOGGING):
            return ", ".join(LOGGING)
        if str(value).startswith("ext://") and value not in STREAMS:
            return ", ".join(STREAMS)
    return None


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value with its path: as written, and what it stands for where that is known."""
    for key in range(len(node)) if OmegaConf.is_list(node) else node:
        below = f"{path}.{key}"
        if OmegaConf.is_interpolation(node, key):
            yield below, OmegaConf.to_container(node, resolve=False)[key]  # pyright: ignore
        try:
            value = node[key]
        except OmegaConfBaseException:  # known only later, in a job: judged as written
            continue
        if OmegaConf.is_config(value):
            yield from _leaves(value, below)
        else:
            yield below, value
