"""Reads checkpoints in the format of the published code: a state dict, pickled by torch."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tarflow.arguments import check_size, shown
from tarflow.errors import CheckpointError
from tarflow.flows import checkpoint
from tarflow.flows.affine import ExpScale, UnitScale
from tarflow.flows.codec import Pixels
from tarflow.flows.noise import GaussianNoise
from tarflow.flows.tar_flow import TarFlow

ImageSize = int | tuple[int, int] | None
"""Height and width, or one number for both; None where the weights tell."""

HEAD_DIM = 64
"""Width of a head in every published model."""

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What torch puts into names: for several processes, averages, compiled and recomputed layers."""

IGNORED = ("var", "n_averaged")
"""The variance where it is not learned, and the count of torch's AveragedModel."""

NATURAL_CHANNELS = (1, 3, 4)
"""Grey, colour, and the latents of common autoencoders: the channel counts that are tried."""

# Our name of a parameter within a transform, and the published one.
RENAMED = (
    (r"^network\.blocks\.(\d+)\.attention_norm\.", r"attn_blocks.\1.attention.norm."),
    (r"^network\.blocks\.(\d+)\.attention\.", r"attn_blocks.\1.attention."),
    (r"^network\.blocks\.(\d+)\.mlp_norm\.", r"attn_blocks.\1.mlp.norm."),
    (r"^network\.blocks\.(\d+)\.mlp\.", r"attn_blocks.\1.mlp.main."),
    (r"^network\.position_embedding$", "pos_embed"),
    (r"^label_embedding\.weight$", "class_embed"),
    (r"^network\.", ""),
)


