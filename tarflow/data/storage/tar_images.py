"""Images in WebDataset shards, tar files of images and labels, read at random.

The format is plain tar: files that share a name up to its first dot make an example, such as
`000017.png` and `000017.cls`. The `webdataset` package streams shards in their order; a training
run here asks for any image at any time, so that its batches follow from the seed alone and it goes
on bitwise after a kill. So an index tells where in which shard each image lies, and reading and
writing them needs no package. The extra `webdataset` is for streaming the same shards elsewhere,
and a test reads what is written here with it.
"""

import contextlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from tarflow.data.images import UNLABELLED, Example, context_of
from tarflow.data.storage.framing import Framing
from tarflow.errors import DataError
from tarflow.machine.files import write_atomically

IMAGES = ("png", "jpg", "jpeg", "webp", "bmp", "ppm")
MAX_OPEN = 64
EDGE = 65_536
LAYOUT = (
    "expected are WebDataset shards such as ROOT/train-000000.tar and ROOT/test-000000.tar, with"
    " NAME.png (or .jpg, ...) and perhaps NAME.cls, the number of its class, for each image. To"
    " make them: tarflow prepare data=NAME data.data.root=SOURCE format=shards output=ROOT"
)


@dataclass(frozen=True)
class Index:
    """Where each image of some shards lies.

    Attributes:
        shard: Number of its shard, in the order of names.
        offset: Where its file begins in the shard, in bytes.
        size: Length of its file.
        label: Its label.
    """

    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    label: np.ndarray

    @classmethod
    def of(cls, shards: list[Path]) -> "Index":
        """Read all headers of some shards.

        Raises:
            DataError: A shard is damaged or of another format, or only some images have labels.
        """
        rows = [(i, *row) for i, path in enumerate(shards) for row in _read_headers(path)]
        index = cls(*np.array(rows, np.int64).reshape(-1, 4).T)
        if (index.label == UNLABELLED).any() and (index.label != UNLABELLED).any():
            missing = int(np.argmax(index.label == UNLABELLED))
            raise DataError(
                f"image {missing} of {shards[0].parent} has no label, but others have: {LAYOUT}"
            )
        return index

    @classmethod
    def cached(cls, folder: Path, pattern: str, shards: list[Path]) -> "Index":
        """Read the index that lies beside shards; make it where there is none, or an old one.

        Raises:
            DataError: As `of` does.
        """
        path = folder / f".{re.sub('[^.a-zA-Z0-9-]', '_', pattern)}.index.npz"
        state = np.array([_fingerprint(shard) for shard in shards], np.int64)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if np.array_equal(arrays["state"], state):
                    return cls(*(arrays[key] for key in ("shard", "offset", "size", "label")))
        except Exception:  # missing or damaged: it can be made again
            pass
        index = cls.of(shards)
        content = io.BytesIO()
        np.savez(content, state=state, **index.__dict__)
        with contextlib.suppress(OSError):  # storage that is for reading only
            write_atomically(path, content.getvalue())
        return index


class TarImages(Dataset):
    """Images in tar files, decoded as they are needed.

    Args:
        shards: The tar files.
        index: Where the images lie.
        framing: Brings them to one shape.
    """

    def __init__(self, shards: list[Path], index: Index, framing: Framing):
        self.shards = shards
        self.index = index
        self.framing = framing
        self._open: dict[int, int] = {}

    @property
    def labels(self) -> np.ndarray:
        """The label of each image."""
        return self.index.label

    def __len__(self) -> int:
        return len(self.index.label)

    def __getitem__(self, index: int) -> Example:
        shard, offset, size = (
            int(array[index]) for array in (self.index.shard, self.index.offset, self.index.size)
        )
        content = os.pread(self._file(shard), size, offset)
        image = self.framing(io.BytesIO(content), f"{self.shards[shard]}, byte {offset}")
        label = int(self.index.label[index])
        return image, context_of(label, label != UNLABELLED)

    def __getstate__(self) -> dict:
        """Files stay behind; whoever gets a copy opens them again."""
        return {**self.__dict__, "_open": {}}

    def __del__(self):
        self._close()

    def _file(self, shard: int) -> int:
        """Descriptor of a shard; reading at a position leaves it shareable between processes."""
        if shard not in self._open:
            if len(self._open) >= MAX_OPEN:
                self._close()
            self._open[shard] = os.open(self.shards[shard], os.O_RDONLY)
        return self._open[shard]

    def _close(self) -> None:
        """Close all files."""
        for descriptor in self.__dict__.get("_open", {}).values():
            os.close(descriptor)
        self._open = {}


def read_part(folder: Path, pattern: str, image_size: int | None, num_channels: int) -> TarImages:
    """Read the shards whose names match a pattern.

    Raises:
        DataError: Shards are missing, damaged or of another layout.
    """
    shards = sorted(path for path in folder.glob(pattern or "*.tar") if path.is_file())
    if not pattern or not shards:
        raise DataError(f"there is no {folder / pattern}: {LAYOUT}")
    index = Index.cached(folder, pattern, shards)
    if not len(index.label):
        raise DataError(f"{folder / pattern} holds no images: {LAYOUT}")
    return TarImages(shards, index, Framing(image_size, num_channels))


def _fingerprint(path: Path) -> tuple[int, int]:
    """Size of a file and checksum of its ends; unlike its date, copying does not change it."""
    with path.open("rb") as file:
        checksum = zlib.crc32(file.read(EDGE))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - EDGE))
        return size, zlib.crc32(file.read(EDGE), checksum)


def _read_headers(path: Path) -> Iterator[tuple[int, int, int]]:
    """Offset, size and label of each image of a shard, in order."""
    examples: dict[str, tuple[int, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                key, _, extension = name.partition(".")
                kind = extension.lower().rpartition(".")[2]
                if kind in IMAGES:
                    examples[f"{folder}/{key}"] = (member.offset_data, member.size, UNLABELLED)
                elif kind == "cls":
                    file = archive.extractfile(member)
                    labels[f"{folder}/{key}"] = int(file.read()) if file else UNLABELLED
    except (tarfile.TarError, ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}): {LAYOUT}") from error
    for key, (offset, size, label) in examples.items():
        yield offset, size, labels.get(key, label)
