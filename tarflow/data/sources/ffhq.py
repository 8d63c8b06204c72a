"""FFHQ; its numbers and its split are from github.com/NVlabs/ffhq-dataset."""

from pathlib import Path

from tarflow.data.images import ImageData
from tarflow.data.sources.editions import Edition, resized
from tarflow.data.storage.image_files import ImageFiles
from tarflow.data.storage.picture_folder import Samples
from tarflow.errors import DataError
from tarflow.registry import register


class NumberedFaces(Edition):
    """PNG files; an image's number tells its part, so that a subset keeps the split."""

    def read(self, folder: Path, image_size: int) -> ImageData:
        chosen: dict[str, Samples] = {"train": [], "test": []}
        for path, label in self.list_images(folder):
            number = Path(path).stem
            if not number.isdecimal():
                raise DataError(f"the name of {path} is not a number. {self.help}")
            part = "train" if int(number) < sum(self.counts["train"]) else "test"
            chosen[part].append((path, label))
        parts = {part: ImageFiles(samples, image_size) for part, samples in chosen.items()}
        return self.assemble(parts, image_size, resized(image_size))


FFHQ = NumberedFaces(
    name="FFHQ",
    choice="data=ffhq data.data.image_size=256",
    layout="PNG files in ROOT or folders in it (images1024x1024/00000/00000.png ...), in order",
    counts={"train": (60_000,), "test": (10_000,)},
    num_classes=0,
)


@register
def ffhq(
    root: str | Path,
    image_size: int,
    check_counts: bool = True,
    validation_fraction: float = 0.0,
    horizontal_flip: bool = False,
) -> ImageData:
    """FFHQ: 70,000 faces without labels; the last 10,000 are its validation images, here `test`.

    The arguments are those of `imagenet`.

    Raises:
        DataError: Files are missing, or have names other than numbers.
    """
    data = FFHQ.load(root, image_size, check_counts)
    return data.for_training(validation_fraction, horizontal_flip)
