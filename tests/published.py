"""Tiny models in the published format: random ones, and those whose results are known."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tarflow import TarFlow
from tarflow.flows.published import from_published

DIRECTORY = Path(__file__).parent / "data"
PREFIX = "weights."


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """The published weights of a golden file, its other tensors, and the options behind them."""
    path = DIRECTORY / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        case = json.loads(file.metadata()["case"])
    tensors = load_file(path)
    state = {key.removeprefix(PREFIX): tensors[key] for key in tensors if key.startswith(PREFIX)}
    return state, {key: tensors[key] for key in tensors if not key.startswith(PREFIX)}, case


def load_golden(name: str) -> tuple[TarFlow, dict[str, Tensor], dict[str, Any]]:
    """Read a model, its golden tensors by key, and the options they were computed with."""
    state, tensors, case = golden(name)
    levels = (case["t0"], case["t1"]) if "t1" in case else None
    return from_published(state, case["img_size"], case.get("noise_std"), levels), tensors, case


def random_state(family: str = "attn_blocks", blocks: int = 1, **sizes: Any) -> dict[str, Tensor]:
    """A state dict in the published layout, written down key by key.

    The family is what its layers are called: those of `head_blocks` read a noise level. Sizes are
    one number, or one for each block.
    """
    shapes = {}
    for index in range(blocks):
        own = {
            name: each[index] if isinstance(each, tuple) else each for name, each in sizes.items()
        }
        shapes |= {f"blocks.{index}.{key}": shape for key, shape in _block(family, **own).items()}
    patch_dim = shapes[f"blocks.{blocks - 1}.proj_in.weight"][1]
    shapes["var"] = (shapes[f"blocks.{blocks - 1}.pos_embed"][0], patch_dim)
    return {key: 0.1 * torch.rand(shape) for key, shape in shapes.items()}


def _block(
    family: str,
    length: int = 16,
    patch_dim: int = 12,
    width: int = 64,
    layers: int = 1,
    expansion: int = 4,
    outputs: int = 2,
    classes: int = 0,
) -> dict[str, tuple[int, ...]]:
    """The shapes of one block's tensors."""
    shapes = {"pos_embed": (length, width)}
    if classes:
        shapes["class_embed"] = (classes, 1, width)
    linear = {"proj_in": (width, patch_dim), "proj_out": (outputs * patch_dim, width)}
    if family == "head_blocks":
        linear |= {"time_embed.mlp.0": (4 * width, width), "time_embed.mlp.2": (width, 4 * width)}
    for layer in (f"{family}.{index}." for index in range(layers)):
        for norm in ("attention.norm", "mlp.norm"):
            shapes |= {f"{layer}{norm}.weight": (width,), f"{layer}{norm}.bias": (width,)}
        linear[f"{layer}attention.qkv"] = (3 * width, width)
        linear[f"{layer}attention.proj"] = (width, width)
        linear[f"{layer}mlp.main.0"] = (expansion * width, width)
        linear[f"{layer}mlp.main.2"] = (width, expansion * width)
    for name, (rows, columns) in linear.items():
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    return shapes
