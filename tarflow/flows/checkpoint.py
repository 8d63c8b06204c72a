"""A pretrained folder: `config.json` and `model.safetensors`; no pickle, no network."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tarflow.arguments import shown
from tarflow.errors import CheckpointError
from tarflow.machine.files import json_text, put
from tarflow.registry import KNOWN, Part

CONFIG, WEIGHTS = "config.json", "model.safetensors"
StateDict = Mapping[str, Tensor]

FORMAT = 2
"""Version of the folder's layout; raised when an older reader would misread a newer folder."""


UNWRITTEN = {"unwritten": None}
"""Metadata of a field that is left out of `config.json` where it is None: older versions of this
package do not know it."""


def save(
    directory: Path | str, described: tuple[str, Part], weights: StateDict, words: str = ""
) -> None:
    """Write a pretrained folder of what `Flow.described` tells, and of a state dict.

    The folder is made if need be; a failure leaves what was there before. Words tell which
    weights they are, such as an average of those of training.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    name, description = described
    flow = {**encode(description), "type": name}
    text = json_text({"format": FORMAT, "flow": flow})
    new_config, new_weights = directory / f".{CONFIG}.new", directory / f".{WEIGHTS}.new"
    try:
        new_config.write_text(text)
        tensors = {key: value.contiguous() for key, value in weights.items()}
        save_file(tensors, new_weights, {"description": words} if words else None)
        new_weights.chmod(new_config.stat().st_mode)  # safetensors keeps others from reading it
        put(new_weights, directory / WEIGHTS)
        put(new_config, directory / CONFIG)
    finally:
        new_config.unlink(missing_ok=True)
        new_weights.unlink(missing_ok=True)


def read_config(directory: Path | str) -> tuple[str, dict[str, Any]]:
    """Read the name of a pretrained flow's class, and the arguments that it is made with.

    Raises:
        CheckpointError: The folder or its configuration is missing, damaged or of a newer format.
    """
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{directory} is not a pretrained folder: it has no {CONFIG}. Such a folder is written"
            " by `tarflow train`, `tarflow convert` and `flow.save_pretrained`"
        )
    try:
        content = json.loads(path.read_text())
        found = content["format"]
        if found not in READERS:
            raise CheckpointError(
                f"{path} has format {found!r}, but this version of tarflow reads formats"
                f" {' and '.join(map(str, READERS))}: install the version that wrote it"
            )
        arguments = READERS[found](content)
        name = arguments.pop("type")
        if not isinstance(name, str):
            raise TypeError(f"its flow is a {name!r}")
        return name, {key: _decode(value, path) for key, value in arguments.items()}
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from error


def _read_format_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """Bring what version 0.1 wrote up to date: its noise was noise and codec in one."""
    model = {"type": "TarFlow", **content["model"]}
    noise = model.get("noise")
    if isinstance(noise, dict):
        levels = noise.pop("levels", 256)
        uniform = noise.get("type") == "UniformDequantization"
        model["codec"] = {"type": noise["type"] if uniform else "Pixels", "levels": levels}
        model["noise"] = {"type": "NoNoise"} if uniform else noise
    return model


READERS = {1: _read_format_1, 2: lambda content: dict(content["flow"])}
"""What turns each format ever released into the present one."""


def read_weights(directory: Path | str) -> dict[str, Tensor]:
    """Read a pretrained folder's state dict.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    path = Path(directory) / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or truncated: {error}") from error


def description_of(directory: Path | str) -> str | None:
    """Which weights a pretrained folder holds, in words; None where its file does not tell."""
    with safe_open(Path(directory) / WEIGHTS, "pt") as file:
        return (file.metadata() or {}).get("description")


def load_weights(module: nn.Module, weights: StateDict, origin: Path | str) -> None:
    """Copy a state dict into a module; messages name its origin.

    Raises:
        CheckpointError: A key is missing, unknown, of the wrong shape or kind, or not finite.
    """
    check_weights(module.state_dict(), weights, origin)
    for key, tensor in weights.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{origin}: {key!r} is not finite: it holds NaN or infinity")
    module.load_state_dict(weights)


def check_weights(expected: StateDict, weights: StateDict, origin: Path | str) -> None:
    """Check that a state dict has every key and shape of the expected one.

    Raises:
        CheckpointError: A key is missing, unknown or of the wrong shape or kind; names it.
    """
    for key, tensor in expected.items():
        if key not in weights:
            raise CheckpointError(f"{origin}: the key {key!r} is missing")
        found, problem = weights[key], ""
        if found.shape != tensor.shape:
            problem = f"has shape {tuple(found.shape)}, but the model needs {tuple(tensor.shape)}"
        elif found.is_floating_point() != tensor.is_floating_point():
            problem = f"holds {found.dtype}, but the model needs {tensor.dtype}"
        if problem:
            raise CheckpointError(f"{origin}: {key!r} {problem}")
    unknown = sorted(weights.keys() - expected.keys())
    if unknown:
        raise CheckpointError(f"{origin}: the model has no {unknown[0]!r}")


def check_extent(arguments: Mapping[str, Any], num_weights: int, origin: Path | str) -> None:
    """Refuse a damaged number of layers, which would take forever to make."""
    shared = isinstance(arguments.get("networks"), tuple)  # then transforms are as many as listed
    names = ("num_layers", "num_blocks")  # of a flow and of a student
    for name in names if shared else ("num_transforms", *names):
        value = arguments.get(name)
        largest = max(value, default=1) if isinstance(value, tuple) else value
        if isinstance(largest, int) and largest > num_weights:
            raise CheckpointError(
                f"{origin}: {name} {value} does not fit {num_weights} tensors of weights"
            )


def encode(value: Any, name: str = "the description") -> Any:
    """Make an argument fit for JSON; parts within parts keep their types.

    Raises:
        CheckpointError: It holds what a file cannot keep, such as a function, or NaN.
    """
    described: Any = getattr(value, "described", None)  # of a codec with weights
    if described is not None:
        kind, description = described
        return {**encode(description, name), "type": kind}
    if is_dataclass(value) and not isinstance(value, type):
        held = {field: getattr(value, field.name) for field in fields(value)}
        written = {f.name: each for f, each in held.items() if f.metadata != UNWRITTEN or each}
        return {"type": type(value).__name__} | {k: encode(v, k) for k, v in written.items()}
    if isinstance(value, np.generic | np.ndarray | Tensor):
        value = value.tolist()
    if isinstance(value, tuple | list):
        return [encode(item, name) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise CheckpointError(f"{name} {value} cannot be saved: give a finite number")
    if not isinstance(value, str | int | float | None):
        raise CheckpointError(
            f"{name} {shown(value)} cannot be saved: config.json holds numbers, texts, lists of"
            " these, and parts"
        )
    return value


def _decode(value: Any, path: Path) -> Any:
    """Undo `encode`; nothing but parts that the registry knows is ever constructed."""
    if isinstance(value, list):
        return tuple(_decode(item, path) for item in value)
    if not isinstance(value, dict):
        return value
    arguments = {key: _decode(item, path) for key, item in value.items()}
    kind = arguments.pop("type", None)
    part = KNOWN.get(kind) if isinstance(kind, str) else None
    is_part = isinstance(part, type) and issubclass(part, Part)
    if part is None or not is_part or not (is_dataclass(part) or issubclass(part, nn.Module)):
        raise CheckpointError(
            f"{path} names {kind!r}, which is not known here: import the package that defines it"
            f" first, or give the commands its name in TARFLOW_TARGETS"
        )
    make: Any = part
    try:
        return make(**arguments)
    except (TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: cannot make a {kind}: {error}") from error
