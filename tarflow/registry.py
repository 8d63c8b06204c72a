"""What configurations and checkpoints may make: a name for every class and function."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from tarflow.errors import ConfigurationError

Thing = TypeVar("Thing", bound=Callable[..., Any])

_known: dict[str, Any] = {}

KNOWN: Mapping[str, Any] = MappingProxyType(_known)
"""What was registered, by name."""


def register(thing: Thing) -> Thing:
    """Let configurations and checkpoints make a class, or call a function, by its name.

    Raises:
        ConfigurationError: A class of this package has the name already.
    """
    name = thing.__name__
    held = _known.get(name, thing)
    ours = held.__module__.startswith("tarflow.")
    if held is not thing and held.__module__ != thing.__module__ and ours:
        raise ConfigurationError(f"{name} is a name of tarflow: choose another")
    _known[name] = thing
    return thing


class Part:
    """Base of whatever a configuration or a checkpoint may name: every subclass is registered.

    Where it is a dataclass, `config.json` keeps its fields; see `tarflow.flows.checkpoint`.
    """

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        register(cls)
