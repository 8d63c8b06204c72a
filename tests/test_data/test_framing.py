"""Pictures are decoded as they are meant to be seen, wherever they lie."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from tarflow.data import image_folder, memory_mapped, prepare, tar_shards
from tarflow.data.storage.framing import Framing
from tarflow.errors import DataError

WHITE = 255


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(content, num_channels=3):
    return Framing(None, num_channels)(io.BytesIO(content), "NAME").numpy()


def oriented(orientation, kind="PNG"):
    """A picture that is black but for its white upper left when it is shown as it is meant."""
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8, :8] = WHITE
    undo = {1: lambda a: a, 3: lambda a: np.rot90(a, 2), 6: np.rot90, 8: lambda a: np.rot90(a, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(undo[orientation](pixels)))
    return encoded(image.convert("RGB"), kind, exif=exif)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_upright(orientation, kind):
    pixels = decoded(oriented(orientation, kind)).astype(int)
    assert pixels[:, :7, :7].min() > 240
    assert max(pixels[:, 9:].max(), pixels[:, :, 9:].max()) < 15


def test_upright_in_folders_shards_and_what_is_prepared(tmp_path):
    content = oriented(6, "JPEG")
    for part in ("train", "test"):
        (tmp_path / "folder" / part).mkdir(parents=True)
        (tmp_path / "folder" / part / "0.jpg").write_bytes(content)
        with tarfile.open(tmp_path / f"{part}-0.tar", "w") as archive:
            member = tarfile.TarInfo("0.jpg")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    folder = image_folder(tmp_path / "folder", 16)
    prepare(folder, tmp_path / "out")
    for data in (folder, tar_shards(tmp_path, 16), memory_mapped(tmp_path / "out")):
        image, context = data.train[0]
        assert context == {}
        assert (np.asarray(image) == decoded(content)).all()


def transparent(mode):
    """The file of a clear pixel of a hidden colour, and one that is opaque: red, or grey."""
    rgba = Image.new("RGBA", (2, 1), (0, 90, 0, 0))
    rgba.putpixel((1, 0), (200, 0, 0, 255))
    if mode == "P":
        image = Image.new("P", (2, 1))
        image.putpalette([0, 90, 0, 200, 0, 0])
        image.putpixel((1, 0), 1)
        return encoded(image, transparency=0)
    if mode in ("RGB", "L", "1", "I;16"):
        image = rgba.convert("RGB")
        image.putpixel((0, 0), (0, 90, 0))
        if mode == "I;16":
            image = Image.fromarray(np.array([[514, 51400]], np.uint16))
            return encoded(image, transparency=514)
        clear = {"RGB": (0, 90, 0), "L": 53, "1": 0}[mode]
        image = image.convert(mode)
        if mode == "1":
            image.putpixel((0, 0), 0)
            image.putpixel((1, 0), 255)
        return encoded(image, transparency=clear)
    return encoded(rgba.convert(mode), {"RGBa": "TIFF"}.get(mode, "PNG"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "1", "I;16"])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_what_is_transparent_lies_on_white(mode, num_channels):
    pixels = decoded(transparent(mode), num_channels)
    assert (pixels[:, 0, 0] == WHITE).all()
    grey = {"I;16": 200, "1": 255}.get(mode, 60)
    red = [200, 0, 0] if mode in ("RGBA", "P", "RGB") else [grey] * 3
    assert pixels[:, 0, 1].tolist() == (red if num_channels == 3 else [grey])


def test_half_transparent_pixels_are_mixed_with_white():
    image = Image.new("RGBA", (1, 1), (100, 0, 200, 51))
    assert decoded(encoded(image))[:, 0, 0].tolist() == [224, 204, 244]


DEEP = np.array([[0, 257, 128 * 257, 65_535]], np.uint16)


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(DEEP)),
        encoded(Image.fromarray(DEEP), "TIFF"),
        encoded(Image.fromarray(DEEP.astype(np.int32)), "TIFF"),
        b"P5 4 1 65535\n" + DEEP.astype(">u2").tobytes(),
    ],
)
@pytest.mark.parametrize("num_channels", [1, 3])
def test_16_bits_are_scaled_to_8(content, num_channels):
    assert decoded(content, num_channels).tolist() == [[[0, 1, 128, 255]]] * num_channels


@pytest.mark.parametrize(
    ("values", "found"),
    [(np.array([[0, 70_000]], np.int32), "mode I has pixels 0 ... 70000"),
     (np.array([[-1, 5]], np.int32), "mode I has pixels -1 ... 5"),
     (np.array([[0, 0.5]], np.float32), "mode F has pixels 0 ... 0.5")],
)  # fmt: skip
def test_depth_of_unknown_range_is_refused(values, found):
    with pytest.raises(DataError, match=rf"NAME \({found}, of unknown range: convert them"):
        decoded(encoded(Image.fromarray(values), "TIFF"))


def test_other_kinds_of_pixels():
    grey = Image.new("L", (2, 2), 77)
    assert (decoded(encoded(Image.new("1", (2, 2), 1))) == 255).all()
    assert (decoded(encoded(grey.convert("RGB").convert("CMYK"), "TIFF")) == 77).all()
    assert (decoded(encoded(grey.convert("RGB").convert("CMYK"), "TIFF"), 1) == 77).all()
    frames = [grey, Image.new("L", (2, 2), 200)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (decoded(content) == 77).all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("0.gif", "GIF"), ("0.jfif", "JPEG"), ("0.jpe", "JPEG"), ("0.WEBP", "WEBP"),
     ("0.avif", "AVIF"), ("0.tiff", "TIFF"), ("0.jp2", "JPEG2000"), ("0.tga", "TGA")],
)  # fmt: skip
def test_files_of_any_format_are_read(tmp_path, name, kind):
    image = Image.new("RGB", (8, 8), (90, 90, 90))
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        image.save(tmp_path / part / "1.png")
        image.save(tmp_path / part / name, kind)
    data = image_folder(tmp_path, 8)
    assert [len(data.train), len(data.test)] == [2, 2]
    assert np.allclose(data.train[0][0], 90, atol=2)
