"""What the names in a configuration stand for, and which of them may be called."""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException

from tarflow.arguments import shown
from tarflow.errors import ConfigurationError
from tarflow.registry import KNOWN

OTHERS = (
    "lightning.Trainer",
    *(f"lightning.pytorch.{kind}." for kind in ("callbacks", "loggers", "plugins")),
    *("lightning.pytorch.profilers.", "lightning.pytorch.strategies.", "torch.optim."),
)
"""What the name of a class of others may begin with."""

VARIABLE = "TARFLOW_TARGETS"
"""Environment variable that names packages of the user, with commas between them."""


def find(name: Any) -> Callable[..., Any]:
    """The class or function that a configuration names by `_target_`.

    A configuration may come from somebody else, and what it names is called. So it is something
    that the registry lists, a class of Lightning or torch.optim, or part of a package of the
    user's own; and since imports run code too, a name is looked at before anything is imported.

    Raises:
        ConfigurationError: It is something else, or not to be found.
    """
    refusal = ConfigurationError(
        f"_target_={shown(name)} is not called: a configuration may name what tarflow registers"
        " (its parts, data sets, callbacks, optimizers), classes of torch.optim, and Lightning's;"
        f" for a package of your own, set the environment variable {VARIABLE} to its name"
    )
    own = tuple(f"{package}." for package in own_packages())
    private = not isinstance(name, str) or any(part[:1] == "_" for part in name.split("."))
    if private or not name.startswith(("tarflow.", *OTHERS, *own)):
        raise refusal
    try:
        found = hydra.utils.get_object(name)
    except (InstantiationException, ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"_target_={name} is not to be found: {error}") from error
    if not _may_be_called(found, own):
        raise refusal
    return found


def completed(config: Any) -> Any:
    """A configuration with what it leaves to defaults, and with full names.

    So two of them can be compared, one of which was written before an argument was there, or by
    another of several names of a class. What cannot be found stays as it is.
    """
    if isinstance(config, list | tuple):
        return [completed(each) for each in config]
    if is_dataclass(config) and not isinstance(config, type):
        held = {field.name: getattr(config, field.name) for field in fields(config)}
        return completed({"_target_": _name_of(type(config)), **held})
    if not isinstance(config, Mapping):
        return config if isinstance(config, str | int | float | None) else type(config).__name__
    content = {key: completed(value) for key, value in config.items()}
    try:
        named = find(config["_target_"]) if "_target_" in config else None
    except ConfigurationError:
        return content
    if named is not None:
        content["_target_"] = _name_of(named)
        for name, parameter in inspect.signature(named).parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                content.setdefault(name, completed(parameter.default))
    return content


def _name_of(thing: Callable[..., Any]) -> str:
    """The full name of a class or function."""
    return f"{thing.__module__}.{thing.__qualname__}"


def own_packages() -> tuple[str, ...]:
    """The packages of the user's own."""
    return tuple(name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip())


def import_own_packages() -> None:
    """Import all their modules, for checkpoints that name a part of one: these import nothing.

    Raises:
        ConfigurationError: One cannot be imported.
    """
    for package in own_packages():
        try:
            places = getattr(import_module(package), "__path__", ())
            for module in walk_packages(places, f"{package}."):
                if not module.name.endswith("__main__"):
                    import_module(module.name)
        except ImportError as error:
            raise ConfigurationError(
                f"{VARIABLE} names {package}, which cannot be imported: {error}"
            ) from error


def _may_be_called(found: Any, own: tuple[str, ...]) -> bool:
    """Whether a thing is allowed, wherever its name led: a module's imports have names in it."""
    origin = f"{getattr(found, '__module__', None)}."
    if origin.startswith("tarflow."):
        return KNOWN.get(getattr(found, "__name__", "")) is found
    of_others = inspect.isclass(found) and origin.startswith(("lightning.", "torch.optim."))
    return of_others or origin.startswith(own)
