"""Shards: files of consecutive samples, side by side in a folder."""

import io
import os
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tarflow.errors import DataError
from tarflow.machine.files import write_atomically

NAME = re.compile(r"(\d{6,})-(\d{6,})\.npz")


@dataclass(frozen=True)
class SampleShards:
    """Samples on disk; whoever is killed while writing leaves every shard whole or absent.

    A shard is an .npz of arrays with a row per sample, among them `indices`; its name tells the
    first and the last of these. Shards of any length may lie side by side, and overlap.
    """

    directory: Path

    def path(self, indices: range) -> Path:
        """The file of some samples."""
        return self.directory / f"{indices.start:06d}-{indices.stop - 1:06d}.npz"

    def found(self) -> list[range]:
        """The indices of every shard, in order."""
        if not self.directory.is_dir():
            return []
        matches = (NAME.fullmatch(name) for name in os.listdir(self.directory))
        ranges = [range(int(match[1]), int(match[2]) + 1) for match in matches if match]
        return sorted(ranges, key=lambda indices: (indices.start, -indices.stop))

    def missing(self, indices: range) -> list[range]:
        """The parts of some indices that no shard holds."""
        start, gaps = indices.start, []
        for held in self.found():
            gaps.append(range(start, min(held.start, indices.stop)))
            start = max(start, held.stop)
        return [gap for gap in [*gaps, range(start, indices.stop)] if len(gap)]

    def count(self, indices: range) -> int:
        """How many of some indices the shards hold."""
        return len(indices) - sum(len(gap) for gap in self.missing(indices))

    def write(self, indices: range, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a shard: arrays with a row for each of the samples."""
        content = io.BytesIO()
        contents: dict[str, Any] = {"indices": np.array(indices), **arrays}
        # The names too: a damaged directory of an .npz may lose arrays without a word.
        np.savez(content, names=np.array(list(contents)), **contents)
        write_atomically(self.path(indices), content.getvalue())

    def read(self, indices: range) -> Iterator[dict[str, np.ndarray]]:
        """Read the samples of some indices in order, a shard at a time.

        Raises:
            DataError: A shard is damaged, or one is missing.
        """
        start = indices.start
        for held in self.found():
            if held.start > start or start >= indices.stop:
                break
            if held.stop > start:
                rows = slice(start - held.start, indices.stop - held.start)
                yield {name: array[rows] for name, array in self.load(held).items()}
                start = held.stop
        if start < indices.stop:
            raise DataError(f"{self.directory} lacks sample {start}: run the same command again")

    def load(self, indices: range) -> dict[str, np.ndarray]:
        """Read a whole shard, or raise a `DataError` that tells how it is damaged."""
        path = self.path(indices)
        content = io.BytesIO(path.read_bytes())
        try:
            with zipfile.ZipFile(content) as archive:
                damaged = archive.testzip()  # compares every checksum, those of headers too
            if damaged is not None:
                raise ValueError(f"wrong checksum of {damaged}")
            content.seek(0)
            with np.load(content, allow_pickle=False) as found:
                arrays = {str(name): found[str(name)] for name in found["names"]}
            if arrays["indices"].tolist() != list(indices):
                raise ValueError("it holds other samples than its name says")
            if any(len(array) != len(indices) for array in arrays.values()):
                raise ValueError("its arrays differ in length")
        except Exception as error:  # damage shows in many ways, and none of them is documented
            raise DataError(
                f"{path} is damaged ({error}): run the same command again, which draws it anew"
            ) from error
        return arrays

    def remove_damaged(self, indices: range) -> Path | None:
        """Remove a shard if it is damaged, and return its path then."""
        with suppress(FileNotFoundError):  # another process removed it
            try:
                self.load(indices)
            except DataError:
                self.path(indices).unlink()
                return self.path(indices)
        return None

    def remove(self) -> None:
        """Remove every shard."""
        for indices in self.found():
            self.path(indices).unlink(missing_ok=True)


def join(
    parts: Iterable[Mapping[str, np.ndarray]], names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of some names, by default all, of consecutive parts, each in one piece."""
    kept = [{name: part[name] for name in names or part} for part in parts]
    return {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
