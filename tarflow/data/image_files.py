"""Images decoded from files as they are needed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from tarflow.errors import DataError

Samples = list[tuple[str, int]]
"""Path and label of each image."""

MODES = {1: "L", 3: "RGB"}
"""Pillow's name for pixels of so many channels."""

CHUNK = 64
NUM_REPORTED = 5


class ImageFiles(Dataset):
    """Images brought to one size: the shorter side resized with antialiasing, the centre kept.

    Args:
        samples: Path and label of each image.
        image_size: Height and width to bring images to.
        num_channels: 1 converts images to grey, 3 to colour.
        horizontal_flip: Whether to mirror half of the images, drawn anew at each reading.

    Raises:
        DataError: The size or number of channels is out of range.
    """

    def __init__(
        self,
        samples: Samples,
        image_size: int,
        num_channels: int = 3,
        horizontal_flip: bool = False,
    ):
        from torchvision import transforms

        if image_size < 1:
            raise DataError(f"image_size {image_size} must be at least 1 pixel")
        if num_channels not in MODES:
            raise DataError(f"num_channels {num_channels}: choose 1 for grey or 3 for colour")
        self.samples = samples
        self.mode = MODES[num_channels]
        steps = [transforms.Resize(image_size, antialias=True), transforms.CenterCrop(image_size)]
        if horizontal_flip:
            steps.append(transforms.RandomHorizontalFlip())
        self.transform: Callable[[Image.Image], Tensor] = transforms.Compose(
            [*steps, transforms.PILToTensor()]
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "channels height width"], int]:
        path, label = self.samples[index]
        return self.transform(self._decode(path)), label

    def verify(self) -> None:
        """Decode every file once, with a progress bar.

        Raises:
            DataError: Files cannot be decoded; names the first of them and says how many.
        """
        starts = range(0, len(self), CHUNK)
        console = Console(stderr=True)
        with ThreadPoolExecutor() as pool:
            found = pool.map(self._find_faults, starts)
            bar = track(found, "Verifying images", total=len(starts), console=console)
            faults = list(chain.from_iterable(bar))
        if faults:
            more = "; ..." if len(faults) > NUM_REPORTED else ""
            raise DataError(
                f"{len(faults)} of {len(self)} images cannot be used:"
                f" {'; '.join(faults[:NUM_REPORTED])}{more}. Replace or remove these files"
            )

    def _find_faults(self, start: int) -> list[str]:
        """What is wrong with the files of one chunk."""
        faults = []
        for path, _ in self.samples[start : start + CHUNK]:
            try:
                self._decode(path)
            except DataError as error:
                faults.append(str(error))
        return faults

    def _decode(self, path: str) -> Image.Image:
        """Decode a file into pixels of the wanted mode."""
        try:
            with Image.open(path) as image:
                # Pillow clips such pixels to 255 instead of scaling them
                if image.mode.startswith(("I", "F")):
                    raise DataError(f"mode {image.mode} has more than 8 bits: convert it to 8")
                return image.convert(self.mode)
        # decoders raise anything: OSError, SyntaxError, struct.error, zlib.error
        except Exception as error:
            raise DataError(f"{path} ({error})") from error
