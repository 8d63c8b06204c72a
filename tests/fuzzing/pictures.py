"""Pictures that are damaged, or of kinds that are not bytes of one shape."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tarflow.data import image_folder, tar_shards
from tests.fuzzing.judging import BadInput

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture's file."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


COLOUR = Image.fromarray(PIXELS)
WHOLE = {kind: encoded(COLOUR, kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")}
SUFFIX = {"JPEG": "jpg", "TIFF": "tif"}


def read(folder: Path, make: Callable[[Path], Any], name: str = "bad.png", **options: Any) -> None:
    """Put a picture among good ones and read all of them."""
    for kind in ("cat", "dog"):
        (folder / kind).mkdir()
        for index in range(4):
            (folder / kind / f"{index}.png").write_bytes(WHOLE["PNG"])
    make(folder / "cat" / name)
    data = image_folder(folder, **{"image_size": 4, "test_fraction": 0.25, **options})
    for part in (data.train, data.test):
        for index in range(len(part)):  # pyright: ignore[reportArgumentType]
            image, _ = part[index]
            assert image.shape == data.image_shape


def picture(name: str, content: bytes, file: str = "bad.png", accepted: Any = False) -> BadInput:
    """The reading of a folder with such a file in it."""
    make = partial(_write, content=content)
    return BadInput(name, lambda folder: read(folder, make, file), (f"cat/{file}",), accepted)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def bad_inputs() -> Iterator[BadInput]:
    """All of them."""
    yield from damaged()
    yield from kinds()
    yield from files()
    yield from arguments()


def damaged() -> Iterator[BadInput]:
    """Cut off, changed, or not a picture at all."""
    for kind, content in WHOLE.items():
        file = f"bad.{SUFFIX.get(kind, kind.lower())}"
        for share in (0, 0.05, 0.2, 0.4, 0.6, 0.8):
            part = content[: int(share * len(content))]
            # What was lost of these may be nothing that Pillow needs.
            fit = None if kind in ("TIFF", "WEBP", "BMP") and share > 0.1 else False
            yield picture(f"{share} of a {kind}", part, file, fit)
        for seed in range(6):
            chance = random.Random(seed)
            changed = bytearray(content)
            for _ in range(3):
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            yield picture(f"bits {seed} of a {kind}", bytes(changed), file, None)
    for what, content in {
        "text": b"not a picture",
        "zeros": bytes(100),
        "a signature": WHOLE["PNG"][:8],
        "markup": b"<svg></svg>",
        "an array": PIXELS.tobytes(),
        "two signatures": WHOLE["PNG"][:8] * 2,
    }.items():
        yield picture(what, content)
    bomb = bytearray(WHOLE["PNG"])
    bomb[16:24] = (200_000).to_bytes(4, "big") * 2
    yield picture("40 gigapixels", bytes(bomb))


def kinds() -> Iterator[BadInput]:
    """Pictures of other modes and sizes: fractions are refused, the rest read."""
    deep = np.linspace(0, 65535, 63).reshape(9, 7)
    yield picture("16 bits", encoded(Image.fromarray(deep.astype(np.uint16))), accepted=True)
    wide = (deep * 1000).astype(np.int32)
    yield picture("32 bits", encoded(Image.fromarray(wide), "TIFF"), "bad.tif")
    floats = Image.fromarray(deep.astype(np.float32))
    yield picture("floats", encoded(floats, "TIFF"), "bad.tif")
    fits = {"PA": "TIFF", "CMYK": "TIFF", "YCbCr": "TIFF", "LAB": "TIFF"}
    for mode in ("1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB"):
        by_way_of = COLOUR.convert("L") if mode == "PA" else COLOUR
        image = Image.new("LAB", (7, 9)) if mode == "LAB" else by_way_of.convert(mode)
        kind = fits.get(mode, "PNG")
        file = f"bad.{SUFFIX.get(kind, 'png')}"
        yield picture(f"mode {mode}", encoded(image, kind), file, True)
    yield picture("CMYK in a JPEG", encoded(COLOUR.convert("CMYK"), "JPEG"), "bad.jpg", True)
    transparent = COLOUR.convert("P", palette=Image.Palette.ADAPTIVE)
    yield picture("transparent palette", encoded(transparent, transparency=0), accepted=True)
    for size in ((1, 1), (1, 500), (500, 1), (2, 3)):
        yield picture(f"{size[0]} x {size[1]}", encoded(Image.new("RGB", size)), accepted=True)
    frames = [COLOUR.convert("P"), COLOUR.convert("L").convert("P")]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield picture("several frames", animated, "bad.gif", True)


def files() -> Iterator[BadInput]:
    """What is not a file, or lies elsewhere."""
    makers: dict[str, tuple[Callable[[Path], Any], bool | None]] = {
        "a folder": (Path.mkdir, None),
        "a broken link": (lambda path: path.symlink_to("nowhere"), False),
        "a link to itself": (lambda path: path.symlink_to(path), False),
        "nothing": (lambda path: None, True),
    }
    for what, (make, fit) in makers.items():
        yield BadInput(what, lambda at, m=make: read(at, m), ("cat/bad.png",), fit)

    def empty_class(folder: Path) -> None:
        read(folder, lambda path: (folder / "empty").mkdir())

    yield BadInput("an empty class", empty_class, ("empty",))
    for what, root in {"no folder": "nowhere", "a file": __file__, "no path": ""}.items():
        yield BadInput(what, lambda _, r=root: image_folder(r, 4), (root or "CLASS",))
    yield BadInput("nothing in it", lambda folder: image_folder(folder, 4), ("CLASS",))


def arguments() -> Iterator[BadInput]:
    """Arguments of `image_folder` and `tar_shards`."""
    wrong: dict[str, tuple[Any, ...]] = {
        "image_size": (0, -1, 1.5, "4", None, (4, 4)),
        "num_channels": (0, 2, 4, "3", None, 1.5),
        "test_fraction": (-0.1, 1, 0, float("nan"), "a", None),
        "validation_fraction": (-0.1, 1, float("nan"), "a", None, 0.999),
    }
    for name, values in wrong.items():
        for value in values:
            options = {name: value}
            yield BadInput(
                f"image_folder, {options}",
                lambda folder, options=options: read(folder, lambda path: None, **options),
                (name, repr(value), "too small"),
            )
    for pattern in ("*.tar", "", "[", "nothing-*.tar", "../*"):
        yield BadInput(
            f"tar_shards, {pattern!r}",
            lambda folder, p=pattern: tar_shards(folder, 4, train=p),
            (str(pattern), "ROOT"),
        )
    for what, content in {"empty": b"", "text": b"no tar", "zeros": bytes(1024)}.items():

        def attempt(folder: Path, content=content) -> None:
            (folder / "train-0.tar").write_bytes(content)
            tar_shards(folder, 4)

        yield BadInput(f"tar_shards, {what}", attempt, ("train-",))
