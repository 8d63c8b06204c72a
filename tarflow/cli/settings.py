"""The settings of a command: every key with its type, its default and what it means."""

import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from tarflow.arguments import shown
from tarflow.cli.targets import find
from tarflow.errors import ConfigurationError

PACKAGED = Path(__file__).parents[1] / "conf"

CONF = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[2] / "conf"
"""The configuration: inside an installed wheel, or beside the package in a checkout."""

TABLES = "table"
"""What the names of data sets begin with that are tables."""

OmegaConf.register_new_resolver(
    "for_tables",
    lambda data, chosen, others: chosen if data.startswith(TABLES) else others,
    replace=True,
)

Section = DictConfig
"""A part of a configuration that has keys of its own, most of all a `_target_`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the settings of a command: a field is a key, with its type and its default.

    `conf/COMMAND.yaml` lists them as `COMMAND_settings`, and chooses the sections, which have no
    default here.

    Attributes:
        composed: The whole configuration, with what the user added for use within it.
    """

    composed: dict[str, Any]

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The keys that have a default, and those that have to be given."""
        values = {}
        for field in fields(cls):
            make = field.default_factory
            values[field.name] = field.default if make is MISSING else make()
        return {name: value for name, value in values.items() if value is not MISSING}

    @classmethod
    def of(cls, config: DictConfig) -> "Settings":
        """Check the whole of a configuration, once, before any of it is used.

        Raises:
            ConfigurationError: A key is missing or of another type; or a section names what it
                may not, or has an argument of another type than what it names takes.
        """
        kinds = {key: kind for key, kind in get_type_hints(cls).items() if key != "composed"}
        config = config.copy()
        _check_keys(config, kinds)  # first, since what refers to a key needs it to be right
        OmegaConf.resolve(config)
        composed = _check_keys(config, kinds)
        check(composed)
        values = {k: config[k] if _is_section(kinds[k]) else composed[k] for k in kinds}
        values |= {k: float(value) for k, value in values.items() if kinds[k] is float}
        lists = {k: value for k, value in values.items() if kinds[k] == list[float]}
        values |= {k: [float(each) for each in value] for k, value in lists.items()}
        return cls(composed=composed, **values)


def check(config: Any) -> None:
    """Refuse names that may not be called, and arguments of a type that what is named refuses.

    Raises:
        ConfigurationError: There is one; names it.
    """
    if isinstance(config, dict):
        named = find(config["_target_"]) if "_target_" in config else None
        check(list(config.values()))
        for name, kind in annotations(named).items() if named else ():
            if config.get(name, "???") != "???":  # told of where it is used
                _check(name, config[name], kind)
    elif isinstance(config, list):
        for part in config:
            check(part)


def accepts(kind: Any, value: Any) -> bool:
    """Whether a value from a configuration fits an annotation, as far as that can be told.

    Example:
        >>> accepts(float, 1), accepts(int, True), accepts(int | None, "1"), accepts(Any, "1")
        (True, False, False, True)
    """
    origin = get_origin(kind) or kind
    if origin in (Union, types.UnionType):
        return any(accepts(each, value) for each in get_args(kind))
    if kind in (None, type(None)):
        return value is None
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    if kind in (str, Path):
        return isinstance(value, str)
    if origin in (list, Sequence, Iterable):
        inside = get_args(kind)[0]
        return isinstance(value, list) and all(accepts(inside, each) for each in value)
    if origin is tuple:
        return isinstance(value, list)
    if origin is Callable:  # a section, or what another key refers to
        return not isinstance(value, str | int | float | list)
    ours = inspect.isclass(kind) and kind.__module__.startswith("tarflow")
    if ours or origin in (dict, Mapping, Section):
        return isinstance(value, dict)
    return isinstance(value, bool) if kind is bool else True


def _check_keys(config: DictConfig, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse keys that are missing or of another type; returns all as it is written."""
    written: Any = OmegaConf.to_container(config)
    for key, kind in kinds.items():
        if key not in written or not OmegaConf.is_interpolation(config, key):
            _check(key, written.get(key, "???"), kind)
    return written


def _check(key: str, value: Any, kind: Any) -> None:
    """Refuse one value."""
    choices = ", ".join(sorted(path.stem for path in (CONF / key).glob("*.yaml")))
    one_of = f", one of {choices}" if choices and _is_section(kind) else ""
    if value == "???":
        raise ConfigurationError(f"{key} is needed: give {key}=...{one_of}")
    if not accepts(kind, value):
        wanted = re.sub(r"\w+\.", "", kind.__name__ if inspect.isclass(kind) else str(kind))
        wanted = wanted.replace("DictConfig", "a section")
        quoted = " (write ./... for a folder whose name is a number)" if kind is str else ""
        raise ConfigurationError(f"{key}={shown(value)}: needed is {wanted}{quoted}{one_of}")


def _is_section(kind: Any) -> bool:
    """Whether a key is a section."""
    return Section in (kind, *get_args(kind))


def annotations(thing: Callable[..., Any]) -> dict[str, Any]:
    """The types of what a class or function takes."""
    try:
        return get_type_hints(thing.__init__ if inspect.isclass(thing) else thing)
    except (NameError, TypeError):  # shapes of tensors, which no configuration holds
        return {}
