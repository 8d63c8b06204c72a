"""Pictures of any kind and size, brought to bytes of one shape."""

import io
from collections.abc import Callable

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from tarflow.arguments import check_integer
from tarflow.errors import DataError

MODES = {1: "L", 3: "RGB"}
"""Pillow's name for pixels of so many channels."""


class Framing:
    """Decodes a picture: the shorter side is resized with antialiasing, the centre is kept.

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
        """Decode a file into pixels of the wanted mode, at their own size."""
        try:
            with Image.open(file) as image:
                # Pillow clips such pixels to 255 instead of scaling them
                if image.mode.startswith(("I", "F")):
                    raise DataError(f"mode {image.mode} has more than 8 bits: convert it to 8")
                return image.convert(self.mode)
        # decoders raise anything: OSError, SyntaxError, struct.error, zlib.error
        except Exception as error:
            raise DataError(f"{name} ({error})") from error
