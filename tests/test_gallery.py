"""A folder of samples, and the real images that are put beside them."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from tarflow import Pixels
from tarflow.data import ArrayDataset
from tarflow.errors import ConfigurationError, DataError
from tarflow.sampling.array_layout import layout_of
from tarflow.sampling.gallery import Gallery, real_images, remove_gallery
from tarflow.sampling.pictures import beside, grid

CODEC = Pixels(17)


@pytest.fixture
def pixels():
    """Seven grey images of 17 levels."""
    return torch.randint(0, 17, (7, 1, 8, 6), dtype=torch.uint8)


@pytest.fixture
def gallery(tmp_path):
    """A gallery in a folder that does not exist yet."""
    return Gallery(tmp_path / "new" / "folder", CODEC)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def read(path):
    """A picture's mode and pixels."""
    with Image.open(path) as picture:
        return picture.mode, np.array(picture)


def assert_shows(path, picture):
    mode, array = read(path)
    assert mode == picture.mode
    assert np.array_equal(array, np.array(picture))


def test_grid_of_one_panel(gallery, pixels):
    path = gallery.write_grid({"samples": pixels})
    assert path == gallery.directory / "grid.png"
    assert names(gallery.directory) == ["grid.png"]
    assert_shows(path, grid(CODEC.to_bytes(pixels)))


def test_grid_of_panels(gallery, pixels):
    other = 16 - pixels
    path = gallery.write_grid({"samples": pixels, "denoised": other})
    assert_shows(
        path,
        beside({"samples": grid(CODEC.to_bytes(pixels)), "denoised": grid(CODEC.to_bytes(other))}),
    )


def test_columns_of_the_grid(tmp_path, pixels):
    path = Gallery(tmp_path, CODEC, num_columns=7).write_grid({"samples": pixels})
    assert_shows(path, grid(CODEC.to_bytes(pixels), 7))
    assert read(path)[1].shape == (8 * (1 * 9 + 1), 8 * (7 * 7 + 1))


@pytest.mark.parametrize(("levels", "channels"), [(17, 1), (17, 3), (256, 1), (256, 3)])
def test_images_are_written_at_their_own_size(tmp_path, levels, channels):
    pixels = torch.randint(0, levels, (11, channels, 8, 6), dtype=torch.uint8)
    pixels[0, :, 0, 0], pixels[0, :, 0, 1] = 0, levels - 1
    folder = Gallery(tmp_path, Pixels(levels)).write_images(pixels.split(4))
    assert folder == tmp_path / "images"
    assert names(folder) == [f"{index:06d}.png" for index in range(11)]
    for path, image in zip(sorted(folder.iterdir()), pixels, strict=True):
        mode, array = read(path)
        assert mode == ("L" if channels == 1 else "RGB")
        scaled = (image.double() * 255 / (levels - 1)).round().permute(1, 2, 0)
        assert np.array_equal(array.reshape(8, 6, channels), scaled.numpy())
    _, first = read(folder / "000000.png")
    assert (first[0, 0] == 0).all()
    assert (first[0, 1] == 255).all()


def test_images_beyond_the_last_are_removed(gallery, pixels):
    folder = gallery.write_images([pixels])
    (folder / "mine.png").write_bytes(b"")
    gallery.write_images([pixels[:2], pixels[2:3]])
    assert names(folder) == ["000000.png", "000001.png", "000002.png", "mine.png"]


def test_arrays(gallery, pixels):
    path = gallery.write_arrays(pixels.split(3), 7, torch.arange(7))
    assert path == gallery.directory / "samples.npz"
    assert names(gallery.directory) == ["samples.npz"]
    with np.load(path, allow_pickle=False) as content:
        assert sorted(content) == ["images", "labels"]
        assert content["images"].dtype == np.uint8
        assert (content["images"] == pixels.numpy()).all()
        assert (content["labels"] == np.arange(7)).all()


def test_arrays_without_labels(gallery, pixels):
    with np.load(gallery.write_arrays([pixels], 7, None), allow_pickle=False) as content:
        assert sorted(content) == ["images"]
        assert (content["images"] == pixels.numpy()).all()


