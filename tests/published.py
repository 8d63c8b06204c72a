"""Golden values: tiny models in the published format, and what the published code computes."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tarflow import TarFlow
from tarflow.flows.published import from_published

DIRECTORY = Path(__file__).parent / "data"
PREFIX = "weights."


def load_golden(name: str) -> tuple[TarFlow, dict[str, Tensor], dict[str, Any]]:
    """Read a model, its golden tensors by key, and the options they were computed with."""
    path = DIRECTORY / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        case = json.loads(file.metadata()["case"])
    tensors = load_file(path)
    weights = {key.removeprefix(PREFIX): tensors[key] for key in tensors if key.startswith(PREFIX)}
    flow = from_published(weights, case["img_size"], case["noise_std"])
    return flow, {key: tensors[key] for key in tensors if not key.startswith(PREFIX)}, case
