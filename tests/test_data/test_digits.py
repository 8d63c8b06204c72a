"""The digits: their split, which published numbers rest on, and what importing them costs."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tarflow.data
from tarflow.data import digits
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels


def images_of(dataset):
    return torch.stack([image for image, _ in dataset])


def labels_of(dataset):
    return np.array([context["label"] for _, context in dataset])


def rows(dataset):
    return {tuple(row) for row in images_of(dataset).flatten(1).tolist()}


@pytest.fixture(scope="module")
def data():
    return digits()


def test_describes_itself(data):
    image, context = data.train[0]
    assert image.dtype == torch.uint8
    assert tuple(image.shape) == data.image_shape == (1, 8, 8)
    assert list(map(type, context.values())) == [int]
    assert (data.codec, data.num_classes, len(data.class_names)) == (Pixels(17), 10, 10)
    assert data.name.startswith("digits (scikit-learn ")
    assert "stratified split, seed 0" in data.name
    assert data.validation is None


def test_levels_are_all_used(data):
    images = images_of(data.train)
    assert images.unique().tolist() == list(range(17))


def test_split_is_the_published_one(data):
    pixels, labels = load_digits(return_X_y=True)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=360, stratify=labels, random_state=0
    )
    for part, indices in ((data.train, train), (data.test, test)):
        assert (images_of(part).flatten(1).numpy() == pixels[indices]).all()
        assert (labels_of(part) == labels[indices]).all()


def test_split_is_disjoint_and_stratified(data):
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert not rows(data.train) & rows(data.test)
    counts = np.bincount(labels_of(data.test))
    assert counts.min() >= 34
    assert counts.max() <= 38


def test_validation_part_comes_out_of_training_images(data):
    divided = digits(validation_fraction=0.1)
    assert (len(divided.train), len(divided.validation)) == (1293, 144)
    assert (images_of(divided.test) == images_of(data.test)).all()
    assert not rows(divided.validation) & (rows(divided.train) | rows(divided.test))
    assert rows(divided.validation) | rows(divided.train) == rows(data.train)
    assert np.bincount(labels_of(divided.validation)).min() >= 13


def test_is_the_same_at_every_call():
    first, second = digits(0.2), digits(0.2)
    assert first.validation.indices == second.validation.indices


def test_batched_reading_equals_single_reading(data):
    batch = data.train.__getitems__([5, 0, 7])
    for (image, context), index in zip(batch, [5, 0, 7], strict=True):
        assert (image == data.train[index][0]).all()
        assert context == data.train[index][1]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.5, float("nan")])
def test_fraction_out_of_range(fraction):
    with pytest.raises(DataError, match=f"validation_fraction {fraction} is out of range"):
        digits(fraction)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_fraction_that_cannot_hold_every_class(fraction):
    with pytest.raises(DataError, match="too small for 10 classes"):
        digits(fraction)


def test_import_loads_no_heavy_library():
    code = """
import sys, tarflow.data
assert not {"lightning", "torchvision", "sklearn", "hydra"} & set(sys.modules)
assert len(tarflow.data.digits().train) == 1437
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'mnist'"):
        tarflow.data.mnist  # noqa: B018
