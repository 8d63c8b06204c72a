"""Arrays in .npz and .npy files: layouts, ranges, labels and everything that is refused."""

from itertools import chain

import numpy as np
import pytest
import torch

from tarflow.data import ArrayDataset, arrays
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels


def numbered(count=20, shape=(8, 8), dtype=np.uint8, start=0):
    """Images that hold their own number in every pixel."""
    values = np.arange(start, start + count).reshape(-1, *[1] * len(shape))
    return np.broadcast_to(values, (count, *shape)).astype(dtype)


def alternating(count=20, num_classes=2):
    return np.arange(count) % num_classes


def values_of(dataset):
    return [int(image.flatten()[0]) for image, _ in dataset]


def labels_of(dataset):
    return [context["label"] for _, context in dataset]


@pytest.fixture
def save(tmp_path):
    """Save arrays by name, and return the path."""

    def save(**named):
        path = tmp_path / "data.npz"
        np.savez(path, **named)
        return path

    return save


def test_npz_with_labels(save):
    data = arrays(save(images=numbered(), labels=alternating()), test_fraction=0.2)
    assert (len(data.train), data.validation, len(data.test)) == (16, None, 4)
    assert (data.num_classes, data.codec, data.image_shape) == (2, Pixels(256), (1, 8, 8))
    assert sorted(values_of(data.train) + values_of(data.test)) == list(range(20))
    for part in (data.train, data.test):
        assert sum(labels_of(part)) == len(part) // 2
        assert labels_of(part) == [value % 2 for value in values_of(part)]
    image, context = data.train[0]
    assert image.dtype == torch.uint8
    assert list(map(type, context.values())) == [int]
    assert "data.npz" in data.name
    assert "seed 0" in data.name


def test_unlabelled_npy_stays_on_disk(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, numbered(200))
    data = arrays(str(path), validation_fraction=0.1)
    assert data.num_classes == 0
    assert all(context == {} for part in (data.train, data.test) for _, context in part)
    parts = values_of(data.train), values_of(data.validation), values_of(data.test)
    assert [len(part) for part in parts] == [162, 18, 20]
    assert sorted(chain(*parts)) == list(range(200))
    assert parts[2] != sorted(parts[2])


def test_npy_is_mapped_and_never_written(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, numbered())
    images = arrays(path).train.dataset.images
    np.lib.format.open_memmap(path, mode="r+")[3] = 99
    assert (images[3] == 99).all()
    before = path.read_bytes()
    images[:] = 7
    assert path.read_bytes() == before


def test_parts_given_in_the_file(save):
    path = save(
        train_images=numbered(6),
        train_labels=alternating(6),
        val_images=numbered(2, start=100),
        val_labels=alternating(2),
        test_images=numbered(4, start=200),
        test_labels=alternating(4, 4).reshape(-1, 1),
    )
    data = arrays(path, num_classes=4)
    assert values_of(data.train) == list(range(6))
    assert values_of(data.validation) == [100, 101]
    assert values_of(data.test) == list(range(200, 204))
    assert labels_of(data.test) == [0, 1, 2, 3]
    assert data.num_classes == 4
    assert "split as given" in data.name


def test_validation_part_of_given_training_images(save):
    path = save(train_images=numbered(20), test_images=numbered(4, start=200))
    data = arrays(path, validation_fraction=0.25)
    assert sorted(values_of(data.train) + values_of(data.validation)) == list(range(20))
    assert len(data.validation) == 5
    assert values_of(data.test) == list(range(200, 204))


@pytest.mark.parametrize("channels_last", [None, True, False])
def test_channels_come_first(save, channels_last):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 6, 7), np.uint8)
    stored = pixels if channels_last is False else pixels.transpose(0, 2, 3, 1)
    data = arrays(save(images=stored), channels_last=channels_last)
    assert data.image_shape == (3, 6, 7)
    for index, (image, _) in zip(data.test.indices, data.test, strict=True):
        assert (image.numpy() == pixels[index]).all()


def test_unclear_channels(save):
    for shape in ((3, 8, 3), (8, 8, 8)):
        path = save(images=numbered(shape=shape))
        with pytest.raises(DataError, match=r"does not tell where channels are: pass channels_l"):
            arrays(path)
    assert arrays(path, channels_last=True).image_shape == (8, 8, 8)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int8, ">i4"])
