"""The official .npz batches of downsampled ImageNet (arXiv 1707.08819)."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.lib import format as npy
from torch import Tensor

from tarflow.data.images import LabelledImages
from tarflow.data.storage.array_files import load_arrays
from tarflow.errors import DataError

NUM_CHANNELS = 3
NUM_CLASSES = 1000
LOCAL_HEADER = struct.Struct("<26xHH")
"""The end of a zip member's own header: the lengths of its name and of an extra field."""


class NpzBatches(LabelledImages):
    """Images in files with arrays `data` (number, 3 * side * side) and `labels` from 1.

    Members that are not compressed are mapped to memory. Compressed ones are read a file at a
    time, hence in order only, as `tarflow prepare` reads but training does not. Labels, from 0,
    are in the order of the authors of the files: not that of sorted WordNet names as of folders.
    """

    def __init__(self, paths: list[Path], side: int):
        labels = [_read_labels(path, NUM_CHANNELS * side**2) for path in paths]
        super().__init__(np.concatenate(labels))
        self.paths = paths
        self.side = side
        self.starts = np.cumsum([0, *map(len, labels)])
        self._opened: dict[int, np.ndarray] = {}

    def image(self, index: int) -> UInt8[Tensor, "channels height width"]:
        file = int(np.searchsorted(self.starts, index, side="right")) - 1
        row = np.array(self._open(file)[index - self.starts[file]])
        return torch.from_numpy(row).view(NUM_CHANNELS, self.side, self.side)

    def __getstate__(self) -> dict:
        """Files stay behind; whoever gets a copy opens them again."""
        return {**self.__dict__, "_opened": {}}

    def _open(self, file: int) -> np.ndarray:
        """The images of a file."""
        if file not in self._opened:
            images = map_member(self.paths[file], "data")
            if images is None:
                if file < max(self._opened, default=0):
                    raise DataError(
                        f"{self.paths[file]} is compressed, so that its images can be read in"
                        " order only: convert the batches once with tarflow prepare"
                    )
                self._opened.clear()  # room for the next one
                images = load_arrays(self.paths[file])["data"]
            self._opened[file] = images
        return self._opened[file]


def map_member(path: Path, name: str) -> np.ndarray | None:
    """Map an array of an .npz file to memory; None where it is compressed."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with path.open("rb") as file:
        file.seek(member.header_offset)
        lengths = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        file.seek(sum(lengths), 1)
        shape, dtype = _read_header(file)
        return np.memmap(path, dtype, "r", file.tell(), shape)


def _read_header(file) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array that is stored row by row."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, fortran_order, dtype = readers[npy.read_magic(file)](file)
    if fortran_order:
        raise ValueError("its arrays are stored column by column")
    return shape, dtype


def _read_labels(path: Path, num_pixels: int) -> np.ndarray:
    """Read the labels of a file, and check its arrays."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("data.npy") as file:
            shape, dtype = _read_header(file)
        with np.load(path, allow_pickle=False) as arrays:
            labels = arrays["labels"].reshape(-1).astype(np.int64)
    # a damaged archive shows in many ways
    except Exception as error:
        raise DataError(
            f"{path} cannot be read ({error!r}): expected are the arrays data and labels of an"
            " official batch; download it again"
        ) from error
    if not len(labels) or shape != (len(labels), num_pixels) or dtype != np.uint8:
        raise DataError(
            f"{path} holds {len(labels)} labels and data of shape {shape} and type {dtype}:"
            f" expected is a row of {num_pixels} bytes for each label"
        )
    if labels.min() < 1 or labels.max() > NUM_CLASSES:
        raise DataError(
            f"the labels of {path} go from {labels.min()} to {labels.max()}: expected are"
            f" 1 ... {NUM_CLASSES}"
        )
    return labels - 1
