"""Pictures of any kind and size, brought to bytes of one shape."""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from tarflow.arguments import check_integer
from tarflow.errors import DataError

PAPER = (255, 255, 255, 255)
"""What transparent pictures lie on: white."""

DEEP = 65_535
"""The largest value of 16 bits."""

MODES = {1: "L", 3: "RGB"}
"""Pillow's name for pixels of so many channels."""


class Framing:
    """Decodes a picture: the shorter side is resized with antialiasing, the centre is kept.

    `flattened` tells what is made of other pixels than grey and colour of 8 bits.

    Args:
        image_size: Height and width to bring pictures to; None leaves them as they are.
        num_channels: 1 converts pictures to grey, 3 to colour.
    """

    def __init__(self, image_size: int | None, num_channels: int = 3):
        from torchvision import transforms

        if num_channels not in MODES:
            raise DataError(f"num_channels {num_channels}: choose 1 for grey or 3 for colour")
        self.mode = MODES[num_channels]
        steps = []
        if image_size is not None:
            check_integer("image_size", image_size, 1, DataError)
            steps = [transforms.Resize(image_size, antialias=True)]
            steps += [transforms.CenterCrop(image_size)]
        self.transform: Callable[[Image.Image], Tensor] = transforms.Compose(
            [*steps, transforms.PILToTensor()]
        )

    def __call__(
        self, file: str | io.BytesIO, name: str
    ) -> UInt8[Tensor, "channels height width"]:
        """Decode a file, or the one at a path, which messages call by the name."""
        return self.transform(self.decode(file, name))

    def decode(self, file: str | io.BytesIO, name: str) -> Image.Image:
        """Decode a file into pixels of the wanted mode, at their own size; see `flattened`."""
        try:
            with Image.open(file) as image:
                return flattened(image).convert(self.mode)
        # decoders raise anything: OSError, SyntaxError, struct.error, zlib.error
        except Exception as error:
            raise DataError(f"{name} ({error})") from error


def flattened(image: Image.Image) -> Image.Image:
    """The picture as it is meant to be seen, with 8 bits and without transparency.

    Turned upright as its EXIF data tell; 16 bits are scaled to 8; what is transparent lies on
    white; of an animation, the first frame.

    Raises:
        DataError: Pixels are fractions, or integers of more than 16 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _scaled(image)
    if not image.has_transparency_data:
        return image if image.mode in ("1", "L", "P") else image.convert("RGB")
    pixels = image.convert("RGBA")
    paper = Image.new("RGBA", pixels.size, PAPER)
    paper.alpha_composite(pixels)
    return paper.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """Grey pixels of 16 bits, scaled to 8: Pillow would clip them."""
    values = np.asarray(image)
    if image.mode.startswith("F") or values.min() < 0 or values.max() > DEEP:
        raise DataError(
            f"mode {image.mode} has pixels {values.min():g} ... {values.max():g}, of unknown"
            " range: convert them to integers of 8 or 16 bits"
        )
    grey = np.round(values * (255 / DEEP)).astype(np.uint8)
    if (clear := image.info.get("transparency")) is not None:
        grey[values == clear] = 255
    return Image.fromarray(grey)
