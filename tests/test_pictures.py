"""Grids of images, and grids beside each other."""

import numpy as np
import pytest
import torch
from PIL import Image

from tarflow.sampling.pictures import INK, PAPER, below, beside, grid


def random_bytes(count=5, channels=1, height=3, width=4):
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8)


def test_layout_of_a_small_grid():
    images = torch.tensor([[0, 64, 128, 191], [255, 0, 64, 128], [255, 255, 191, 191]])
    picture = grid(images.to(torch.uint8).view(3, 1, 2, 2), num_columns=2, min_side=1)
    assert picture.mode == "L"
    assert np.asarray(picture).tolist() == [
        [255, 255, 255, 255, 255, 255, 255],
        [255, 0, 64, 255, 255, 0, 255],
        [255, 128, 191, 255, 64, 128, 255],
        [255, 255, 255, 255, 255, 255, 255],
        [255, 255, 255, 255, 255, 255, 255],
        [255, 191, 191, 255, 255, 255, 255],
        [255, 255, 255, 255, 255, 255, 255],
    ]


@pytest.mark.parametrize(
    ("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (4, "RGB"), (5, "RGB")]
)
def test_channels_that_are_shown(channels, mode):
    images = random_bytes(channels=channels)
    picture = grid(images)
    assert picture.mode == mode
    shown = grid(images[:, :1] if mode == "L" else images[:, :3])
    assert (np.asarray(picture) == np.asarray(shown)).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("num_columns", [None, 2, 7])
@pytest.mark.parametrize(("gap", "min_side"), [(0, 1), (0, 100), (1, 100), (2, 1)])
def test_every_pixel_is_where_it_belongs(channels, num_columns, gap, min_side):
    images = random_bytes(channels=channels)
    picture = grid(images, num_columns, min_side, gap)
    columns = num_columns or 3
    rows = -(-5 // columns)
    width, height = columns * (4 + gap) + gap, rows * (3 + gap) + gap
    factor = max(1, -(-min_side // width))
    assert picture.size == (width * factor, height * factor)
    assert picture.mode == ("L" if channels == 1 else "RGB")
    expected = np.full((height, width, channels), PAPER)
    for index, image in enumerate(images):
        top = gap + index // columns * (3 + gap)
        left = gap + index % columns * (4 + gap)
        expected[top : top + 3, left : left + 4] = image.numpy().transpose(1, 2, 0)
    enlarged = expected.repeat(factor, axis=0).repeat(factor, axis=1)
    assert (np.asarray(picture).reshape(enlarged.shape) == enlarged).all()


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 2), (5, 3), (9, 3), (10, 4)])
def test_grid_is_square_by_default(count, columns):
    assert grid(random_bytes(count), min_side=1).width == columns * 5 + 1


@pytest.mark.parametrize(("width", "expected"), [(9, 407), (398, 400), (399, 401), (1000, 1002)])
def test_small_grids_are_enlarged_by_a_whole_factor(width, expected):
    assert grid(random_bytes(1, width=width)).width == expected


def test_grid_leaves_its_input_alone():
    images = random_bytes()
    before = images.clone()
    grid(images)
    assert torch.equal(images, before)


def test_pictures_stand_beside_each_other():
    left = Image.fromarray(np.full((50, 100), 10, np.uint8))
    right = Image.fromarray(np.full((80, 60, 3), (200, 100, 0), np.uint8))
    joined = beside({"left": left, "right": right}, gap=24)
    assert joined.mode == "RGB"
    assert joined.size == (24 + 100 + 24 + 60 + 24, 40 + 80 + 24)
    array = np.asarray(joined).copy()
    assert (array[40:90, 24:124] == 10).all()
    assert (array[40:120, 148:208] == (200, 100, 0)).all()
    array[40:90, 24:124] = array[40:120, 148:208] = PAPER
    assert (array[40:] == PAPER).all()


def test_every_picture_has_its_own_title():
    picture = Image.fromarray(np.zeros((50, 200), np.uint8))

    def heads(**titles):
        array = np.asarray(beside(titles))
        return array[:40, 24:224], array[:40, 248:448]

    left, right = heads(first=picture, second=picture)
    assert left.min() == right.min() == INK
    assert (left != right).any()
    other_left, other_right = heads(second=picture, first=picture)
    assert (other_left == right).all()
    assert (other_right == left).all()
    array = np.asarray(beside({"": picture}))
    assert (array[:40] == PAPER).all()


def test_pictures_below_each_other_with_titles_at_their_left():
    pictures = {"a": Image.new("L", (30, 40), 7), "a longer title": Image.new("RGB", (20, 50), 9)}
    array = np.asarray(below(pictures, gap=6))[..., 0]
    assert array.shape[0] == 24 + 40 + 6 + 50 + 24
    left = array.shape[1] - 24 - 30
    assert (array[24:64, left : left + 30] == 7).all()
    assert (array[70:120, left : left + 20] == 9).all()
    titles = array[:, :left]
    assert (titles[24:64] != PAPER).any()  # each beside its picture
    assert (titles[70:120] != PAPER).any()
    assert (titles[64:70] == PAPER).all()
    assert (titles[:, -20:] == PAPER).all()
