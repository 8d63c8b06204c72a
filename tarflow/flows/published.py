"""Reads checkpoints in the format of the published code: a state dict, pickled by torch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tarflow.arguments import shown
from tarflow.errors import CheckpointError
from tarflow.flows import checkpoint
from tarflow.flows.affine import ExpScale, UnitScale
from tarflow.flows.codec import Pixels
from tarflow.flows.conditioning import NoiseLevelConditioner
from tarflow.flows.noise import GaussianNoise, Noise
from tarflow.flows.noise_levels import UniformLevels
from tarflow.flows.published_sizes import (
    HEAD_DIM,
    ImageSize,
    Sizes,
    State,
    geometry,
    layers_of,
    misshapen,
    one_or_each,
    read_sizes,
    tensor_of,
)
from tarflow.flows.tar_flow import TarFlow

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What torch puts into names: for several processes, averages, compiled and recomputed layers."""

IGNORED = ("var", "n_averaged")
"""The variance where it is not learned, and the count of torch's AveragedModel."""

# Our name of a parameter within a transform, and the published one.
RENAMED = (
    (r"^network\.blocks\.(\d+)\.attention_norm\.", r"{layers}.\1.attention.norm."),
    (r"^network\.blocks\.(\d+)\.attention\.", r"{layers}.\1.attention."),
    (r"^network\.blocks\.(\d+)\.mlp_norm\.", r"{layers}.\1.mlp.norm."),
    (r"^network\.blocks\.(\d+)\.mlp\.", r"{layers}.\1.mlp.main."),
    (r"^network\.position_embedding$", "pos_embed"),
    (r"^label_embedding\.weight$", "class_embed"),
    (r"^noise_level_embedding\.", "time_embed."),
    (r"^network\.", ""),
)


def read_published(
    path: Path | str,
    image_size: ImageSize = None,
    noise_std: float | None = None,
    model: str | None = None,
    noise_levels: tuple[float, float] | None = None,
) -> TarFlow:
    """Read a published checkpoint: of one noise, or of a model for all levels of it.

    Args:
        path: A file that `torch.save` wrote: a state dict, or a checkpoint of a training that has
            one within it; its names may begin with those of wrappers, such as `module.`.
        image_size: Size of the images, where the weights leave it open.
        noise_std: Standard deviation of the Gaussian noise of the training, which the weights do
            not tell; needed to denoise samples.
        model: Which of them, by its name in the file, where that holds several: `ema`, say.
        noise_levels: In place of it for a model that knows the level: the lowest and the highest.

    Raises:
        CheckpointError: The file is missing, damaged or foreign (the message names the missing or
            misshapen key) or holds several models and none is named; or the weights leave the
            image size open and it is not given; or the noise is told in the other family's way.
        ConfigurationError: The image size is not made of integers, or a level is out of range.
    """
    found = _read(Path(path))
    try:
        state = _choose(_models(found), model, found)
        return from_published(state, image_size, noise_std, noise_levels)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def from_published(
    state: State,
    image_size: ImageSize = None,
    noise_std: float | None = None,
    noise_levels: tuple[float, float] | None = None,
) -> TarFlow:
    """Build the model that a published state dict describes; see `read_published`."""
    sizes = read_sizes(state)
    size, patch_sizes, num_channels = geometry(sizes, image_size)
    knows_level = any(each.noise_level for each in sizes)
    noise = _noise(knows_level, noise_std, noise_levels)
    conditioners = (NoiseLevelConditioner(),) if knows_level and noise is None else ()
    numbers = {name: [getattr(each, name) for each in sizes] for name in vars(sizes[0])}
    each = ("num_layers", "model_dim", "expansion")
    flow = TarFlow(
        image_size=size,
        patch_size=one_or_each(patch_sizes),
        num_channels=num_channels,
        num_transforms=len(sizes),
        head_dim=HEAD_DIM,
        num_classes=next(filter(None, numbers["num_classes"]), 0),
        scale=UnitScale() if sizes[0].outputs == sizes[0].patch_dim else ExpScale(),
        conditioners=conditioners,
        codec=None if noise is None else Pixels(),
        noise=noise,
        conditioned=_conditioned(sizes, knows_level),
        **{name: one_or_each(numbers[name]) for name in each},
    )
    _fill(flow, state)
    return flow.eval()


