"""What a training run shows: pretrained models, sample grids, a bar."""

from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from PIL.Image import Image
from torch import Tensor
from tqdm import tqdm

from tarflow.arguments import check_integer
from tarflow.flows.checkpoint import save
from tarflow.flows.guidance import Guidance
from tarflow.flows.table_columns import TableColumns
from tarflow.randomness import ExampleSeeds
from tarflow.registry import register
from tarflow.sampling.chunks import ChunkSize
from tarflow.sampling.denoising import denoise, wants_denoising
from tarflow.sampling.pictures import grid
from tarflow.training.averaging import averages
from tarflow.training.picture_grid import PictureGrid
from tarflow.training.steps import StepCallback


@register
class PretrainedExport(Callback):
    """Writes the averaged model as a pretrained folder with every checkpoint, and at the end.

    Args:
        directory: The folder of the first average; those of others have their decay in the name.

    Attributes:
        step: The step whose model it wrote last.
    """

    def __init__(self, directory: Path | str):
        self.directory = Path(directory)
        self.step: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.step = None
        assert pl_module.model.described  # what cannot be saved is refused before it is trained

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict) -> None:
        self._write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._write(trainer, pl_module)

    def holds(self, step: int) -> bool:
        """Whether the folder holds what a run leaves that ended after a step."""
        return self.step == step

    def _write(self, trainer: Trainer, module: Any) -> None:
        """Write the model, unless that of this step is written."""
        if self.step == trainer.global_step:
            return
        for index, (decay, weights) in enumerate(averages(trainer, module.model)):
            name = self.directory.name + (f"_{decay}" if index else "")
            if trainer.is_global_zero:
                kind = "raw weights" if decay is None else f"average of decay {decay}"
                words = f"{kind} at step {trainer.global_step}"
                written = module.exported(weights)
                save(self.directory.with_name(name), module.model.described, written, words)
        self.step = trainer.global_step


@register
class SampleGrid(PictureGrid):
    """Draws the same noise through the averaged model as it trains, and keeps the pictures.

    Args:
        directory: As for `PictureGrid`; a sample that is not finite is a cross there.
        every_n_steps: Steps between two drawings.
        num_samples: Number of samples; labels go round the classes.
        guidance: Guides the samples of a flow with classes.
    """

    def __init__(
        self,
        directory: Path | str,
        every_n_steps: int = 1000,
        num_samples: int = 100,
        guidance: Guidance | None = None,
    ):
        super().__init__(directory, every_n_steps)
        self.num_samples = check_integer("num_samples", num_samples, least=1)
        self._chunks = ChunkSize()
        self.guidance = guidance

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.guidance is not None and pl_module.model.num_classes:
            pl_module.model.check_guidance(self.guidance, ["label"])  # before hours of training

    def after_step(self, trainer: Trainer, module: Any) -> None:
        if not isinstance(module.model.codec, TableColumns):  # whose rows have no pictures
            super().after_step(trainer, module)

    def picture(self, model: Any, trainer: Trainer) -> Image:
        return grid(self._draw(model))

    def _draw(self, model: Any) -> Tensor:
        """Draw all samples, as many at a time as memory holds, and turn them into bytes.

        What is not finite is crossed out.
        """

        def compute(rows: slice) -> Tensor:
            indices, classes = range(rows.start, rows.stop), model.num_classes
            x = self.samples(model, torch.tensor(indices) % classes if classes else None, indices)
            images = model.codec.to_bytes(model.codec.decode(x.nan_to_num())).cpu()
            cross = torch.eye(*images.shape[-2:], dtype=images.dtype)
            images[~finite_rows(x)] = 255 * (cross | cross.flip(-1))
            return images

        return self._chunks.map(compute, self.num_samples)

    def samples(self, model: Any, label: Tensor | None, indices: range) -> Tensor:
        """Samples of some indices and labels, denoised where the training was noisy."""
        guidance = None if label is None else self.guidance
        x = model.sample(len(indices), label, guidance=guidance, source=ExampleSeeds(0, indices))
        finite = finite_rows(x)
        if wants_denoising(model) and finite.any():
            x[finite] = denoise(model, x[finite], None if label is None else label[finite])
        return x


def finite_rows(x: Tensor) -> Tensor:
    """Which examples are finite, on the CPU."""
    return x.flatten(1).isfinite().all(dim=1).cpu()


@register
class StepProgressBar(StepCallback, ProgressBar):
    """One bar for the whole run, counted in steps, with the metrics that were logged last."""

    def __init__(self):
        super().__init__()
        self._bar: tqdm | None = None
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        counts = {"total": trainer.max_steps, "initial": trainer.global_step, "unit": "step"}
        self._bar = tqdm(desc="training", dynamic_ncols=True, disable=not self._enabled, **counts)

    def after_step(self, trainer: Trainer, module: Any) -> None:
        assert self._bar is not None
        self._bar.update(trainer.global_step - self._bar.n)
        if not trainer._logger_connector.should_update_logs:
            return  # reading numbers waits for the device
        metrics = self.get_metrics(trainer, module)
        metrics.pop("v_num", None)
        loss = f"train/{module.loss_name}"
        self._bar.set_postfix(
            {loss: trainer.callback_metrics[loss].item()} | metrics, refresh=False
        )

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self._bar is not None:
            self._bar.close()
