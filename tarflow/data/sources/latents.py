"""What `tarflow prepare tokenizer=RUN` wrote."""

from pathlib import Path

from tarflow.data.images import ImageData, LabelledImages
from tarflow.data.sources.memory_mapped import MappedImages, check_part
from tarflow.data.storage.prepared import META, LatentDescription
from tarflow.errors import DataError
from tarflow.registry import register
from tarflow.tokenizers.tokenizer import Tokenizer


@register
def latents(root: str | Path, validation_fraction: float = 0.0, verify: bool = False) -> ImageData:
    """Read latents that were prepared, with the tokenizer that made them.

    They are mapped to memory, as prepared images are.

    Args:
        root: The folder.
        validation_fraction: Fraction of the training examples that is set aside to choose by.
        verify: Whether to read everything once now, and compare it with the hash.

    Raises:
        DataError: The folder is missing, incomplete or damaged, or the tokenizer in it is not the
            one that made the latents.
        CheckpointError: There is no tokenizer in it.
    """
    folder = Path(root).expanduser()
    description = LatentDescription.read(folder)
    tokenizer = Tokenizer.from_pretrained(folder / "tokenizer")
    if tokenizer.latents_sha256 != description.latents_sha256:
        raise DataError(
            f"the tokenizer in {folder} is one of latents {tokenizer.latents_sha256}, but its"
            f" {META} tells of {description.latents_sha256}: prepare the latents again"
        )
    parts: dict[str, LabelledImages] = {}
    for part in description.counts:
        stored, labels = (folder / f"{part}_{kind}.npy" for kind in ("latents", "labels"))
        parts[part] = MappedImages(stored, labels, description.dtype, description.layout)
        check_part(folder, part, parts[part], description, tokenizer.latent_shape, verify)
    data = ImageData.of(
        f"{description.name}, {tokenizer.words}",
        parts,
        codec=tokenizer,
        num_classes=description.num_classes,
        image_shape=tokenizer.latent_shape,
        class_names=description.class_names,
    )
    return data.for_training(validation_fraction, horizontal_flip=False)
