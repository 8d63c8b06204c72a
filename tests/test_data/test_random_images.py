"""Random bytes that stand in for a data set."""

import pickle

import hydra
import pytest
import torch
from torch.utils.data import DataLoader

from tarflow.data import random_images
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels
from tests.composing import composed


def images_of(dataset):
    return torch.stack([dataset[index][0] for index in range(len(dataset))])


def test_images_are_uniform_and_labelled():
    data = random_images(num_train=200, num_test=50, image_size=8, num_classes=4, levels=16)
    assert (len(data.train), len(data.test), data.validation) == (200, 50, None)
    assert (data.num_classes, data.codec, data.image_shape) == (4, Pixels(16), (3, 8, 8))
    images = images_of(data.train)
    assert images.dtype == torch.uint8
    frequencies = torch.bincount(images.flatten().int()) / images.numel()
    assert len(frequencies) == 16
    assert (frequencies - 1 / 16).abs().max() < 0.005
    assert {context["label"] for _, context in data.train} == {0, 1, 2, 3}
    assert "random bytes" in data.name


def test_every_image_follows_from_seed_part_and_index_alone():
    first, again = (random_images(20, 20, image_size=4) for _ in range(2))
    assert torch.equal(images_of(first.train), images_of(again.train))
    assert first.train[7][1] == again.train[7][1]
    assert not torch.equal(first.train[0][0], first.train[1][0])
    others = [random_images(20, 20, image_size=4, seed=1).train, first.test]
    for other in others:
        assert not torch.equal(images_of(first.train), images_of(other))


def test_a_data_set_of_any_size_takes_no_memory():
    data = random_images(num_train=1_281_167, image_size=256)
    assert len(pickle.dumps(data)) < 1000
    assert data.train[1_281_166][0].shape == (3, 256, 256)
    with pytest.raises(IndexError):
        data.train[1_281_167]


def test_workers_make_the_same_images():
    data = random_images(20, image_size=4, num_classes=0)
    images, contexts = zip(*DataLoader(data.train, 5, num_workers=2), strict=True)
    assert torch.equal(torch.cat(images), images_of(data.train))
    assert contexts == ({},) * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 0}, "num_train 0 must be at least 1"),
        ({"num_test": -1}, "num_test -1 must be"),
        ({"image_size": 0}, "image_size 0 must be"),
        ({"num_channels": 0}, "num_channels 0 must be"),
        ({"levels": 257}, "levels 257 is out of range: choose 2 ... 256"),
        ({"num_classes": -1}, "num_classes -1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_argument_out_of_range(options, message):
    with pytest.raises(DataError, match=message):
        random_images(**options)


def test_the_configuration_makes_it():
    config = composed("train", "data=random", "data.data.image_size=16")
    assert hydra.utils.instantiate(config.data.data).image_shape == (3, 16, 16)
