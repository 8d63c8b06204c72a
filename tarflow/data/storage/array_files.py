"""NumPy's files, .npz and .npy, and the names of the arrays in them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from numpy.lib.npyio import NpzFile

from tarflow.errors import DataError


def load_arrays(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Read the arrays of a file by name; the one of a .npy file, `images`, stays on disk."""
    if not path.is_file() or path.suffix not in (".npz", ".npy"):
        problem = f"{path} is neither" if path.is_file() else f"there is no file {path}"
        raise DataError(f"{problem}: pass the path of a .npz or .npy file")
    try:
        if path.suffix == ".npy":
            # copy-on-write: torch has no read-only tensors, yet the file must never change
            return {"images": np.lib.format.open_memmap(path, mode="c")}
        # numpy.load leaves the file open when the archive is damaged
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):
                raise ValueError("it holds files that are not arrays")
            return arrays
    except Exception as error:  # a damaged header or archive shows in many ways
        raise DataError(
            f"cannot read {path}: {error}. Save arrays of integers with numpy.savez or numpy.save;"
            " Python objects are never loaded, as that could run code"
        ) from error


def find_parts(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Tell what the names of the arrays of each part of a file begin with.

    Example:
        >>> find_parts(Path("cats.npz"), ["images", "labels"])
        {'train': ''}
        >>> find_parts(Path("cats.npz"), ["test_images", "train_images"])
        {'train': 'train_', 'test': 'test_'}
    """
    found = set(names)
    parts = ("train", "test", "val") if "val_images" in found else ("train", "test")
    beginnings = {"train": ""} if "images" in found else {part: f"{part}_" for part in parts}
    images = {f"{beginning}images" for beginning in beginnings.values()}
    labels = {f"{beginning}labels" for beginning in beginnings.values()}
    if found not in (images, images | labels):
        listed = ", ".join(sorted(found)) or "none"
        raise DataError(
            f"{path} holds the arrays {listed}; wanted are images (and labels), or train_images"
            " and test_images (and val_images), with labels for all of them or for none"
        )
    return beginnings