def test_any_integer_type(save, dtype):
    data = arrays(save(images=numbered(dtype=dtype)), levels=20)
    assert sorted(values_of(data.train) + values_of(data.test)) == list(range(20))
    assert data.train[0][0].dtype == torch.uint8
    assert data.codec == Pixels(20)


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.complex64, "U3"])
def test_other_types_are_refused(save, dtype):
    path = save(images=numbered(dtype=dtype))
    with pytest.raises(DataError, match=r"images have dtype .* integers 0 \.\.\. 255.*astype"):
        arrays(path)


@pytest.mark.parametrize(
    ("pixels", "levels", "message"),
    [
        (numbered(), 17, "go from 0 to 19, but with 17 levels .* pass levels=20"),
        (numbered(dtype=np.int64, start=250), 256, "go from 250 to 269, but with 256 levels"),
        (numbered(dtype=np.int64, start=-3), 256, "go from -3 to 16"),
    ],
)
def test_pixels_out_of_range(save, pixels, levels, message):
    path = save(images=pixels)
    with pytest.raises(DataError, match=message):
        arrays(path, levels=levels)


@pytest.mark.parametrize("levels", [1, 257])
def test_levels_out_of_range(save, levels):
    path = save(images=numbered())
    with pytest.raises(DataError, match=f"levels {levels} is out of range: choose 2 ... 256"):
        arrays(path, levels=levels)


@pytest.mark.parametrize("shape", [(), (8,), (1, 8, 8, 3), (0, 8)])
def test_shape_of_images(save, shape):
    path = save(images=np.zeros((5, *shape), np.uint8))
    with pytest.raises(DataError, match=r"images have shape \(5,.*expected \(number, height"):
        arrays(path)


def test_no_images(save):
    path = save(images=np.zeros((0, 8, 8), np.uint8))
    with pytest.raises(DataError, match=r"images have shape \(0, 8, 8\)"):
        arrays(path)


def test_wrong_number_of_channels(save):
    path = save(images=numbered(shape=(8, 8, 3)))
    assert arrays(path, num_channels=3).image_shape == (3, 8, 8)
    with pytest.raises(DataError, match="images have 3 channels, but num_channels is 1"):
        arrays(path, num_channels=1)


def test_parts_of_different_shape(save):
    path = save(train_images=numbered(), test_images=numbered(shape=(4, 4)))
    message = r"images differ .* train \(1, 8, 8\), test \(1, 4, 4\)"
    with pytest.raises(DataError, match=message):
        arrays(path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (alternating(20, 4), r"labels go from 0 to 3; allowed is 0 \.\.\. 2"),
        (alternating(20) - 1, r"labels go from -1 to 0; allowed is 0 \.\.\. 2"),
        (alternating(20) / 2, "labels have dtype float64, but labels are integers"),
        (alternating(20) == 1, "labels have dtype bool"),
        (alternating(19), r"labels have shape \(19,\), but there are 20 images"),
        (np.eye(20, dtype=int), r"labels have shape \(20, 20\)"),
        (np.int64(3), r"labels have shape \(\)"),
    ],
)
def test_labels_that_are_refused(save, labels, message):
    path = save(images=numbered(), labels=labels)
    with pytest.raises(DataError, match=message):
        arrays(path, num_classes=3)


def test_negative_label_without_number_of_classes(save):
    path = save(images=numbered(), labels=alternating() - 1)
    with pytest.raises(DataError, match="labels go from -1 to 0; allowed is 0 or more"):
        arrays(path)


def test_number_of_classes(save):
    path = save(images=numbered(), labels=alternating())
    assert arrays(path, num_classes=5).num_classes == 5
    path = save(images=numbered())
    assert arrays(path, num_classes=0).num_classes == 0
    with pytest.raises(DataError, match="num_classes is 5, but there are no labels"):
        arrays(path, num_classes=5)


