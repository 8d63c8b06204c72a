"""What the weights of a published checkpoint tell of the model that they belong to."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tarflow.arguments import check_size
from tarflow.errors import CheckpointError

State = Mapping[str, Tensor]

ImageSize = int | tuple[int, int] | None
"""Height and width, or one number for both; None where the weights tell."""

HEAD_DIM = 64
"""Width of a head in every published model."""

NATURAL_CHANNELS = (1, 3, 4)
"""Grey, colour, and the latents of common autoencoders: the channel counts that are tried."""


@dataclass(frozen=True)
class Sizes:
    """Those of one transform.

    Attributes:
        length: Number of patches.
        patch_dim: Numbers in a patch.
        outputs: Numbers that are predicted for a patch.
        num_classes: Number of classes; 0 where it reads none.
        noise_level: Whether it reads the noise level.
    """

    length: int
    patch_dim: int
    outputs: int
    num_layers: int
    model_dim: int
    expansion: int
    num_classes: int
    noise_level: bool


def layers_of(state: State) -> str:
    """What the layers of a transform are called, which tells the two families apart."""
    found = any(re.match(r"blocks\.\d+\.head_blocks\.", key) for key in state)
    return "head_blocks" if found else "attn_blocks"


def read_sizes(state: State) -> list[Sizes]:
    """The sizes of all transforms, that nearest the data first.

    Raises:
        CheckpointError: A key is missing, or does not fit the others; names it.
    """
    blocks = max(1, count(state, r"blocks\.(\d+)\."))
    sizes = [_read(state, index) for index in range(blocks)]
    [(total, _)] = Counter(each.length * each.patch_dim for each in sizes).most_common(1)
    known = {each.patch_dim for each in sizes if each.length * each.patch_dim == total}
    for index, each in enumerate(sizes):
        if each.length * each.patch_dim == total:
            continue
        if each.patch_dim in known:
            wanted = total // each.patch_dim, each.model_dim
            raise misshapen(state, f"blocks.{index}.pos_embed", wanted)
        wanted = each.model_dim, total // each.length
        raise misshapen(state, f"blocks.{index}.proj_in.weight", wanted)
    return sizes


def _read(state: State, index: int) -> Sizes:
    """The sizes of one transform."""
    block, layers = f"blocks.{index}.", layers_of(state)
    length, width = shape_of(state, f"{block}pos_embed", 2)
    rows, patch_dim = shape_of(state, f"{block}proj_in.weight", 2)
    outputs, columns = shape_of(state, f"{block}proj_out.weight", 2)
    hidden_dim = shape_of(state, f"{block}{layers}.0.mlp.main.0.weight", 2)[0]
    [(model_dim, _)] = Counter((width, rows, columns)).most_common(1)
    for name, found, wanted in (
        ("pos_embed", width, (length, model_dim)),
        ("proj_in.weight", rows, (model_dim, patch_dim)),
        ("proj_out.weight", columns, (outputs, model_dim)),
    ):
        if found != model_dim:
            raise misshapen(state, block + name, wanted)
    if model_dim % HEAD_DIM:
        raise CheckpointError(f"the width {model_dim} is not a multiple of a head's, {HEAD_DIM}")
    return Sizes(
        length,
        patch_dim,
        outputs,
        num_layers=count(state, rf"blocks\.{index}\.{layers}\.(\d+)\."),
        model_dim=model_dim,
        expansion=max(1, hidden_dim // model_dim),
        num_classes=len(state.get(f"{block}class_embed", ())),
        noise_level=any(key.startswith(f"{block}time_embed.") for key in state),
    )


def geometry(
    sizes: Sequence[Sizes], image_size: ImageSize
) -> tuple[tuple[int, int], list[int], int]:
    """Image size, patch size of each transform, and number of channels.

    Raises:
        CheckpointError: The image size does not fit, or is missing where weights leave it open.
        ConfigurationError: It is not made of integers.
    """
    cuts = dict.fromkeys((each.length, each.patch_dim) for each in sizes)
    (length, patch_dim), *others = cuts
    told = ", ".join(
        [f"{length} patches of {patch_dim} numbers", *(f"{n} of {d}" for n, d in others)]
    )
    if image_size is not None:
        height, width = check_size("image_size", image_size, least=None)
        patch_sizes = [_patch_size(height, width, *cut) for cut in cuts]
        if not all(patch_sizes):
            raise CheckpointError(
                f"image_size {height} x {width} does not fit the weights, which have {told}"
            )
        num_channels = patch_dim // patch_sizes[0] ** 2
        return (height, width), _sides(sizes, num_channels), num_channels
    square = all(math.isqrt(length) ** 2 == length for length, _ in cuts)
    choices = [
        (math.isqrt(length * patch_dim // channels), channels)
        for channels in NATURAL_CHANNELS
        if square and all(_is_square(patch_dim / channels) for _, patch_dim in cuts)
    ]
    if len(choices) == 1:
        [(side, num_channels)] = choices
        return (side, side), _sides(sizes, num_channels), num_channels
    guesses = " or ".join(f"image_size={side}" for side, _ in choices)
    raise CheckpointError(
        f"the weights ({told}) leave the image size open: give {guesses or 'image_size=...'}"
    )


def _patch_size(height: int, width: int, length: int, patch_dim: int) -> int:
    """Side of the patches, of that many numbers, that cut an image into so many; 0 if none do."""
    side = math.isqrt(max(0, height * width) // length)
    fits = side > 0 and side**2 * length == height * width and patch_dim % side**2 == 0
    return side if fits and height % side == width % side == 0 else 0


def _sides(sizes: Sequence[Sizes], num_channels: int) -> list[int]:
    """Side of the patches of each transform."""
    return [math.isqrt(each.patch_dim // num_channels) for each in sizes]


def _is_square(number: float) -> bool:
    """Whether it is the square of an integer."""
    return number == math.isqrt(int(number)) ** 2


def misshapen(state: State, key: str, wanted: tuple[int, ...]) -> CheckpointError:
    """What to raise where a tensor does not fit the others."""
    found = tuple(state[key].shape)
    return CheckpointError(f"{key!r} has shape {found}, but the other weights imply {wanted}")


def shape_of(state: State, key: str, ndim: int) -> tuple[int, ...]:
    """Shape of a tensor that must be there."""
    shape = tuple(tensor_of(state, key).shape)
    if len(shape) != ndim or 0 in shape:
        raise CheckpointError(f"{key!r} has shape {shape}, not {ndim} dimensions above 0")
    return shape


def tensor_of(state: State, key: str) -> Tensor:
    """A tensor that must be there."""
    if key not in state:
        raise CheckpointError(f"the key {key!r} is missing")
    return state[key]


def count(state: State, pattern: str) -> int:
    """How many indices, from 0 without a gap, keys hold in some place."""
    found = {int(m.group(1)) for m in (re.match(pattern, key) for key in state) if m}
    return next(index for index in range(len(found) + 1) if index not in found)


def one_or_each(values: Sequence[Any]) -> Any:
    """The value that all have, or else the values."""
    return values[0] if len(set(values)) == 1 else tuple(values)
