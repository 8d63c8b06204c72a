"""A run that was stopped at any step goes on bitwise as one that never was."""

import functools
from typing import Any

import lightning
import pytest
import torch

from tarflow import NoNoise, Pixels, TarFlow, UniformDequantization, UniformLevels
from tarflow.data import ImageData, ImageDataModule
from tarflow.data.loading.augmentation import mirror
from tarflow.data.loading.batches import Wrapped
from tarflow.data.storage.image_files import ImageFiles
from tarflow.training import (
    FlowModule,
    LastCheckpoint,
    MaximumLikelihood,
    WeightAveraging,
    muon,
    warmup_cosine,
)

from ..quiet import QUIET

BATCHES_OF_AN_EPOCH = 3
LAST = 8


@pytest.fixture
def folder(tmp_path):
    """Thirteen images in files, to be mirrored at random: three batches of four, one left out."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (13, 4, 4), generator=generator, dtype=torch.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image.numpy()).save(tmp_path / f"{index:02d}.png")
    return tmp_path


class Inverted(Wrapped):
    """Images of which half are inverted, drawn anew at each reading."""

    def __getitem__(self, index):
        image, context = self.dataset[index]
        return (255 - image if torch.rand(1) < 0.5 else image), context


def run(
    folder,
    first,
    last,
    every_n_steps=1,
    num_workers=0,
    device_batch_size=None,
    dropout=0.2,
    levels=False,
    **options,
):
    """Train from the checkpoint at one step to another; all that is left, and the losses."""
    lightning.seed_everything(5, verbose=False)
    paths = sorted(folder.glob("*.png"))
    files = ImageFiles([(str(path), index % 3) for index, path in enumerate(paths)], 4, 1)
    shape: Any = {"num_classes": 3, "image_shape": (1, 4, 4)}
    data = ImageData("files", Inverted(files), None, files, Pixels(), **shape, augment=mirror)
    datamodule = ImageDataModule(data, 4, None, device_batch_size, num_workers)
    known: Any = {"num_classes": 3, "codec": UniformDequantization(), "noise": NoNoise()}
    known |= {"codec": Pixels(), "noise": UniformLevels()} if levels else {}
    flow = TarFlow(4, 2, 1, 2, 1, 16, 8, dropout=dropout, **known)
    schedule = functools.partial(warmup_cosine, total_steps=50, warmup_steps=2)
    objective = MaximumLikelihood(0.5, level_power=int(levels))
    module = FlowModule(flow, functools.partial(muon, lr=3e-3), schedule, objective)
    losses = []

    class Losses(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(outputs["loss"].item())

    path = folder / f"{last}.ckpt"
    trainer = lightning.Trainer(
        max_steps=last,
        max_epochs=-1,
        **QUIET,
        callbacks=[WeightAveraging([0.9]), LastCheckpoint(path, every_n_steps), Losses()],
        **options,
    )
    trainer.fit(module, datamodule, ckpt_path=folder / f"{first}.ckpt" if first else None)
    state = torch.load(path, weights_only=True)
    return {"losses": losses, **{name: state[name] for name in KEPT}}


KEPT = ("state_dict", "averaging", "optimizer_states", "lr_schedulers", "global_step")


def assert_same(found, expected):
    """The same to the last bit, all the way down."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
@pytest.mark.parametrize("stop", range(1, LAST))
def test_a_stopped_run_goes_on_as_if_it_never_was(folder, stop):
    straight = run(folder, 0, LAST)
    stopped = run(folder, 0, stop)
    resumed = run(folder, stop, LAST)
    assert stopped["losses"] + resumed["losses"] == straight["losses"]
    assert len(set(straight["losses"])) == LAST
    del stopped["losses"], resumed["losses"], straight["losses"]
    assert_same(resumed, straight)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
def test_noise_levels_go_on_too(folder):
    straight = run(folder, 0, 5, levels=True)
    stopped, resumed = run(folder, 0, 2, levels=True), run(folder, 2, 5, levels=True)
    assert stopped["losses"] + resumed["losses"] == straight["losses"]
    assert_same(resumed["state_dict"], straight["state_dict"])


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
def test_workers_change_nothing(folder):
    alone = run(folder, 0, 5)
    run(folder, 0, 2, num_workers=2)
    resumed = run(folder, 2, 5, num_workers=2)
    assert resumed["losses"] == alone["losses"][2:]
    assert_same(resumed["state_dict"], alone["state_dict"])


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_accumulated_and_shortened_epochs_resume_too(folder, stop):
    for options in ({"device_batch_size": 2}, {"limit_train_batches": 2}):
        straight = run(folder, 0, 5, **options)
        run(folder, 0, stop, **options)
        resumed = run(folder, stop, 5, **options)
        assert resumed["losses"] == straight["losses"][-len(resumed["losses"]) :]
        assert_same(resumed["averaging"], straight["averaging"])


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
@pytest.mark.parametrize(("stop", "before", "after"), [(2, None, 2), (3, 2, 1)])
def test_a_run_goes_on_in_parts_of_another_size(folder, stop, before, after):
    """In the middle of an epoch and at its end; only the masks of dropout would differ."""
    straight = run(folder, 0, 7, dropout=0.0)
    run(folder, 0, stop, dropout=0.0, device_batch_size=before)
    resumed = run(folder, stop, 7, dropout=0.0, device_batch_size=after)
    assert resumed["global_step"] == 7
    parts = 1 if after is None else 4 // after
    losses = torch.tensor(resumed["losses"]).reshape(-1, parts).sum(dim=1)  # each divided by parts
    torch.testing.assert_close(losses.tolist(), straight["losses"][stop:], rtol=0, atol=1e-5)
    assert [each["last_epoch"] for each in resumed["lr_schedulers"]] == [7]
