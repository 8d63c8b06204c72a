"""A pretrained folder: `config.json` and `model.safetensors`; no pickle, no network."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tarflow.errors import CheckpointError
from tarflow.flows.affine import Scale
from tarflow.flows.noise import Noise

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1
"""Version of the folder's layout; raised when an older reader would misread a newer folder."""


def save(
    directory: Path | str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    description: str = "",
) -> None:
    """Write a pretrained folder; a failure leaves what was there before.

    Args:
        directory: The folder; made if need be.
        config: Constructor arguments of the model.
        weights: Its state dict.
        description: Which weights they are, such as an average of those of training.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, "model": _encode(config)}, indent=2) + "\n"
    new_config, new_weights = directory / f".{CONFIG}.new", directory / f".{WEIGHTS}.new"
    try:
        new_config.write_text(text)
        tensors = {key: value.contiguous() for key, value in weights.items()}
        save_file(tensors, new_weights, {"description": description} if description else None)
        new_weights.chmod(new_config.stat().st_mode)  # safetensors keeps others from reading it
        os.replace(new_weights, directory / WEIGHTS)
        os.replace(new_config, directory / CONFIG)
    finally:
        new_config.unlink(missing_ok=True)
        new_weights.unlink(missing_ok=True)


def read_config(directory: Path | str) -> dict[str, Any]:
    """Read a pretrained folder's constructor arguments.

    Raises:
        CheckpointError: The folder or its configuration is missing, damaged or of a newer format.
    """
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{directory} is no pretrained folder: it has no {CONFIG}. Such a folder is written by"
            " `tarflow train`, `tarflow convert` and `flow.save_pretrained`"
        )
    try:
        content = json.loads(path.read_text())
        found, model = content["format"], dict(content["model"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:  # json's are ValueErrors
        raise CheckpointError(f"{path} is damaged: {error!r}") from error
    if found != FORMAT:
        raise CheckpointError(
            f"{path} has format {found!r}, but this version of tarflow reads format {FORMAT}:"
            " install the version that wrote it"
        )
    return {key: _decode(value, path) for key, value in model.items()}


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


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], origin: Path | str) -> None:
    """Copy a state dict into a module, after checking that every key and shape is right.

    Args:
        module: The module to fill.
        weights: A state dict.
        origin: Where it came from, for messages.

    Raises:
        CheckpointError: A key is missing, unknown, of the wrong shape or kind, or not finite.
    """
    check_weights(module.state_dict(), weights, origin)
    for key, tensor in weights.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{origin}: {key!r} is not finite: it holds NaN or infinity")
    module.load_state_dict(weights)


def check_weights(
    expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], origin: Path | str
) -> None:
    """Check that a state dict has every key and shape of another.

    Args:
        expected: A state dict of the model.
        weights: What is to be loaded into the model.
        origin: Where it came from, for messages.

    Raises:
        CheckpointError: A key is missing, unknown or of the wrong shape; names it.
    """
    for key, tensor in expected.items():
        if key not in weights:
            raise CheckpointError(f"{origin}: the key {key!r} is missing")
        if weights[key].shape != tensor.shape:
            raise CheckpointError(
                f"{origin}: {key!r} has shape {tuple(weights[key].shape)}, but the model needs"
                f" {tuple(tensor.shape)}"
            )
        if weights[key].is_floating_point() != tensor.is_floating_point():
            raise CheckpointError(
                f"{origin}: {key!r} holds {weights[key].dtype}, but the model needs {tensor.dtype}"
            )
    unknown = sorted(weights.keys() - expected.keys())
    if unknown:
        raise CheckpointError(f"{origin}: the model has no {unknown[0]!r}")


def _kinds() -> dict[str, type]:
    """The classes that a configuration may name: scales and noises, those of the user too."""
    kinds: list[type] = [Scale, Noise]
    for kind in kinds:  # grows while it is walked: subclasses of subclasses count
        kinds += kind.__subclasses__()
    return {kind.__name__: kind for kind in kinds}


def _encode(value: Any) -> Any:
    """Make a constructor argument fit for JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **asdict(value)}
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _decode(value: Any, path: Path) -> Any:
    """Undo `_encode`; nothing but the known kinds is ever constructed."""
    if not isinstance(value, dict):
        return tuple(value) if isinstance(value, list) else value
    arguments = dict(value)
    kind = arguments.pop("type", None)
    if not isinstance(kind, str) or kind not in _kinds():
        raise CheckpointError(f"{path} names {kind!r}; known are {sorted(_kinds())}")
    try:
        return _kinds()[kind](**arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot make a {kind}: {error}") from error
