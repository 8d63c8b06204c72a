"""The data module under Lightning's own Trainer."""

from itertools import chain

import hydra
import lightning
import numpy as np
import pytest
import torch
from torch import nn

from tarflow.data import Batch, ImageDataModule, arrays, digits
from tarflow.errors import DataError

from ..quiet import QUIET

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # lightning 2.6 under torch 2.15
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]


class Recorder(lightning.LightningModule):
    """Fits one number, and keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": [], "test": []}

    def _record(self, part, batch):
        assert isinstance(batch, Batch)
        assert batch.x.dtype == torch.uint8
        assert list(batch.context) == []
        self.seen[part].append(batch.x[:, 0, 0, 0].tolist())

    def training_step(self, batch, _):
        self._record("train", batch)
        return (self.weight - 1) ** 2

    def validation_step(self, batch, _):
        self._record("val", batch)

    def test_step(self, batch, batch_index):
        self._record("test", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def path(tmp_path):
    """Images that hold their own number, in a file."""
    images = np.broadcast_to(np.arange(100)[:, None, None], (100, 4, 4)).astype(np.uint8)
    np.savez(tmp_path / "numbers.npz", images=images)
    return tmp_path / "numbers.npz"


def trainer(tmp_path, epochs=1):
    return lightning.Trainer(
        default_root_dir=tmp_path,
        max_epochs=epochs,
        **QUIET,
        log_every_n_steps=1,
    )


def fit(tmp_path, module, epochs=1, checkpoint=None):
    recorder = Recorder()
    runner = trainer(tmp_path, epochs)
    runner.fit(recorder, module, ckpt_path=checkpoint)
    return recorder.seen, runner


def test_every_part_reaches_the_trainer(tmp_path, path):
    data = arrays(path, validation_fraction=0.1)
    module = ImageDataModule(data, batch_size=16, eval_batch_size=4)
    recorder = Recorder()
    runner = trainer(tmp_path)
    runner.fit(recorder, module)
    runner.test(recorder, module, verbose=False)
    assert [len(batch) for batch in recorder.seen["train"]] == [16] * 5
    assert [len(batch) for batch in recorder.seen["test"]] == [4, 4, 2]
    in_file = data.test.dataset.images[data.test.indices, 0, 0, 0].tolist()
    assert list(chain(*recorder.seen["test"])) == in_file


def test_data_without_validation_part(tmp_path, path):
    module = ImageDataModule(arrays(path), batch_size=16)
    assert module.val_dataloader() == []
    seen, runner = fit(tmp_path, module)
    assert seen["val"] == []
    assert len(seen["train"]) == 5
    with pytest.raises(DataError, match="no validation part: pass validation_fraction"):
        runner.validate(Recorder(), module, verbose=False)


def test_order_follows_from_the_seed(tmp_path, path):
    def order(seed, epochs=2):
        lightning.seed_everything(seed, verbose=False)
        return fit(tmp_path, ImageDataModule(arrays(path), batch_size=30), epochs)[0]["train"]

    first = order(1)
    assert first[:3] != first[3:]
    for epoch in (first[:3], first[3:]):
        assert len(set(chain(*epoch))) == 90
    assert order(1) == first
    assert order(2) != first


def test_order_does_not_depend_on_other_draws(path):
    def first_batch(draws):
        torch.manual_seed(3)
        torch.randn(draws)
        batch = next(iter(ImageDataModule(arrays(path), batch_size=30).train_dataloader()))
        return batch.x[:, 0, 0, 0].tolist()

    assert first_batch(0) == first_batch(100)


def test_order_continues_when_a_run_is_resumed(tmp_path, path):
    def module():
        lightning.seed_everything(1, verbose=False)
        return ImageDataModule(arrays(path), batch_size=30)

    straight, _ = fit(tmp_path, module(), epochs=3)
    _, runner = fit(tmp_path, module(), epochs=2)
    runner.save_checkpoint(tmp_path / "two.ckpt")
    resumed, _ = fit(tmp_path, module(), epochs=3, checkpoint=tmp_path / "two.ckpt")
    assert resumed["train"] == straight["train"][6:]


def test_last_batch_is_kept_on_demand(path):
    module = ImageDataModule(arrays(path), batch_size=40, drop_last=False)
    assert [len(batch.x) for batch in module.train_dataloader()] == [40, 40, 10]
    module = ImageDataModule(arrays(path), batch_size=40)
    assert [len(batch.x) for batch in module.train_dataloader()] == [40, 40]


def test_worker_processes_read_the_same_images(path):
    module = ImageDataModule(arrays(path), batch_size=5, num_workers=1)
    alone = ImageDataModule(arrays(path), batch_size=5)
    loader = module.test_dataloader()
    assert loader.persistent_workers
    for batch, expected in zip(loader, alone.test_dataloader(), strict=True):
        assert (batch.x == expected.x).all()
        assert (batch.index == expected.index).all()


def test_batch_larger_than_the_training_set():
    with pytest.raises(DataError, match="batch_size 1438 exceeds the 1437 training images"):
        ImageDataModule(digits(), batch_size=1438)
    ImageDataModule(digits(), batch_size=1437)
    module = ImageDataModule(digits(), batch_size=1438, drop_last=False)
    assert len(module.train_dataloader()) == 1


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"batch_size": 8, "eval_batch_size": -1}])
def test_empty_batch(sizes):
    with pytest.raises(DataError, match=r"batch_size (0|-1) must be at least 1"):
        ImageDataModule(digits(), **sizes)


def test_hydra_builds_it_from_a_config():
    config = {
        "_target_": "tarflow.data.ImageDataModule",
        "batch_size": 128,
        "data": {"_target_": "tarflow.data.digits", "validation_fraction": 0.1},
    }
    module = hydra.utils.instantiate(config)
    batch = next(iter(module.train_dataloader()))
    assert tuple(batch.x.shape) == (128, 1, 8, 8)
    assert tuple(batch.context["label"].shape) == (128,)
    assert len(module.data.validation) == 144