def read_published(
    path: Path | str,
    image_size: ImageSize = None,
    noise_std: float | None = None,
    model: str | None = None,
) -> TarFlow:
    """Read a published checkpoint.

    Args:
        path: A file that `torch.save` wrote: a state dict, or a checkpoint of a training that has
            one within it; its names may begin with those of wrappers, such as `module.`.
        image_size: Size of the images, where the weights leave it open.
        noise_std: Standard deviation of the Gaussian noise of the training, which the weights do
            not tell; needed to denoise samples.
        model: Which of them, by its name in the file, where that holds several: `ema`, say.

    Raises:
        CheckpointError: The file is missing, damaged or foreign (the message names the missing or
            misshapen key) or holds several models and none is named; or the weights leave the
            image size open and it is not given.
        ConfigurationError: The image size is not made of integers.
    """
    found = _read(Path(path))
    try:
        return from_published(_choose(_models(found), model, found), image_size, noise_std)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def from_published(
    state: Mapping[str, Tensor], image_size: ImageSize = None, noise_std: float | None = None
) -> TarFlow:
    """Build the model that a published state dict describes; see `read_published`."""
    length, model_dim = _shape(state, "blocks.0.pos_embed", 2)
    patch_dim = _shape(state, "blocks.0.proj_in.weight", 2)[1]
    outputs = _shape(state, "blocks.0.proj_out.weight", 2)[0]
    hidden_dim = _shape(state, "blocks.0.attn_blocks.0.mlp.main.0.weight", 2)[0]
    if model_dim % HEAD_DIM:
        raise CheckpointError(f"the width {model_dim} is not a multiple of a head's, {HEAD_DIM}")
    size, patch_size, num_channels = _geometry(length, patch_dim, image_size)
    flow = TarFlow(
        image_size=size,
        patch_size=patch_size,
        num_channels=num_channels,
        num_transforms=_count(state, r"blocks\.(\d+)\."),
        num_layers=_count(state, r"blocks\.0\.attn_blocks\.(\d+)\."),
        model_dim=model_dim,
        head_dim=HEAD_DIM,
        expansion=max(1, hidden_dim // model_dim),
        num_classes=len(state.get("blocks.0.class_embed", ())),
        scale=UnitScale() if outputs == patch_dim else ExpScale(),
        codec=None if noise_std is None else Pixels(),
        noise=None if noise_std is None else GaussianNoise(noise_std),
    )
    _fill(flow, state)
    return flow.eval()


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


def _shape(state: Mapping[str, Tensor], key: str, ndim: int) -> tuple[int, ...]:
    """Shape of a tensor that must be there."""
    shape = tuple(_tensor(state, key).shape)
    if len(shape) != ndim or 0 in shape:
        raise CheckpointError(f"{key!r} has shape {shape}, not {ndim} dimensions above 0")
    return shape


def _tensor(state: Mapping[str, Tensor], key: str) -> Tensor:
    """A tensor that must be there."""
    if key not in state:
        raise CheckpointError(f"the key {key!r} is missing")
    return state[key]


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many indices, from 0 without a gap, keys hold in some place."""
    found = {int(m.group(1)) for m in (re.match(pattern, key) for key in state) if m}
    return next(index for index in range(len(found) + 1) if index not in found)


def _geometry(
    length: int, patch_dim: int, image_size: ImageSize
) -> tuple[tuple[int, int], int, int]:
    """Image size, patch size and channels with this many patches of this many numbers."""
    if image_size is not None:
        image_size = check_size("image_size", image_size, least=None)
        area = math.prod(image_size) / length
        patch_size = math.isqrt(int(area))
        fits = patch_size > 0 and patch_size**2 == area and patch_dim % patch_size**2 == 0
        if not fits or image_size[0] % patch_size or image_size[1] % patch_size:
            raise CheckpointError(
                f"image_size {image_size[0]} x {image_size[1]} does not fit the weights, which"
                f" have {length} patches of {patch_dim} numbers"
            )
        return image_size, patch_size, patch_dim // patch_size**2
    side = math.isqrt(length)
    sizes = ((channels, math.isqrt(patch_dim // channels)) for channels in NATURAL_CHANNELS)
    choices = [(channels, size) for channels, size in sizes if channels * size**2 == patch_dim]
    if side**2 == length and len(choices) == 1:
        [(channels, patch_size)] = choices
        return (side * patch_size, side * patch_size), patch_size, channels
    guesses = [f"image_size={side * size}" for _, size in choices if side**2 == length]
    raise CheckpointError(
        f"the weights ({length} patches of {patch_dim} numbers) leave the image size open:"
        f" give {' or '.join(guesses) or 'image_size=...'}"
    )


def _fill(flow: TarFlow, state: Mapping[str, Tensor]) -> None:
    """Copy published tensors into a flow, and account for every one of them."""
    weights, used = {}, set()
    places = [i for i, transform in enumerate(flow.transform) if transform.num_decoded]
    for key, tensor in flow.state_dict().items():
        theirs, block = _published_name(key, places)
        used.add(theirs)
        value = _tensor(state, theirs)
        if key.endswith("label_embedding.weight") and value.ndim == 3:
            value = value.squeeze(1)
        if value.shape != tensor.shape:
            raise CheckpointError(
                f"{theirs!r} has shape {tuple(state[theirs].shape)}, but the other weights imply"
                f" {tuple(tensor.shape)}"
            )
        # Published embeddings belong to the site, ours to the place in the (reversed) sequence.
        reversed_ = key.endswith("position_embedding") and block % 2
        weights[key] = value.flip(0) if reversed_ else value
    ignored = {key for key in state if key in IGNORED or key.endswith("attn_mask")}
    unknown = sorted(state.keys() - used - ignored)
    if unknown:
        raise CheckpointError(f"the key {unknown[0]!r} does not belong to a TarFlow")
    checkpoint.load_weights(flow, weights, "published weights")


def _published_name(key: str, places: list[int]) -> tuple[str, int]:
    """The published name of one of our parameters, and the index of its block."""
    if key == "base.variance":
        return "var", 0
    _, _, place, name = key.split(".", maxsplit=3)  # transform.transforms.<place>.<name>
    block = places.index(int(place))
    for ours, theirs in RENAMED:
        name, changed = re.subn(ours, theirs, name)
        if changed:
            break
    return f"blocks.{block}.{name}", block
