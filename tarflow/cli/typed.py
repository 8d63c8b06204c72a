"""Values as they were typed: what Hydra's grammar refuses, or would read as something else."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, ValueNode

from tarflow.cli.settings import CONF, accepts, annotations
from tarflow.cli.targets import find
from tarflow.errors import ConfigurationError

KEY = r"[\w$][\w$./@:-]*"
OVERRIDE = re.compile(rf"(?P<sign>\+{{0,2}})(?P<key>{KEY})=(?P<value>.*)", re.ASCII | re.DOTALL)
DELETION = re.compile(rf"~{KEY}(=.*)?", re.ASCII | re.DOTALL)
WITH_VALUE = re.compile(r"--(config-|package|cfg|info)[\w-]*|-(cp|cn|cd|p|c|i)")
"""Options of Hydra's that an argument may follow which belongs to them."""


def options_first(arguments: Sequence[str]) -> list[str]:
    """Arguments for Hydra, whose parser takes all settings in one piece.

    Raises:
        ConfigurationError: One is neither an option nor a setting.

    Example:
        >>> options_first(["optimizer.lr=1,2", "--multirun", "seed=1"])
        ['--multirun', 'optimizer.lr=1,2', 'seed=1']
    """
    options, settings = [], []
    for index, argument in enumerate(arguments):
        follows = index and WITH_VALUE.fullmatch(arguments[index - 1])
        option = follows or argument.startswith("-")
        if not option and not OVERRIDE.fullmatch(argument) and not DELETION.fullmatch(argument):
            raise ConfigurationError(f"{argument} is not a setting: give key=value")
        (options if option else settings).append(argument)
    _, unknown = get_args_parser().parse_known_args(options)
    if unknown:
        raise ConfigurationError(
            f"{unknown[0]} is not an option: settings are key=value, without dashes"
        )
    return [*options, *settings]


def as_typed(overrides: Sequence[str], sweeps: bool) -> list[str]:
    """Overrides with quotes around the values that Hydra would not take as they are.

    Lists, functions, interpolations and quoted values stay what they are in Hydra's grammar. A
    value that is none of these is a string. What commas separate is several values in a sweep
    alone: elsewhere `keep_text` tells whether they belong to the value.

    Example:
        >>> as_typed(["checkpoint=runs/lr=0.1", "label=[0,1]", "logger=null"], sweeps=False)
        ["checkpoint='runs/lr=0.1'", 'label=[0,1]', 'logger=[]']
    """
    return [_argument(argument, sweeps) for argument in overrides]


def keep_text(config: DictConfig, overrides: Sequence[str], kinds: Mapping[str, Any]) -> None:
    """Give a key that takes a string what was typed, where the grammar read it as another thing.

    So a folder may be named 2024, 1e5, [v2] or a,b. `~` begins the home folder, also in files.

    Args:
        config: What was composed.
        overrides: As they were typed.
        kinds: The types of the command's keys.

    Raises:
        ConfigurationError: Several values are given to a key that takes one.
    """
    for override in overrides:
        found = OVERRIDE.fullmatch(override)
        if not found or _is_group(found["key"]):
            continue
        place, _, last = found["key"].rpartition(".")
        node = OmegaConf.select(config, place) if place else config
        if isinstance(node, DictConfig):
            _keep(node, last, found, {} if place else kinds)
    for key in config:
        if key != "hydra":
            _expand(config, key)


def _argument(argument: str, sweeps: bool) -> str:
    """One override for Hydra."""
    found = OVERRIDE.fullmatch(argument)
    if not found:
        return argument
    value, read = found["value"], _parsed(found["value"])
    off = value.lower() in ("null", "none", "false", "off")
    if off and _is_group(found["key"]) and not found["key"].startswith("hydra."):
        value, read = "[]", _parsed("[]")  # as Hydra switches off a group of sections
    several = read is not None and read.is_sweep_override()
    if sweeps and read is None:
        value = ",".join(_value(part) for part in _pieces(value))
    elif several and not sweeps:
        if _is_group(found["key"]):
            raise _several(found)
        value = _quoted(value)
    elif not several:
        value = _value(value)
    return f"{found['sign']}{found['key']}={value}"


def _several(found: re.Match[str]) -> ConfigurationError:
    """What to tell of several values for a key that takes one."""
    return ConfigurationError(
        f"{found['key']}={found['value']} are several values: write [{found['value']}] for a list,"
        " or add --multirun for a sweep"
    )


def _is_group(key: str) -> bool:
    """Whether a key chooses a file, or is Hydra's own."""
    return key.startswith("hydra.") or (CONF / key.partition("@")[0]).is_dir()


def _value(value: str) -> str:
    """A value for Hydra: as it is, if that means what was typed, or else in quotes."""
    read = _parsed(value)
    if read is None and value[:1] == "[" and value[-1:] == "]":
        listed = f"[{','.join(_value(piece.strip()) for piece in _pieces(value[1:-1]))}]"
        return listed if _parsed(listed) else _quoted(value)
    # The grammar drops spaces around a string.
    trimmed = read and isinstance(read.value(), str) and value != value.strip()
    return _quoted(value) if read is None or trimmed else value


def _parsed(value: str) -> Override | None:
    """What Hydra reads; None where it cannot."""
    try:
        return OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return None


def _quoted(value: str) -> str:
    """A value in quotes, which Hydra takes as it is."""
    return QuotedString(text=value, quote=Quote.single).with_quotes()


def _pieces(value: str) -> Iterator[str]:
    """What commas separate, those inside of brackets and quotes aside."""
    quoted = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
    depth, start = 0, 0
    for found in re.finditer(rf"{quoted}|[\[({{]|[\])}}]|,", value):
        sign = found.group()
        depth += (sign in "[({") - (sign in "])}")
        if sign == "," and depth <= 0:
            yield value[start : found.start()]
            start = found.end()
    yield value[start:]


def _keep(node: DictConfig, key: str, found: re.Match[str], kinds: Mapping[str, Any]) -> None:
    """Give one key what was typed, if it takes a string and has another thing."""
    if key not in node or OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
        return
    raw: Any = OmegaConf.to_container(node, resolve=False)
    kind, typed, read = {**_kinds(raw), **kinds}.get(key, Any), found["value"], raw[key]
    parsed = _parsed(typed)
    several = parsed is not None and parsed.is_sweep_override()
    if several and (not accepts(kind, "") or accepts(kind, [""]) or accepts(kind, [0])):
        raise _several(found)
    if read is not None and accepts(kind, "") and not accepts(kind, read):
        OmegaConf.update(node, key, typed, force_add=True)


def _kinds(section: Mapping[str, Any]) -> dict[str, Any]:
    """The types of the arguments of what a section names; none if it may not be called."""
    try:
        return annotations(find(section["_target_"])) if "_target_" in section else {}
    except ConfigurationError:  # told of when the whole configuration is checked
        return {}


def _expand(node: DictConfig | ListConfig, key: Any) -> None:
    """Put the home folder for the `~` that a string begins with."""
    value = node._get_node(key)
    if isinstance(value, DictConfig | ListConfig):
        if not value._is_none() and not value._is_missing() and not value._is_interpolation():
            for inside in range(len(value)) if isinstance(value, ListConfig) else list(value):
                _expand(value, inside)
    elif isinstance(value, ValueNode):
        text = value._value()
        if isinstance(text, str) and re.match("~(/|$)", text):
            node[key] = os.path.expanduser(text)