def test_arrays_are_never_all_in_memory(gallery, pixels):
    alive = []

    def batches():
        for _ in range(5):
            assert all(reference() is None for reference in alive[:-1])
            batch = pixels.clone()
            alive.append(weakref.ref(batch))
            yield batch
            del batch

    with np.load(gallery.write_arrays(batches(), 35, None)) as content:
        assert (content["images"] == pixels.repeat(5, 1, 1, 1).numpy()).all()


@pytest.mark.parametrize("count", [6, 8])
def test_another_number_of_images_than_announced(gallery, pixels, count):
    with pytest.raises(DataError, match=f"7 images came, where {count} were announced"):
        gallery.write_arrays([pixels], count, None)
    assert names(gallery.directory) == []


def test_all_that_a_gallery_wrote_is_removed(gallery, pixels):
    remove_gallery(gallery.directory)
    gallery.write_grid({"samples": pixels})
    gallery.write_images([pixels])
    gallery.write_arrays([pixels], 7, None)
    (gallery.directory / "mine.txt").write_text("")
    remove_gallery(gallery.directory)
    assert names(gallery.directory) == ["mine.txt"]
    gallery.write_images([pixels])
    (gallery.directory / "images" / "mine.png").write_bytes(b"")
    remove_gallery(gallery.directory)
    assert names(gallery.directory / "images") == ["mine.png"]


def test_files_are_replaced(gallery, pixels):
    gallery.write_grid({"samples": pixels})
    path = gallery.write_grid({"samples": pixels[:4]})
    assert names(gallery.directory) == ["grid.png"]
    assert_shows(path, grid(CODEC.to_bytes(pixels[:4])))


def test_failure_leaves_no_half_written_file(gallery, pixels):
    gallery.write_arrays([pixels], 7, None)
    before = (gallery.directory / "samples.npz").read_bytes()
    (gallery.directory / "grid.png").mkdir()
    with pytest.raises(IsADirectoryError):
        gallery.write_grid({"samples": pixels})
    assert names(gallery.directory) == ["grid.png", "samples.npz"]
    assert names(gallery.directory / "grid.png") == []
    assert (gallery.directory / "samples.npz").read_bytes() == before


def numbered(labels):
    """Images that hold their own index, with these labels."""
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 4)
    return ArrayDataset(images, torch.tensor(labels))


def indices(images):
    assert images.shape[1:] == (3, 2, 4)
    assert images.dtype == torch.uint8
    return images[:, 0, 0, 0].tolist()


def test_real_images_are_of_the_classes_of_samples():
    part = numbered([2, 0, 1, 0, 2, 2])
    assert indices(real_images(part, torch.tensor([0, 1, 2, 0, 2]), 5)) == [1, 2, 0, 3, 4]
    assert indices(real_images(part, torch.tensor([1, 1, 0, 0, 0]), 5)) == [2, 2, 1, 3, 1]


def test_real_images_without_classes():
    assert indices(real_images(numbered([0, 1, 0]), None, 2)) == [0, 1]
    assert indices(real_images(numbered([-1, -1, -1]), None, 7)) == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("labels", [[0, 2, 2], [-1, -1, -1]])
def test_class_without_real_images(labels):
    with pytest.raises(DataError, match="no real image of class 1"):
        real_images(numbered(labels), torch.tensor([1, 1]), 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_for_evaluators_are_bytes_with_channels_last(gallery, channels):
    pixels = torch.randint(0, 17, (7, channels, 8, 6), dtype=torch.uint8)
    labels = torch.arange(7) % 3
    path = gallery.write_arrays(pixels.split(3), 7, labels, layout_of("adm"))
    expected = (pixels.double() * 255 / 16).round().byte().permute(0, 2, 3, 1).expand(7, 8, 6, 3)
    with np.load(path) as arrays:
        assert sorted(arrays) == ["arr_0", "arr_1"]
        assert arrays["arr_0"].dtype == np.uint8
        assert np.array_equal(arrays["arr_0"], expected.numpy())
        assert np.array_equal(arrays["arr_1"], labels.numpy())


def test_layouts_that_are_not_there():
    assert layout_of(False) is None
    for value in ("arr0", "", "True"):
        with pytest.raises(ConfigurationError, match=r"choose true .*, adm .* or false"):
            layout_of(value)
