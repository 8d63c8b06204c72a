"""Encodes a data set, once, into latents that are mapped to memory."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from tarflow.data.images import ImageData
from tarflow.data.storage.formats import ImageBatches, write_arrays
from tarflow.data.storage.preparation import appearing, described, read_images, read_workers
from tarflow.data.storage.prepared import Digest, LatentDescription
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels
from tarflow.tokenizers.tokenizer import Tokenizer

DTYPES = ("float32", "float16")
"""How latents may be kept."""


def prepare_latents(
    data: ImageData,
    tokenizer: Tokenizer,
    output: str | Path,
    dtype: str = "float32",
    num_workers: int | None = 0,
) -> LatentDescription:
    """Write the latents of a data set, and their tokenizer, into a folder.

    The folder appears when it is complete, as that of `prepare` does.

    Args:
        data: Images of bytes; those of training are encoded as they are, not augmented.
        tokenizer: Makes their latents, on its device.
        output: The folder to make.
        dtype: How latents are kept, `float32` or `float16`: half the space, rounded.
        num_workers: Number of processes that read and decode images; None takes one for each core.

    Raises:
        DataError: The tokenizer is for other images, or its latents are not finite; or as
            `prepare` does.
    """
    if dtype not in DTYPES:
        raise DataError(f"dtype={dtype} is unknown: give {' or '.join(DTYPES)}")
    if not isinstance(data.codec, Pixels):
        raise DataError(f"{data.name} holds no images of pixels, of which latents could be made")
    data.with_tokenizer(tokenizer)  # checks it
    num_workers = read_workers(num_workers)
    with appearing(output) as new:
        images, latents = ({part: Digest() for part in data.parts} for _ in range(2))
        for part, dataset in data.parts.items():
            batches = read_images(dataset, part, data.image_shape, images[part], num_workers)
            encoded = _encoded(batches, part, tokenizer, getattr(torch, dtype), latents[part])
            shape = (len(dataset), *tokenizer.latent_shape)
            write_arrays(new, f"{part}_latents.npy", part, dtype, shape, encoded)
        tokenizer.save_pretrained(new / "tokenizer")
        description = LatentDescription(
            **described(data, "latents", latents),
            images_sha256={part: digest.hexdigest() for part, digest in images.items()},
            latents_sha256=tokenizer.latents_sha256,
            latent_shape=tokenizer.latent_shape,
            dtype=dtype,
            shift=tuple(tokenizer.shift.flatten().tolist()),
            scale=tuple(tokenizer.scale.flatten().tolist()),
        )
        description.write(new)
    return description


def _encoded(
    batches: ImageBatches, part: str, tokenizer: Tokenizer, dtype: torch.dtype, digest: Digest
) -> Iterator[tuple[Tensor, Tensor]]:
    """Latents of images, and their labels."""
    for images, labels in batches:
        with torch.no_grad():
            latents = tokenizer.encode(images, dtype=dtype)
        if not latents.isfinite().all():
            raise DataError(
                f"latents of {part} images are not finite in {dtype}: the tokenizer is broken, or"
                " they do not fit float16"
            )
        digest.add(latents, labels.numpy())
        yield latents, labels
