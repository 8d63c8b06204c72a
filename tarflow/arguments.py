"""Checks of what a caller passes: errors name the argument, its value and what is allowed."""

import math
import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tarflow.errors import ConfigurationError


def check_integer(
    name: str, value: Any, least: int | None = None, kind: type[ValueError] = ConfigurationError
) -> int:
    """Read an integer as a plain number; a truth value does not count as one.

    Example:
        >>> check_integer("window", 0, least=1)
        Traceback (most recent call last):
        tarflow.errors.ConfigurationError: window 0 must be at least 1

    Raises:
        ConfigurationError: It is something else, or too small; another `kind` where one is given.
    """
    try:
        if is_truth(value):
            raise TypeError
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError) as error:  # torch's, of tensors
        raise kind(f"{name} {shown(value)} must be an integer") from error
    if least is not None and number < least:
        raise kind(f"{name} {number} must be at least {least}")
    return number


def check_real(name: str, value: Any, kind: type[ValueError] = ConfigurationError) -> int | float:
    """Read a real number as a plain one, as `check_integer` does; the caller checks its range."""
    single = isinstance(value, Tensor | np.generic | np.ndarray) and value.ndim == 0
    number = value.item() if single else value
    if is_truth(number) or not isinstance(number, Real):
        raise kind(f"{name} {shown(value)} must be a number")
    return number if type(number) is int else float(number)


def is_truth(value: Any) -> bool:
    """Whether a value is true or false, in Python, NumPy or torch."""
    return isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) == torch.bool


def keep(owner: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass to the values that its checks have read.

    What a caller passes may be NumPy's or a tensor, which no file of settings can hold.
    """
    for name, value in values.items():
        object.__setattr__(owner, name, value)


def keep_positive(owner: Any, *names: str, below: float = math.inf) -> None:
    """Keep numbers of a frozen dataclass that lie above 0 and below a limit.

    Raises:
        ConfigurationError: One does not; names it.
    """
    for name in names:
        value = check_real(name, getattr(owner, name))
        if not 0 < value < below:
            wanted = "positive and finite" if below == math.inf else f"in (0, {below:g})"
            raise ConfigurationError(f"{name} {value} must be {wanted}")
        keep(owner, **{name: value})


def check_size(name: str, value: Any, least: int | None = 1) -> tuple[int, int]:
    """Read a height and a width, or one number for both, or raise a `ConfigurationError`."""
    sides = list(value) if isinstance(value, tuple | list) else [value, value]
    if len(sides) != 2:
        raise ConfigurationError(
            f"{name} {shown(value)}: give height and width, or one number for both"
        )
    height, width = (check_integer(name, side, least) for side in sides)
    return height, width


def check_instance(name: str, value: Any, wanted: type, hint: str) -> None:
    """Refuse what is not of a class, in a message that ends with the hint."""
    if not isinstance(value, wanted):
        raise ConfigurationError(f"{name} {shown(value)} is not a {wanted.__name__}: {hint}")


def check_tensor(
    name: str, value: Any, shape: tuple[int, ...] | None, device: torch.device
) -> None:
    """Refuse what is not a batch of floating-point examples of a shape (None: any) on a device.

    Raises:
        ConfigurationError: It is something else, or of another dtype, shape or device.
    """
    if not isinstance(value, Tensor):
        raise ConfigurationError(
            f"{name} {shown(value)} is a {type(value).__name__}, not a tensor"
        )
    if not value.is_floating_point():
        raise ConfigurationError(
            f"{name} holds {value.dtype}, but a model's numbers are floating-point: pixels become"
            " such by flow.noisy(pixels)"
        )
    if value.ndim == 0 or (shape is not None and tuple(value.shape[1:]) != shape):
        wanted = "..." if shape is None else ", ".join(map(str, shape))
        raise ConfigurationError(
            f"{name} has shape {tuple(value.shape)}, but this model takes (batch, {wanted})"
        )
    if value.device != device:
        raise ConfigurationError(
            f"{name} is on {value.device}, but the model is on {device}: move one of them, with"
            " .to(...)"
        )


def shown(value: Any, length: int = 80) -> str:
    """A value for a message, on one line and not long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= length else f"{text[:length]} ..."


def flattened(nested: Mapping[str, Any], joint: str = ".") -> dict[str, Any]:
    """Nested values under keys of one level, joined."""
    flat = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}{joint}{name}": one for name, one in flattened(value, joint).items()}
        else:
            flat[key] = value
    return flat
