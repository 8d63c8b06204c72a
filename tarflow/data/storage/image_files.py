"""Images decoded from files as they are needed."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import track
from torch import Tensor

from tarflow.data.images import LabelledImages
from tarflow.data.storage.framing import Framing
from tarflow.data.storage.picture_folder import Samples
from tarflow.errors import DataError

CHUNK = 64
NUM_REPORTED = 5


class ImageFiles(LabelledImages):
    """Images brought to one size; the arguments are those of `Framing`, and their samples."""

    def __init__(self, samples: Samples, image_size: int | None, num_channels: int = 3):
        super().__init__(np.array([label for _, label in samples], np.int64))
        self.paths = [path for path, _ in samples]
        self.framing = Framing(image_size, num_channels)

    def image(self, index: int) -> UInt8[Tensor, "channels height width"]:
        return self.framing(self.paths[index], self.paths[index])

    def verify(self) -> None:
        """Decode every file once, with a progress bar, and refuse those that cannot be."""
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
        for path in self.paths[start : start + CHUNK]:
            try:
                self.framing.decode(path, path)
            except DataError as error:
                faults.append(str(error))
        return faults
