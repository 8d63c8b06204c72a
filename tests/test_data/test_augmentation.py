"""Images are changed for training alone, from the seed of a run and the number of a batch."""

from dataclasses import replace

import lightning
import pytest
import torch
from torch import nn

from tarflow import Pixels
from tarflow.data import ArrayDataset, ImageData, ImageDataModule, read_batch
from tarflow.data.loading.augmentation import mirror
from tarflow.evaluation.provenance import content_of, digests
from tarflow.randomness import Share

from ..quiet import QUIET

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

ROWS = 48


class Recorder(lightning.LightningModule):
    """Fits one number, and keeps what it is shown, by the part of the data."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": []}

    def training_step(self, batch, _):
        self.seen["train"].append(batch)
        return self.weight**2

    def validation_step(self, batch, _):
        self.seen["val"].append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


@pytest.fixture
def data():
    """Images that are another one when they are mirrored."""
    images = torch.arange(ROWS * 6, dtype=torch.int64).remainder(251).to(torch.uint8)
    part = ArrayDataset(images.view(ROWS, 1, 2, 3), torch.full((ROWS,), -1))
    return ImageData("made up", part, part, part, Pixels(), 0, (1, 2, 3), augment=mirror)


def fit(folder, data, num_workers=0, device_batch_size=None, epochs=2):
    """What the steps of a run see."""
    lightning.seed_everything(3, verbose=False)
    module = Recorder()
    batches = ImageDataModule(data, 12, None, device_batch_size, num_workers)
    runner = lightning.Trainer(max_epochs=epochs, default_root_dir=folder, **QUIET)
    runner.fit(module, batches)
    return module.seen


def joined(batches, name):
    return torch.cat([getattr(batch, name) for batch in batches])


def test_training_alone_sees_mirrored_images(tmp_path, data):
    seen = fit(tmp_path, data)
    stored = data.train.images
    x, index = joined(seen["train"], "x"), joined(seen["train"], "index")
    same = (x == stored[index]).flatten(1).all(dim=1)
    mirrored = (x == stored[index].flip(-1)).flatten(1).all(dim=1)
    assert (same ^ mirrored).all()
    assert ROWS / 2 < mirrored.sum() < 3 * ROWS / 2
    assert not torch.equal(
        mirrored[:ROWS][index[:ROWS].sort()[1]], mirrored[ROWS:][index[ROWS:].sort()[1]]
    )
    x, index = joined(seen["val"], "x"), joined(seen["val"], "index")
    assert torch.equal(x, stored[index])


def test_what_evaluation_reads_of_the_training_part_is_as_stored(data):
    hashes = {
        content_of(digests(read_batch(each.train, range(ROWS))))
        for each in (data, data, replace(data, augment=None))
    }
    assert len(hashes) == 1


def test_workers_and_smaller_parts_change_nothing(tmp_path, data):
    expected = fit(tmp_path, data)["train"]
    for options in ({"num_workers": 2}, {"device_batch_size": 4}):
        found = fit(tmp_path, data, **options)["train"]
        assert torch.equal(joined(found, "index"), joined(expected, "index"))
        assert torch.equal(joined(found, "x"), joined(expected, "x"))


def test_processes_see_together_what_one_sees_alone(data):
    stored = data.train.images
    whole = mirror(stored, Share(7, 0, ROWS))
    halves = [mirror(stored[start:][:24], Share(7, start, ROWS)) for start in (0, 24)]
    assert torch.equal(torch.cat(halves), whole)
    assert not torch.equal(mirror(stored, Share(8, 0, ROWS)), whole)
