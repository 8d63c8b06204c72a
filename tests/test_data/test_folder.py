"""Folders of images: real files, sound and broken, in every layout."""

import re
import shutil
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from tarflow.data import image_folder
from tarflow.data.loading.augmentation import mirror
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels


def write_image(path, value=0, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    color = value if mode in ("L", "I;16", "F") else (value,) * 3 + (255,) * (mode == "RGBA")
    Image.new(mode, size, color).save(path)


def write_classes(root, classes=("cat", "dog"), count=10, start=0):
    """Fill folders with images whose grey value tells which they are."""
    for label, name in enumerate(classes):
        for index in range(count):
            write_image(root / name / f"{index:03}.png", start + label * count + index)


def values_of(dataset):
    return [int(image[0, 0, 0]) for image, _ in dataset]


def labels_of(dataset):
    return [context["label"] for _, context in dataset]


def test_split_of_one_folder(tmp_path):
    write_classes(tmp_path, count=100)
    data = image_folder(tmp_path, 8, test_fraction=0.2, validation_fraction=0.25)
    parts = (data.train, data.validation, data.test)
    assert np.allclose([len(part) for part in parts], [120, 40, 40], atol=12)
    assert sorted(chain(*map(values_of, parts))) == list(range(200))
    for part in parts:
        assert labels_of(part) == [value // 100 for value in values_of(part)]
    again = image_folder(str(tmp_path), 8, test_fraction=0.2, validation_fraction=0.25)
    assert values_of(again.test) == values_of(data.test)


def test_a_picture_that_is_added_moves_no_other(tmp_path):
    options = {"image_size": 8, "test_fraction": 0.2, "validation_fraction": 0.2}
    write_classes(tmp_path / "few", count=20)
    write_classes(tmp_path / "few", classes=("emu",), count=5, start=100)
    shutil.copytree(tmp_path / "few", tmp_path / "more" / "archive")
    write_classes(tmp_path / "more" / "archive", classes=("ape", "dog"), count=40, start=150)
    write_classes(tmp_path / "more" / "archive", count=20)  # as they were
    before, after = (image_folder(tmp_path / name, **options).parts for name in ("few", "more"))
    for part, dataset in before.items():
        assert set(values_of(dataset)) <= set(values_of(after[part]))


def test_each_part_gets_an_image_of_a_few(tmp_path):
    write_classes(tmp_path, classes=("cat",), count=2)
    for fraction in (1e-9, 0.999):
        data = image_folder(tmp_path, 8, test_fraction=fraction)
        assert (len(data.train), len(data.test)) == (1, 1)


def test_describes_itself(tmp_path):
    write_classes(tmp_path)
    data = image_folder(tmp_path, 4)
    image, context = data.train[0]
    assert image.dtype == torch.uint8
    assert tuple(image.shape) == data.image_shape == (3, 4, 4)
    assert list(map(type, context.values())) == [int]
    assert (data.codec, data.num_classes, data.class_names) == (Pixels(256), 2, ("cat", "dog"))
    assert str(tmp_path) in data.name
    assert "seed 0" in data.name
    assert data.validation is None


def test_parts_given_as_folders(tmp_path):
    write_classes(tmp_path / "train", count=4)
    write_classes(tmp_path / "val", count=2, start=100)
    write_classes(tmp_path / "test", count=3, start=200)
    data = image_folder(tmp_path, 8)
    assert values_of(data.train) == list(range(8))
    assert values_of(data.validation) == list(range(100, 104))
    assert values_of(data.test) == list(range(200, 206))
    assert data.class_names == ("cat", "dog")
    assert "split as given" in data.name


def test_validation_part_of_given_training_folder(tmp_path):
    write_classes(tmp_path / "train", count=10)
    write_classes(tmp_path / "test", count=3, start=200)
    data = image_folder(tmp_path, 8, validation_fraction=0.2)
    assert len(data.validation) > 0
    assert sorted(values_of(data.train) + values_of(data.validation)) == list(range(20))
    assert values_of(data.test) == list(range(200, 206))


def test_class_named_train_is_a_class(tmp_path):
    write_classes(tmp_path, classes=("boat", "test", "train"))
    assert image_folder(tmp_path, 8).class_names == ("boat", "test", "train")


def test_shorter_side_is_resized_and_centre_kept(tmp_path):
    pixels = np.zeros((10, 40, 3), np.uint8)
    pixels[:, 15:25] = 200
    for name in ("a", "b"):
        (tmp_path / "wide").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "wide" / f"{name}.png")
    image, _ = image_folder(tmp_path, 10, test_fraction=0.5).train[0]
    assert (image == 200).all()
    image, _ = image_folder(tmp_path, 5, test_fraction=0.5).train[0]
    assert tuple(image.shape) == (3, 5, 5)
    assert (image[:, :, 1:-1] == 200).all()


def test_images_of_the_wanted_size_are_untouched(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3), np.uint8)
    (tmp_path / "noise").mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "noise" / f"{index}.png")
    data = image_folder(tmp_path, 6, test_fraction=0.5)
    read = {data.train[0][0].numpy().tobytes(), data.test[0][0].numpy().tobytes()}
    assert read == {image.transpose(2, 0, 1).tobytes() for image in pixels}


