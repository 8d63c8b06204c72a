"""Pictures of what a model does, as it trains."""

import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL.Image import Image

from tarflow.arguments import check_integer
from tarflow.errors import NonFiniteError
from tarflow.sampling.chunks import InsufficientMemoryError
from tarflow.training.averaging import averages, with_weights
from tarflow.training.steps import StepCallback


class PictureGrid(StepCallback, ABC):
    """Draws a picture by the averaged model, now and then; subclasses tell what it shows.

    Args:
        directory: Where the pictures go, one per drawing; loggers that show pictures get them too.
        every_n_steps: Steps between two drawings.

    Attributes:
        shows: What loggers call the pictures.
    """

    shows: ClassVar[str] = "samples"

    def __init__(self, directory: Path | str, every_n_steps: int):
        self.directory = Path(directory)
        self.every_n_steps = check_integer("every_n_steps", every_n_steps, least=1)

    def after_step(self, trainer: Trainer, module: Any) -> None:
        step = trainer.global_step
        if step % self.every_n_steps:
            return
        _, weights = next(averages(trainer, module.model))
        if not trainer.is_global_zero:
            return
        try:
            picture = self.picture(with_weights(module.model, weights, module.device), trainer)
        except (NonFiniteError, InsufficientMemoryError) as error:
            # A young model may have no finite samples, and still learn to.
            warnings.warn(f"no picture of {self.shows} at step {step}: {error}", stacklevel=2)
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        picture.save(self.directory / f"step_{step:07d}.png")
        for logger in trainer.loggers:
            self._show(logger, picture, step)

    @abstractmethod
    def picture(self, model: Any, trainer: Trainer) -> Image:
        """The picture by a model in eval mode, on the device of the run."""

    def _show(self, logger: Logger, picture: Image, step: int) -> None:
        """Give a picture to a logger that has a place for it."""
        if isinstance(logger, TensorBoardLogger):
            image = np.asarray(picture.convert("RGB"))
            logger.experiment.add_image(self.shows, image, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(self.shows, [picture], step)
