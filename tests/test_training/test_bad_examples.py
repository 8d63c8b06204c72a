"""One bad example never ends a run: it is left out, counted, or crossed out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tarflow import GaussianNoise, Pixels
from tarflow.data import ArrayDataset, ImageDataModule
from tarflow.errors import DataError
from tarflow.training import SampleGrid
from tests.test_training.test_module import data, fit, tiny_flow, tiny_module

__all__ = ["data"]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Damaged(ArrayDataset):
    """Images of which some cannot be read."""

    def __init__(self, whole, damaged):
        super().__init__(whole.images, whole.labels)
        self.damaged = damaged

    def __getitems__(self, indices):
        if found := sorted(self.damaged.intersection(indices)):
            raise DataError(f"{found[0]}.png is truncated")
        return super().__getitems__(indices)


def with_validation(data, validation, eval_batch_size) -> ImageDataModule:
    return ImageDataModule(replace(data.data, validation=validation), 8, eval_batch_size)


@pytest.mark.parametrize("eval_batch_size", [1, 5, 24])
def test_images_that_cannot_be_read_are_left_out_of_validation(data, caplog, eval_batch_size):
    bad = {0, 7}
    whole = data.data.validation
    kept = [index for index in range(len(whole)) if index not in bad]
    part = ArrayDataset(whole.images[kept], whole.labels[kept])
    # The noise, whose seed is an example's number, is next to nothing.
    options = {"codec": Pixels(17), "noise": GaussianNoise(1e-6)}
    expected, found = (
        fit(
            tiny_module(tiny_flow(**options)),
            with_validation(data, validation, eval_batch_size),
            3,
        ).logged_metrics
        for validation in (part, Damaged(whole, bad))
    )
    assert found["val/unreadable"] == len(bad)
    assert "val/unreadable" not in expected
    torch.testing.assert_close(found["val/nats_per_dim"], expected["val/nats_per_dim"])
    assert "example 7 is left out, since it cannot be read: 7.png is truncated" in caplog.text


def test_a_part_of_which_nothing_can_be_read_is_an_error(data):
    whole = data.data.validation
    damaged = with_validation(data, Damaged(whole, set(range(24))), 8)
    with pytest.raises(DataError, match="none of 24 examples can be read"):
        fit(tiny_module(tiny_flow()), damaged, 3)


def test_what_is_evaluated_must_be_readable(data):
    damaged = replace(data.data, test=Damaged(data.data.test, {3}))
    with pytest.raises(DataError, match=r"3\.png is truncated"):
        list(ImageDataModule(damaged, 8).test_dataloader())


class LittleMemory(SampleGrid):
    """Has room for two samples at a time."""

    def samples(self, flow, label, indices):
        if len(indices) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().samples(flow, label, indices)


def test_grids_are_drawn_in_chunks_that_fit_memory(data, tmp_path):
    pictures = []
    for kind in (SampleGrid, LittleMemory):
        grids = kind(tmp_path / kind.__name__, every_n_steps=1, num_samples=7)
        if kind is LittleMemory:
            with pytest.warns(RuntimeWarning, match="going on with 1 examples at a time"):
                fit(tiny_module(tiny_flow()), data, 2, callbacks=[grids])
        else:
            fit(tiny_module(tiny_flow()), data, 2, callbacks=[grids])
        assert grids._chunks.limit == (None if kind is SampleGrid else 1)
        pictures.append(np.asarray(Image.open(grids.directory / "step_0000002.png")))
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 15  # a level


def test_samples_that_are_not_finite_are_crossed_out(tmp_path, monkeypatch):
    flow = tiny_flow(noise=GaussianNoise(0.1), codec=Pixels(17)).eval()
    sample = flow.sample

    def one_overflows(*arguments, **options):
        x = sample(*arguments, **options)
        x[1, 0, 0, 0] = float("inf")
        return x

    monkeypatch.setattr(flow, "sample", one_overflows)
    found = SampleGrid(tmp_path, num_samples=3)._draw(flow)
    monkeypatch.undo()
    expected = SampleGrid(tmp_path, num_samples=3)._draw(flow)
    cross = torch.eye(4, dtype=torch.uint8)
    assert torch.equal(found[1, 0], 255 * (cross | cross.flip(-1)))
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], rtol=0, atol=1)
