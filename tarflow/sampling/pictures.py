"""Pictures of images: grids, and grids beside or below each other."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PAPER, INK = 255, 40


def grid(
    images: UInt8[Tensor, "batch channels height width"],
    num_columns: int | None = None,
    min_side: int = 400,
    gap: int = 1,
) -> Image.Image:
    """Lay images out in rows, enlarged by a whole factor where they are small.

    Args:
        images: Bytes; see `Codec.to_bytes`. Of one or two channels the first is shown, in grey; of
            more the first three, as red, green and blue.
        num_columns: Images in a row; by default as many as there are rows.
        min_side: Width that the picture gets at least, by enlarging every pixel.
        gap: Width of the lines between images, in their pixels.
    """
    images = images[:, : 3 if images.shape[1] >= 3 else 1]
    count, channels, height, width = images.shape
    columns = num_columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    shape = (channels, rows * (height + gap) + gap, columns * (width + gap) + gap)
    canvas = torch.full(shape, PAPER, dtype=torch.uint8)
    for index, image in enumerate(images.cpu()):
        top = index // columns * (height + gap) + gap
        left = index % columns * (width + gap) + gap
        canvas[:, top : top + height, left : left + width] = image
    factor = max(1, math.ceil(min_side / canvas.shape[2]))
    array = canvas.permute(1, 2, 0).numpy().repeat(factor, axis=0).repeat(factor, axis=1)
    return Image.fromarray(array[..., 0] if channels == 1 else array)


def beside(pictures: Mapping[str, Image.Image], gap: int = 24) -> Image.Image:
    """Put pictures beside each other, each under its title."""
    font = ImageFont.load_default(size=20)
    head = 40
    widths = [max(each.width, math.ceil(font.getlength(t))) for t, each in pictures.items()]
    width = sum(widths) + gap * (len(widths) + 1)
    height = max(picture.height for picture in pictures.values()) + head + gap
    canvas = Image.new("RGB", (width, height), (PAPER, PAPER, PAPER))
    draw, left = ImageDraw.Draw(canvas), gap
    for (title, picture), column in zip(pictures.items(), widths, strict=True):
        draw.text((left, 10), title, font=font, fill=(INK, INK, INK))
        canvas.paste(picture.convert("RGB"), (left, head))
        left += column + gap
    return canvas


def below(pictures: Mapping[str, Image.Image], gap: int = 6) -> Image.Image:
    """Put pictures below each other, each at the right of its title."""
    font, margin = ImageFont.load_default(size=20), 24
    left = 2 * margin + math.ceil(max(map(font.getlength, pictures)))
    width = left + max(picture.width for picture in pictures.values()) + margin
    height = sum(picture.height + gap for picture in pictures.values()) - gap + 2 * margin
    canvas = Image.new("RGB", (width, height), (PAPER, PAPER, PAPER))
    draw, top = ImageDraw.Draw(canvas), margin
    for title, picture in pictures.items():
        middle = top + picture.height / 2
        draw.text((margin, middle), title, font=font, fill=(INK, INK, INK), anchor="lm")
        canvas.paste(picture.convert("RGB"), (left, top))
        top += picture.height + gap
    return canvas
