"""Whether the values of a configuration are of the kind that their keys need."""

import inspect
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import hydra.utils
from omegaconf import DictConfig, OmegaConf

from tarflow.arguments import shown
from tarflow.errors import ConfigurationError

Section = dict[str, Any]
KINDS: dict[str, Any] = {
    "checkpoint": str,
    "baseline": str | None,
    "output": str | None,
    "name": str | int,
    "run_dir": str,
    "resume": str,
    "device": str,
    "dtype": str | None,
    "num_samples": int,
    "batch_size": int,
    "seed": int,
    "window": int,
    "windows": list[int],
    "repetitions": int,
    "grid_samples": int,
    "columns": int | None,
    "num_workers": int | None,
    "rank": int | None,
    "world_size": int | None,
    "label": str | int | list[int],
    "guidance": float,
    "temperature": float,
    "tolerance": float,
    "denoise": bool,
    "compile": bool,
    "save_png": bool,
    "save_npz": bool,
    "overwrite": bool,
    **dict.fromkeys(("guidance_rule", "decoder", "metrics", "format"), Section),
    **dict.fromkeys(("model", "noise", "optimizer", "trainer"), Section),
    **dict.fromkeys(("callbacks", "module", "schedule"), Section),
    **dict.fromkeys(("data", "logger"), Section | None),
}
"""What a key is in any command that has it."""


def check_values(config: DictConfig) -> None:
    """Refuse values of another kind than their keys need.

    Raises:
        ConfigurationError: There is one; names it.
    """
    for key in config:
        if key in KINDS and not OmegaConf.is_missing(config, key):
            value = config[key]
            plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            _check(str(key), plain, KINDS[str(key)])
    if config.get("data") is None and ("module" in config or "metrics" in config):
        raise ConfigurationError("data=None: give data=..., such as data=digits")


def check_arguments(config: Any) -> None:
    """Refuse arguments that are of another kind than the signature of what is called tells.

    Raises:
        ConfigurationError: There is one; names it.
    """
    if isinstance(config, dict):
        if "_target_" in config:
            hints = _hints(hydra.utils.get_object(config["_target_"]))
            for name, value in config.items():
                if name in hints and value != "???":
                    _check(name, value, hints[name])
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            check_arguments(part)


def accepts(kind: Any, value: Any) -> bool:
    """Whether a value from a configuration fits an annotation, as far as that can be told.

    Example:
        >>> accepts(float, 1), accepts(int, True), accepts(int | None, "1"), accepts(Any, "1")
        (True, False, False, True)
    """
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return any(accepts(each, value) for each in get_args(kind))
    if kind in (None, type(None)):
        return value is None
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    if kind in (str, Path):
        return isinstance(value, str)
    if kind is dict or origin is dict:
        return isinstance(value, dict)
    if origin in (list, Sequence, Iterable):
        inside = get_args(kind)[0]
        return isinstance(value, list) and all(accepts(inside, each) for each in value)
    if origin is tuple:
        return isinstance(value, list)
    if origin is Callable:  # a section, or what another key refers to
        return not isinstance(value, str | int | float | list)
    if inspect.isclass(kind) and kind.__module__.startswith("tarflow"):
        return isinstance(value, dict)
    return isinstance(value, bool) if kind is bool else True


def _check(name: str, value: Any, kind: Any) -> None:
    """Refuse one value."""
    if not accepts(kind, value):
        wanted = getattr(kind, "__name__", "") if inspect.isclass(kind) else str(kind)
        wanted = "a section" if kind is Section else wanted.replace("collections.abc.", "")
        quoted = " (write ./... for a folder whose name is a number)" if kind is str else ""
        raise ConfigurationError(f"{name}={shown(value)}: needed is {wanted}{quoted}")


def _hints(target: Any) -> dict[str, Any]:
    """The annotations of the parameters of a class or function."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(function)
    except (NameError, TypeError):  # shapes of tensors, which no configuration holds
        return {}
