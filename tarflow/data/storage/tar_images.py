"""Images in WebDataset shards, tar files of images and labels, read at random.

The format is plain tar: every picture is an example, such as `000017.png`, and its label stands in
`000017.cls`. Names may have more dots: `0.left.png` takes the label of `0.left.cls`, or else that
of `0.cls`. The `webdataset` package streams shards in their order; a training
run here asks for any image at any time, so that its batches follow from the seed alone and it goes
on bitwise after a kill. So an index tells where in which shard each image lies.
"""

import contextlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from torch import Tensor

from tarflow.data.images import UNLABELLED, LabelledImages
from tarflow.data.storage.framing import Framing
from tarflow.data.storage.listing import KINDS, reason_against
from tarflow.errors import DataError
from tarflow.machine.files import write_atomically

MAX_OPEN = 64
EDGE = 65_536
LAYOUT = (
    "expected are WebDataset shards such as ROOT/train-000000.tar and ROOT/test-000000.tar, with"
    " NAME.png (or .jpg, ...) and perhaps NAME.cls, the number of its class, for each image. To"
    " make them: tarflow prepare data=NAME data.data.root=SOURCE format=shards output=ROOT"
)

COLUMNS = ("shard", "offset", "size", "label")
"""An index has a row for each image: its shard, by the order of names, where in it its file begins
and how long that is, in bytes, and its label."""

VERSION = 2
"""Of the index; raised when other files of a shard are taken for examples, or labels change."""

Index = Int64[np.ndarray, "num 4"]


class TarImages(LabelledImages):
    """Images in tar files, decoded as they are needed, where an index tells that they lie."""

    def __init__(self, shards: list[Path], index: Index, framing: Framing):
        super().__init__(index[:, 3])
        self.shards = shards
        self.places = index[:, :3]
        self.framing = framing
        self._open: dict[int, int] = {}

    def image(self, index: int) -> UInt8[Tensor, "channels height width"]:
        shard, offset, size = self.places[index].tolist()
        content = os.pread(self._file(shard), size, offset)
        return self.framing(io.BytesIO(content), f"{self.shards[shard]}, byte {offset}")

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
    """Read the shards whose names match a pattern."""
    shards = sorted(path for path in folder.glob(pattern or "*.tar") if path.is_file())
    if not pattern or not shards:
        raise DataError(f"there is no {folder / pattern}: {LAYOUT}")
    index = _read_index(folder / f".{re.sub('[^.a-zA-Z0-9-]', '_', pattern)}.index.npz", shards)
    if not len(index):
        raise DataError(f"{folder / pattern} holds no images: {LAYOUT}")
    return TarImages(shards, index, Framing(image_size, num_channels))


def _read_index(path: Path, shards: list[Path]) -> Index:
    """Read the index that lies beside shards; make it where there is none, or an old one."""
    state = np.array([_fingerprint(shard) for shard in shards], np.int64)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if arrays["version"] == VERSION and np.array_equal(arrays["state"], state):
                return np.stack([arrays[column] for column in COLUMNS], axis=1)
    except Exception:  # missing or damaged: it can be made again
        pass
    index = _make_index(shards)
    content = io.BytesIO()
    np.savez(content, version=VERSION, state=state, **dict(zip(COLUMNS, index.T, strict=True)))
    with contextlib.suppress(OSError):  # storage that is for reading only
        write_atomically(path, content.getvalue())
    return index


def _make_index(shards: list[Path]) -> Index:
    """Read all headers of some shards."""
    rows = [(i, *row) for i, path in enumerate(shards) for row in _read_headers(path)]
    index = np.array(rows, np.int64).reshape(-1, 4)
    missing = index[:, 3] == UNLABELLED
    if missing.any() and not missing.all():
        raise DataError(
            f"image {missing.argmax()} of {shards[0].parent} has no label, but others have:"
            f" {LAYOUT}"
        )
    return index


def _fingerprint(path: Path) -> tuple[int, int]:
    """Size of a file and checksum of its ends; unlike its date, copying does not change it."""
    with path.open("rb") as file:
        checksum = zlib.crc32(file.read(EDGE))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - EDGE))
        return size, zlib.crc32(file.read(EDGE), checksum)


def _read_headers(path: Path) -> Iterator[tuple[int, int, int]]:
    """Offset, size and label of each image of a shard, in order."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in filter(tarfile.TarInfo.isfile, archive):
                stem, extension = os.path.splitext(member.name)
                reason = reason_against(member.name.removeprefix("./"))
                if reason is None:
                    images[member.name] = (member.offset_data, member.size)
                elif reason == KINDS and extension.lower() == ".cls":
                    file = archive.extractfile(member)
                    labels[stem] = int(file.read()) if file else UNLABELLED
    except (tarfile.TarError, ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}): {LAYOUT}") from error
    for name, place in images.items():
        found = (labels[stem] for stem in _stems(name) if stem in labels)
        yield *place, next(found, UNLABELLED)


def _stems(path: str) -> Iterator[str]:
    """The path of a picture up to each dot of its name, from the last to the first."""
    folder, slash, name = path.rpartition("/")
    while "." in name:
        name = name.rpartition(".")[0]
        yield folder + slash + name
