"""Images as their own latents."""

from dataclasses import dataclass

from tarflow.arguments import check_instance, check_integer, check_size, keep
from tarflow.flows.codec import Pixels
from tarflow.registry import Part
from tarflow.tokenizers.tokenizer import Images, Latents, Tokenizer


@dataclass(frozen=True)
class IdentityDescription(Part):
    """The arguments of an `IdentityTokenizer`, checked."""

    image_size: int | tuple[int, int]
    num_channels: int
    pixels: Pixels

    def __post_init__(self):
        keep(self, image_size=check_size("image_size", self.image_size))
        keep(self, num_channels=check_integer("num_channels", self.num_channels, least=1))
        check_instance("pixels", self.pixels, Pixels, "pass Pixels(256) for images of bytes")


class IdentityTokenizer(Tokenizer):
    """Keeps images as they are, but for a shift and a scale of each channel.

    Args:
        image_size: Height and width of images, or one number for both.
        num_channels: Number of their channels.
        pixels: How images are stored.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        num_channels: int = 3,
        pixels: Pixels = Pixels(),
    ):
        told = IdentityDescription(image_size, num_channels, pixels)
        shape = (told.num_channels, *check_size("image_size", told.image_size))
        super().__init__(shape, shape, told.pixels, 0.0, told)

    def to_latents(self, images: Images) -> Latents:
        return images

    def to_images(self, latents: Latents) -> Images:
        return latents
