"""Pictures of images beside their reconstructions, as an autoencoder learns."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import Trainer
from PIL.Image import Image

from tarflow.arguments import check_integer
from tarflow.data.loading.reading import ReadAhead
from tarflow.randomness import ExampleSeeds, normal
from tarflow.registry import register
from tarflow.sampling.pictures import beside, grid
from tarflow.training.picture_grid import PictureGrid


@register
class ReconstructionGrid(PictureGrid):
    """Shows images beside what the averaged tokenizer decodes of their latents.

    They are of the validation part, evenly spaced; of the training part where there is none. A
    decoder that removes noise gets latents with such noise, always the same.

    Args:
        directory: As for `PictureGrid`.
        every_n_steps: Steps between two pictures.
        num_images: Number of images.
    """

    shows: ClassVar[str] = "reconstructions"

    def __init__(self, directory: Path | str, every_n_steps: int = 500, num_images: int = 36):
        super().__init__(directory, every_n_steps)
        self.num_images = check_integer("num_images", num_images, least=1)

    @torch.no_grad()
    def picture(self, model: Any, trainer: Trainer) -> Image:
        data = trainer.datamodule.data  # pyright: ignore[reportAttributeAccessIssue]
        part = data.train if data.validation is None else data.validation
        count = min(self.num_images, len(part))
        indices = range(0, count * (len(part) // count), len(part) // count)
        stored = ReadAhead(part)(indices).x.to(model.scale.device)
        x = model.encode(stored)
        source = ExampleSeeds(0, indices)
        noisy = x + model.decodes_noise * normal(x.shape, source, x.dtype, x.device, "noise")
        shown = {"images": stored, "reconstructions": model.decode(noisy)}
        return beside({name: grid(model.pixels.to_bytes(each)) for name, each in shown.items()})
