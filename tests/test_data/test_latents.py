"""Prepared latents: what is written is what the tokenizer makes, and no other is ever taken."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tarflow import CheckpointError, DataError, Tokenizer
from tarflow.data import ImageData, digits, latents, memory_mapped, prepare, random_images
from tarflow.data.storage.latent_preparation import prepare_latents
from tarflow.flows.codec import Pixels
from tarflow.tokenizers import IdentityTokenizer
from tests.extensions.extra.tokenizer import Pooled


@pytest.fixture
def data() -> ImageData:
    return random_images(num_train=20, num_test=10, image_size=8, num_classes=4)


@pytest.fixture
def tokenizer(data) -> Pooled:
    tokenizer = Pooled(8)
    with torch.no_grad():
        tokenizer.gain.copy_(torch.tensor([0.5, 2.0, -1.5]).view(3, 1, 1))
    tokenizer.measure([stored_of(data.train)])
    return tokenizer.eval()


def stored_of(part) -> torch.Tensor:
    return torch.stack([part[index][0] for index in range(len(part))])


def contexts_of(part) -> list[dict]:
    return [dict(part[index][1]) for index in range(len(part))]


def by_hand(tokenizer: Pooled, image: torch.Tensor) -> torch.Tensor:
    """The latents of an image of 3 x 8 x 8, by a loop."""
    found = torch.empty(3, 4, 4, dtype=torch.float64)
    pixels = 2 * image.double() / 255 - 1
    for c in range(3):
        gain, m, s = (
            part[c].item() for part in (tokenizer.gain, tokenizer.shift, tokenizer.scale)
        )
        for i in range(4):
            for j in range(4):
                mean = pixels[c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean()
                found[c, i, j] = s * (gain * mean - m)
    return found


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_is_written_are_the_latents_of_the_images(tmp_path, data, tokenizer, num_workers):
    told = prepare_latents(data, tokenizer, tmp_path / "out", num_workers=num_workers)
    read = latents(str(tmp_path / "out"), verify=True)
    for name, part in data.parts.items():
        stored = stored_of(read.parts[name])
        assert (stored.dtype, stored.shape[1:]) == (torch.float32, (3, 4, 4))
        for image, row in zip(stored_of(part), stored, strict=True):
            torch.testing.assert_close(row.double(), by_hand(tokenizer, image), atol=1e-6, rtol=0)
        assert contexts_of(read.parts[name]) == contexts_of(part)
    everything = stored_of(read.train).double()
    torch.testing.assert_close(
        everything.mean(dim=(0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0
    )
    assert told.counts == {"train": 20, "test": 10}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_data_set_brings_its_tokenizer(tmp_path, data, tokenizer):
    prepare_latents(data, tokenizer, tmp_path / "out")
    read = latents(tmp_path / "out")
    assert isinstance(read.codec, Pooled)
    assert read.codec.latents_sha256 == tokenizer.latents_sha256
    assert read.name == f"{data.name}, Pooled, latents {tokenizer.latents_sha256}"
    assert (read.image_shape, read.num_classes) == ((3, 4, 4), 4)
    assert read.determined["image_size"] == (4, 4)
    x = stored_of(read.test)
    assert torch.equal(read.codec.encode(x), x)
    assert torch.equal(
        read.codec.decode(x), tokenizer.decode(tokenizer.encode(stored_of(data.test)))
    )


def test_the_manifest_tells_of_images_latents_and_tokenizer(tmp_path, data, tokenizer):
    prepare_latents(data, tokenizer, tmp_path / "out")
    told = json.loads((tmp_path / "out/meta.json").read_text())
    assert told["latents_sha256"] == tokenizer.latents_sha256
    assert told["images_sha256"] == prepare(data, tmp_path / "images").sha256
    assert told["sha256"].keys() == told["images_sha256"].keys()
    assert told["sha256"] != told["images_sha256"]
    assert told["scale"] == tokenizer.scale.flatten().tolist()
    assert told["shift"] == tokenizer.shift.flatten().tolist()
    again = random_images(num_train=20, num_test=10, image_size=8, num_classes=4)
    other = prepare_latents(again, tokenizer, tmp_path / "again")
    assert other.sha256 == told["sha256"]


def test_half_precision_takes_half_the_space(tmp_path, data, tokenizer):
    for dtype in ("float32", "float16"):
        prepare_latents(data, tokenizer, tmp_path / dtype, dtype)
    whole, half = (latents(tmp_path / each, verify=True) for each in ("float32", "float16"))
    assert torch.equal(stored_of(half.train), stored_of(whole.train).half())
    with pytest.raises(DataError, match="dtype=int8 is unknown: give float32 or float16"):
        prepare_latents(data, tokenizer, tmp_path / "int8", "int8")


def test_a_validation_part_and_class_names_are_kept(tmp_path):
    data, tokenizer = digits(validation_fraction=0.1), Pooled(8, 1, pixels=Pixels(17))
    prepare_latents(data, tokenizer, tmp_path / "out")
    read = latents(tmp_path / "out")
    assert (len(read.validation), read.class_names) == (len(data.validation), data.class_names)
    with pytest.raises(DataError, match="the data has a validation part already"):
        latents(tmp_path / "out", validation_fraction=0.1)


def test_training_latents_can_be_set_aside(tmp_path, data, tokenizer):
    prepare_latents(data, tokenizer, tmp_path / "out")
    read = latents(tmp_path / "out", validation_fraction=0.2)
    assert (len(read.train), len(read.validation), len(read.test)) == (16, 4, 10)
    assert read.augment is None


def test_a_tokenizer_for_other_images_is_refused(tmp_path, data):
    for other, words in {
        Pooled(16): r"has shape \(3, 8, 8\), but the tokenizer is for \(3, 16, 16\)",
        Pooled(8, pixels=Pixels(17)): r"has levels 256, but the tokenizer is for 17",
    }.items():
        with pytest.raises(DataError, match=words):
            prepare_latents(data, other, tmp_path / "out")
        with pytest.raises(DataError, match=words):
            data.with_tokenizer(other)
    assert not list(tmp_path.iterdir())


def test_prepared_latents_take_another_decoder_and_no_other_latents(tmp_path, data, tokenizer):
    prepare_latents(data, tokenizer, tmp_path / "out")
    read, tuned, other = latents(tmp_path / "out"), Pooled(8, decodes_noise=0.3), Pooled(8)
    tuned.load_state_dict(tokenizer.state_dict())
    torch.nn.init.ones_(tuned.decoder.bias)
    assert read.with_tokenizer(tuned).codec is tuned
    with pytest.raises(DataError, match=r"has latents .*, but the tokenizer is for"):
        read.with_tokenizer(other)
    with pytest.raises(DataError, match="holds no images of pixels"):
        prepare_latents(read, IdentityTokenizer(4), tmp_path / "again")


def test_another_tokenizer_in_the_folder_is_refused(tmp_path, data, tokenizer):
    prepare_latents(data, tokenizer, tmp_path / "out")
    Pooled(8).save_pretrained(tmp_path / "out/tokenizer")
    with pytest.raises(DataError, match=r"is one of latents \w+, but its meta.json tells of"):
        latents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out/tokenizer")
    with pytest.raises(CheckpointError, match="is not a pretrained folder"):
        latents(tmp_path / "out")


def test_changed_latents_are_found(tmp_path, data, tokenizer):
    prepare_latents(data, tokenizer, tmp_path / "out")
    np.lib.format.open_memmap(tmp_path / "out/test_latents.npy", "r+")[3, 0, 0, 0] += 1
    latents(tmp_path / "out")
    with pytest.raises(DataError, match=r"test images .* have the hash .*files have changed"):
        latents(tmp_path / "out", verify=True)


@pytest.mark.parametrize("name", ["train_latents.npy", "test_labels.npy"])
def test_a_missing_part_is_told_of(tmp_path, data, tokenizer, name):
    prepare_latents(data, tokenizer, tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    with pytest.raises(DataError, match=rf"{name}.* cannot be read .*PART_latents.npy with"):
        latents(tmp_path / "out")


def test_latents_of_another_shape_or_kind_are_refused(tmp_path, data, tokenizer):
    prepare_latents(data, tokenizer, tmp_path / "out")
    np.save(tmp_path / "out/train_latents.npy", np.zeros((20, 3, 4, 5), np.float32))
    with pytest.raises(DataError, match=r"are of shape \(3, 4, 5\), but its meta.json"):
        latents(tmp_path / "out")
    np.save(tmp_path / "out/train_latents.npy", np.zeros((20, 3, 4, 4), np.float64))
    with pytest.raises(DataError, match=r"holds float64 .*expected are float32"):
        latents(tmp_path / "out")


def test_images_and_latents_are_not_mixed_up(tmp_path, data, tokenizer):
    prepare(data, tmp_path / "images")
    prepare_latents(data, tokenizer, tmp_path / "latents")
    with pytest.raises(DataError, match=r"holds arrays, .*give data=memory_mapped data.data.root"):
        latents(tmp_path / "images")
    with pytest.raises(DataError, match=r"holds latents, .*give data=latents data.data.root"):
        memory_mapped(tmp_path / "latents")
    with pytest.raises(DataError, match=r"no .*meta.json: .*tarflow prepare data=NAME tokenizer"):
        latents(tmp_path / "nowhere")


class Failing(Dataset):
    """Fails at its twelfth image."""

    def __init__(self, dataset, error):
        self.dataset, self.error = dataset, error

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        if index == 12:
            raise self.error
        return self.dataset[index]


@pytest.mark.parametrize("error", [DataError("7.jpg (truncated)"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing(tmp_path, data, tokenizer, error):
    with pytest.raises(type(error)):
        prepare_latents(
            replace(data, train=Failing(data.train, error)), tokenizer, tmp_path / "out"
        )
    assert list(tmp_path.iterdir()) == []


def test_latents_that_are_not_finite_are_refused(tmp_path, data, tokenizer):
    torch.nn.init.constant_(tokenizer.gain, torch.inf)
    with pytest.raises(DataError, match=r"latents of train images are not finite in torch.float"):
        prepare_latents(data, tokenizer, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_is_replaced(tmp_path, data, tokenizer, monkeypatch):
    """As if the power went: no exception is handled, and the folder is as it was."""
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    monkeypatch.setattr(os, "replace", lambda *_: None)
    prepare_latents(data, tokenizer, tmp_path / "out")
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    (tmp_path / ".out.new/tokenizer/rest").write_bytes(b"rest")
    prepare_latents(data, tokenizer, tmp_path / "out")
    assert len(latents(tmp_path / "out", verify=True).train) == 20
    files = sorted(path.name for path in Path(tmp_path, "out/tokenizer").iterdir())
    assert files == ["config.json", "model.safetensors"]
    with pytest.raises(DataError, match="out exists already"):
        prepare_latents(data, tokenizer, tmp_path / "out")


def test_the_tokenizer_is_saved_as_it_is(tmp_path, data, tokenizer):
    prepare_latents(data, tokenizer, tmp_path / "out")
    read = Tokenizer.from_pretrained(tmp_path / "out/tokenizer")
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(read.state_dict()[name], value)