@pytest.mark.parametrize(
    ("keys", "listed"),
    [
        (["x_train", "y_train"], "x_train, y_train"),
        (["images", "label"], "images, label"),
        (["labels"], "labels"),
        (["train_images"], "train_images"),
        (["train_images", "train_labels", "test_images"], "test_images, train_images, train_l"),
        (["images", "test_images"], "images, test_images"),
        ([], "none"),
    ],
)
def test_wrong_keys(save, keys, listed):
    path = save(**dict.fromkeys(keys, numbered()))
    with pytest.raises(DataError, match=f"holds the arrays {listed}.*; wanted are images"):
        arrays(path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*nothing\.npz"):
        arrays(tmp_path / "nothing.npz")


def test_file_of_another_kind(tmp_path):
    path = tmp_path / "images.mat"
    path.write_bytes(b"MATLAB")
    with pytest.raises(DataError, match=r"images\.mat is neither: pass the path of a \.npz or"):
        arrays(path)


def test_python_objects_are_refused(tmp_path, save):
    ragged = np.array([np.zeros(2), np.zeros(3)], dtype=object)
    np.save(tmp_path / "ragged.npy", ragged)
    for path in (save(images=ragged), tmp_path / "ragged.npy"):
        with pytest.raises(DataError, match="Python objects are never loaded"):
            arrays(path)


@pytest.mark.parametrize("name", ["data.npz", "data.npy"])
def test_damaged_file(tmp_path, name):
    path = tmp_path / name
    with path.open("wb") as file:
        if name.endswith("npz"):
            np.savez_compressed(file, images=np.random.default_rng(0).integers(0, 9, (50, 8, 8)))
        else:
            np.save(file, numbered())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=f"cannot read .*{name}"):
        arrays(path)
    for content in (b"", b"text, not arrays"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            arrays(path)


def test_damaged_bytes_inside_an_archive(tmp_path):
    path = tmp_path / "data.npz"
    np.savez_compressed(path, images=np.random.default_rng(0).integers(0, 9, (500, 8, 8)))
    content = bytearray(path.read_bytes())
    content[1000:1100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot read"):
        arrays(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fraction": 0.0}, "test_fraction 0 leaves no test examples"),
        ({"test_fraction": 1.5}, "test_fraction 1.5 is out of range"),
        ({"validation_fraction": 1.0}, "validation_fraction 1.0 is out of range"),
        ({"test_fraction": 0.05}, "20 examples split into 19 and 1 .* 2 classes"),
    ],
)
def test_fraction_out_of_range(save, options, message):
    path = save(images=numbered(), labels=alternating())
    with pytest.raises(DataError, match=message):
        arrays(path, **options)


def test_class_too_small_to_split(save):
    path = save(images=numbered(), labels=np.arange(20) // 19)
    with pytest.raises(DataError, match="class 1 has 1 example, too few to split"):
        arrays(path)


def test_validation_fraction_beside_validation_images(save):
    path = save(train_images=numbered(), val_images=numbered(), test_images=numbered())
    with pytest.raises(DataError, match="has a validation part already"):
        arrays(path, validation_fraction=0.1)


def test_dataset_needs_a_label_for_each_image():
    with pytest.raises(DataError, match="2 labels for 3 images"):
        ArrayDataset(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.arange(20) % 10 + 1, "from 1 to 10, but no training image is of class 0"),
        (np.arange(20) % 2 * 5, "from 0 to 5, but no training image is of class 1"),
        (np.full(20, 7), "from 7 to 7, but no training image is of class 0"),
    ],
)
def test_labels_that_skip_a_class(save, labels, found):
    images = np.zeros((20, 8, 8), np.uint8)
    path = save(images=images, labels=labels)
    with pytest.raises(
        DataError, match=rf"{found}: number .* gaps, .* or pass num_classes=\d+ to"
    ):
        arrays(path, test_fraction=0.5)
    assert arrays(path, num_classes=12, test_fraction=0.5).num_classes == 12
    path = save(
        train_images=images, train_labels=labels * 0, test_images=images, test_labels=labels
    )
    with pytest.raises(DataError, match="no training image is of class 1"):
        arrays(path)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((9, 5, 8, 8), (5, 8, 8)),
        ((9, 8, 8, 5), (5, 8, 8)),
        ((9, 2, 8, 6), (2, 8, 6)),
        ((9, 12, 16, 16), (12, 16, 16)),
        ((9, 64, 64, 13), (13, 64, 64)),
        ((9, 64, 32, 3), (3, 64, 32)),
    ],
)
def test_any_number_of_channels(save, shape, expected):
    assert (
        arrays(save(images=np.zeros(shape, np.uint8)), test_fraction=0.3).image_shape == expected
    )


@pytest.mark.parametrize("shape", [(9, 8, 8, 8), (9, 8, 6, 7), (9, 8, 5, 5), (9, 5, 5, 8)])
def test_channels_that_the_shape_does_not_tell(save, shape):
    with pytest.raises(DataError, match="does not tell where channels are: pass channels_last"):
        arrays(save(images=np.zeros(shape, np.uint8)), test_fraction=0.3)