def test_resizing_uses_antialiasing(tmp_path):
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    (tmp_path / "board").mkdir()
    for index in range(2):
        Image.fromarray(board).save(tmp_path / "board" / f"{index}.png")
    image, _ = image_folder(tmp_path, 8, test_fraction=0.5).train[0]
    assert (image.int() - 127).abs().max() < 10


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_channels_are_converted(tmp_path, mode, num_channels):
    for index in range(2):
        write_image(tmp_path / "grey" / f"{index}.png", 90, mode=mode)
    data = image_folder(tmp_path, 8, num_channels, test_fraction=0.5)
    image, _ = data.train[0]
    assert tuple(image.shape) == data.image_shape == (num_channels, 8, 8)
    assert (image == 90).all()


def test_flips_happen_in_training_only(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, :2] = 255
    for part in ("train", "val", "test"):
        (tmp_path / part / "left").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / part / "left" / "0.png")
    data = image_folder(tmp_path, 4, horizontal_flip=True)
    for part in data.parts.values():
        assert all(part[0][0][0, 0, 0] == 255 for _ in range(20))
    assert data.augment is mirror
    assert image_folder(tmp_path, 4).augment is None


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_verification_names_unreadable_files(tmp_path):
    write_classes(tmp_path, count=40)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    broken = tmp_path / "cat" / "broken.jpg"
    Image.fromarray(noise).save(broken)
    truncate(broken)
    (tmp_path / "dog" / "fake.png").write_text("not an image")
    with pytest.raises(DataError, match="2 of 82 images cannot be used") as caught:
        image_folder(tmp_path, 8)
    message = str(caught.value)
    assert str(broken) in message
    assert "truncated" in message
    assert str(tmp_path / "dog" / "fake.png") in message
    assert "Replace or remove" in message


def test_verification_names_only_the_first_of_many(tmp_path):
    write_classes(tmp_path)
    for index in range(9):
        (tmp_path / "cat" / f"fake{index}.png").write_bytes(b"")
    with pytest.raises(DataError, match="9 of 29 images") as caught:
        image_folder(tmp_path, 8)
    assert len(re.findall(r"fake\d\.png \(", str(caught.value))) == 5
    assert "; ..." in str(caught.value)


def test_verification_shows_progress(tmp_path, capsys):
    write_classes(tmp_path)
    image_folder(tmp_path, 8)
    captured = capsys.readouterr()
    assert "Verifying images" in captured.err
    assert not captured.out


def test_without_verification_the_file_is_named_when_read(tmp_path):
    write_classes(tmp_path, count=4)
    for path in tmp_path.glob("*/*.png"):
        truncate(path)
    data = image_folder(tmp_path, 8, verify=False, test_fraction=0.5)
    with pytest.raises(DataError, match=r"(cat|dog).00\d\.png"):
        data.train[0]


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*nowhere: the layout is ROOT/CLASS/IMAGE"):
        image_folder(tmp_path / "nowhere", 8)


def test_one_image(tmp_path):
    write_image(tmp_path / "0.png")
    with pytest.raises(DataError, match="1 image cannot be divided into train and test"):
        image_folder(tmp_path, 8)


def test_empty_class(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "emu").mkdir()
    with pytest.raises(DataError, match=r"classes emu: .*the layout is ROOT/CLASS/IMAGE"):
        image_folder(tmp_path, 8)


def test_no_images(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"no pictures, but 1 of other kinds \(.txt\); the layout"):
        image_folder(tmp_path, 8)


def test_train_without_test(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "val")
    with pytest.raises(DataError, match="holds train, val but not test: name the images"):
        image_folder(tmp_path, 8)


def test_parts_with_different_classes(tmp_path):
    write_classes(tmp_path / "train", classes=("cat", "dog"))
    write_classes(tmp_path / "test", classes=("cat", "emu"))
    with pytest.raises(DataError, match="differ in the classes dog, emu"):
        image_folder(tmp_path, 8)


def test_validation_fraction_beside_a_validation_folder(tmp_path):
    for part in ("train", "val", "test"):
        write_classes(tmp_path / part)
    with pytest.raises(DataError, match=r"validation_fraction 0.1 .* has a validation part"):
        image_folder(tmp_path, 8, validation_fraction=0.1)


def test_class_too_small_to_split(tmp_path):
    write_classes(tmp_path, classes=("cat", "dog"))
    write_classes(tmp_path, classes=("hen",), count=2)
    with pytest.raises(DataError, match=r"hen has no image to train .*\(2\) are held out"):
        image_folder(tmp_path, 8, test_fraction=0.6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_channels": 4}, "num_channels 4: choose 1 for grey or 3 for colour"),
        ({"num_channels": 0}, "num_channels 0"),
        ({"image_size": 0}, "image_size 0 must be at least 1"),
        ({"test_fraction": 0.0}, "test_fraction 0 leaves no test examples"),
        ({"test_fraction": 1.0}, "test_fraction 1.0 is out of range"),
        ({"validation_fraction": -0.5}, "validation_fraction -0.5 is out of range"),
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_argument_out_of_range(tmp_path, options, message, verify):
    write_classes(tmp_path)
    with pytest.raises(DataError, match=message):
        image_folder(tmp_path, **{"image_size": 8, "verify": verify, **options})