def _noise(
    knows_level: bool, std: float | None, levels: tuple[float, float] | None
) -> Noise | None:
    """The noise of the training, if it is told."""
    if knows_level and std is not None:
        raise CheckpointError(
            "this model knows the noise level: give noise_levels=LOW:HIGH in place of noise_std"
        )
    if not knows_level and levels is not None:
        raise CheckpointError(
            "this model was trained with one noise: give noise_std=... in place of noise_levels"
        )
    if levels is not None:
        return UniformLevels(*levels)
    return None if std is None else GaussianNoise(std)


def _conditioned(sizes: list[Sizes], may_differ: bool) -> Any:
    """Which transforms read labels: in models of one noise all do, if one does."""
    if not may_differ or not any(each.num_classes for each in sizes):
        return True
    return one_or_each([each.num_classes > 0 for each in sizes])


def _read(path: Path) -> dict[Any, Any]:
    """Load a dictionary without running code from the file."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what damaged bytes raise is up to chance
        raise CheckpointError(
            f"{path} is damaged, truncated, or holds more than tensors: {error}"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is not a state dict (names mapped to tensors)")
    return found


def _models(found: Mapping[Any, Any], name: str = "") -> dict[str, dict[str, Tensor]]:
    """The state dicts of flows in a dictionary and in those within it, by where they are."""
    own = {
        ".".join(part for part in str(key).split(".") if part not in WRAPPERS): value
        for key, value in found.items()
        if isinstance(value, Tensor)
    }
    firsts = [re.fullmatch(r"(.*\.)?blocks\.0\.pos_embed", key) for key in own]
    prefixes = [first[1] or "" for first in firsts if first]
    models = {}
    for prefix in prefixes:
        others = tuple(other for other in prefixes if len(other) > len(prefix))
        keys = [key for key in own if key.startswith(prefix) and not key.startswith(others)]
        models[f"{name}{prefix}"[:-1]] = {key.removeprefix(prefix): own[key] for key in keys}
    for key, value in found.items():
        if isinstance(key, str) and isinstance(value, Mapping):
            models |= _models(value, f"{name}{key}.")
    return models


def _choose(
    models: Mapping[str, dict[str, Tensor]], name: str | None, found: Mapping[Any, Any]
) -> dict[str, Tensor]:
    """The model of that name, or the only one; of none, all that there is."""
    if name is None and len(models) == 1:
        [name] = models
    if name is not None and name in models:
        return models[name]
    names = ", ".join(f"model={each}" for each in models)
    if models:
        which = "holds several models" if name is None else f"has no model {name!r}"
        raise CheckpointError(f"{which}: give one of {names}")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"it is not a state dict (names mapped to tensors): {shown(key)} is"
                f" {type(value).__name__}, and no part of it holds the key 'blocks.0.pos_embed'"
            )
    return dict(found)


def _fill(flow: TarFlow, state: State) -> None:
    """Copy published tensors into a flow, and account for every one of them."""
    weights, used, layers = {}, set(), layers_of(state)
    places = [i for i, transform in enumerate(flow.transform) if transform.num_decoded]
    for key, tensor in flow.state_dict().items():
        theirs, block = _published_name(key, places, layers)
        used.add(theirs)
        value = tensor_of(state, theirs)
        if key.endswith("label_embedding.weight") and value.ndim == 3:
            value = value.squeeze(1)
        if value.shape != tensor.shape:
            raise misshapen(state, theirs, tuple(tensor.shape))
        # Published embeddings belong to the site, ours to the place in the (reversed) sequence.
        reversed_ = key.endswith("position_embedding") and block % 2
        weights[key] = value.flip(0) if reversed_ else value
    ignored = {key for key in state if key in IGNORED or key.endswith("attn_mask")}
    unknown = sorted(state.keys() - used - ignored)
    if unknown:
        raise CheckpointError(f"the key {unknown[0]!r} does not belong to a TarFlow")
    checkpoint.load_weights(flow, weights, "published weights")


def _published_name(key: str, places: list[int], layers: str = "attn_blocks") -> tuple[str, int]:
    """The published name of one of our parameters, and the index of its block."""
    if key == "base.variance":
        return "var", 0
    _, _, place, name = key.split(".", maxsplit=3)  # transform.transforms.<place>.<name>
    block = places.index(int(place))
    for ours, theirs in RENAMED:
        name, changed = re.subn(ours, theirs.format(layers=layers), name)
        if changed:
            break
    return f"blocks.{block}.{name}", block
