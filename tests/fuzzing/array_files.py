"""NumPy files that hold something else than images and labels."""

import io
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tarflow.data import Arrays, arrays, memory_mapped, prepare
from tarflow.data.storage.npz_batches import NpzBatches
from tests.fuzzing.judging import BadInput

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(60) % 3


def bad_inputs() -> Iterator[BadInput]:
    """All of them."""
    yield from images()
    yield from labels()
    yield from names()
    yield from damaged()
    yield from arguments()
    yield from batches()
    yield from prepared()


def read(folder: Path, content: dict[str, Any], **options: Any) -> None:
    """Write an .npz and read it."""
    np.savez(folder / "bad.npz", **content)  # pyright: ignore[reportArgumentType]
    arrays(folder / "bad.npz", **options)


def archive(name: str, causes: tuple[str, ...], accepted: Any = False, **content: Any) -> BadInput:
    """The reading of some arrays."""
    return BadInput(name, partial(read, content=content), causes, accepted)


def images() -> Iterator[BadInput]:
    """Arrays that are not images; as .npz and as .npy."""
    wrong: dict[str, tuple[Any, tuple[str, ...]]] = {
        "objects": (np.array([[1], [1, 2]], object), ("Python objects",)),
        "dictionaries": (np.array([{"a": 1}]), ("Python objects",)),
        "text": (np.array(["a", "b"]), ("<U1",)),
        "bytes": (np.array([b"a", b"b"]), ("|S1",)),
        "dates": (np.zeros(3, "datetime64[s]"), ("datetime64",)),
        "truth values": (IMAGES > 3, ("bool",)),
        "complex": (IMAGES.astype(complex), ("complex128",)),
        "records": (np.zeros(3, [("a", "u1")]), ("('a'",)),
        "halves": (IMAGES.astype(np.float16), ("float16",)),
        "scaled": (IMAGES / 255, ("float64",)),
        "whole floats": (IMAGES.astype(np.float32), ("float32",)),
        "NaN": (np.full((60, 6, 5, 3), np.nan), ("float64",)),
        "infinite": (np.full((60, 6, 5, 3), np.inf), ("float64",)),
        "negative": (IMAGES.astype(int) - 1, ("-1",)),
        "very negative": (IMAGES.astype(int) - 2**60, (str(-(2**60)),)),
        "too bright": (IMAGES.astype(np.uint16) + 1, ("256",)),
        "16 bits": (IMAGES.astype(np.uint16) * 257, ("65535",)),
        "large numbers": (IMAGES.astype(np.uint64) + np.uint64(2**63), (str(2**63),)),
    }
    shapes = [(), (12,), (12, 4), (12, 4, 4, 3, 1), (0, 4, 4, 3), (12, 0, 4, 3), (12, 4, 4, 0)]
    for shape in [*shapes, (12, 4, 4, 3), (12, 5, 5, 5), (12, 3, 4, 3), (1, 6, 5, 3)]:
        array = np.zeros(shape, np.uint8)
        wrong[f"shape {shape}"] = (array, (str(shape), "1 image", "has 1", "split"))
    for name, (array, causes) in wrong.items():
        yield archive(f"images, {name}", causes, images=array)
        yield BadInput(f".npy, {name}", partial(_read_npy, array=array), causes)
    yield archive("images of columns", (), True, images=np.asfortranarray(IMAGES))
    yield archive("big-endian images", (), True, images=IMAGES.astype(">i4"))


def _read_npy(folder: Path, array: np.ndarray) -> None:
    """Write a .npy and read it."""
    np.save(folder / "bad.npy", array)
    arrays(folder / "bad.npy")


def labels() -> Iterator[BadInput]:
    """Labels that do not fit."""
    wrong: dict[str, tuple[Any, tuple[str, ...]]] = {
        "too few": (LABELS[:5], ("(5,)",)),
        "too many": (np.arange(61), ("(61,)",)),
        "none": (LABELS[:0], ("(0,)",)),
        "one for all": (np.array(3), ("()",)),
        "one-hot": (np.eye(60, dtype=int), ("(60, 60)",)),
        "turned": (LABELS[None], ("(1, 60)",)),
        "floats": (LABELS.astype(float), ("float64",)),
        "NaN": (np.full(60, np.nan), ("float64",)),
        "negative": (LABELS - 1, ("-1",)),
        "text": (np.array(["cat"] * 60), ("<U3",)),
        "objects": (np.array([None] * 60), ("Python objects",)),
        "truth values": (LABELS > 1, ("bool",)),
        "all different": (np.arange(60), ("class 0 has 1",)),
        "huge": (LABELS + 2**62, ("labels",)),
        "beyond": (LABELS.astype(np.uint64) + np.uint64(2**63), ("labels",)),
    }
    for name, (array, causes) in wrong.items():
        yield archive(f"labels, {name}", causes, images=IMAGES, labels=array)
    for parts in ("train", "test"):
        content = {f"{part}_images": IMAGES for part in ("train", "test")}
        content |= {f"{part}_labels": LABELS for part in ("train", "test")}
        content[f"{parts}_labels"] = LABELS[:3]
        yield archive(f"{parts} labels, too few", (f"{parts}_labels",), **content)
        content[f"{parts}_labels"], content[f"{parts}_images"] = LABELS, IMAGES[:, :5]
        yield archive(f"{parts} images, smaller", ("differ",), None, **content)


def names() -> Iterator[BadInput]:
    """Arrays of other names."""
    for keys in (
        (),
        ("labels",),
        ("x", "y"),
        ("image",),
        ("Images",),
        ("images", "label"),
        ("images", "labels", "more"),
        ("train_images",),
        ("test_images",),
        ("train_images", "test_labels"),
        ("train_images", "test_images", "train_labels"),
        ("train_images", "val_images"),
    ):
        content = {key: LABELS if "label" in key else IMAGES for key in keys}
        yield archive(f"the arrays {keys}", ("holds the arrays",), **content)


def damaged() -> Iterator[BadInput]:
    """Files that are cut off, changed, or of another format."""
    files: dict[str, bytes] = {}
    for kind in ("npz", "npy"):
        file = io.BytesIO()
        if kind == "npz":
            np.savez(file, images=IMAGES, labels=LABELS)
        else:
            np.save(file, IMAGES)
        files[kind] = file.getvalue()
    for kind, content in files.items():
        for share in (0, 0.01, 0.1, 0.5, 0.9, 0.99):
            part = content[: int(share * len(content))]
            yield _file(f"{share} of an .{kind}", f"bad.{kind}", part)
        for seed in range(15):
            chance, changed = random.Random(seed), bytearray(content)
            for _ in range(2):
                changed[chance.randrange(min(400, len(content)))] ^= 1 << chance.randrange(8)
            yield _file(f"bits {seed} of an .{kind}", f"bad.{kind}", bytes(changed), None)
        for what, other in {"text": b"text", "zeros": bytes(99)}.items():
            yield _file(f"{what} in an .{kind}", f"bad.{kind}", other)
    yield _file("an .npy as .npz", "bad.npz", files["npy"])
    yield _file("an .npz as .npy", "bad.npy", files["npz"])
    for name in ("bad.txt", "bad", "bad.NPZ", "bad.csv"):
        yield _file(f"another suffix: {name}", name, files["npz"])
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }"
    for shape in (b"10**9,", b"1000000000000, 4, 4,", b"-1, 4, 4,", b"'a',"):
        text = (header % shape).ljust(117) + b"\n"
        content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)
        yield _file(f"the shape {shape.decode()}", "bad.npy", content)


def _file(name: str, file: str, content: bytes, accepted: Any = False) -> BadInput:
    """The reading of a file."""

    def attempt(folder: Path) -> None:
        (folder / file).write_bytes(content)
        arrays(folder / file)

    return BadInput(name, attempt, (file, "images", "labels", "class"), accepted)


def arguments() -> Iterator[BadInput]:
    """Arguments of `arrays`, and paths."""
    wrong: dict[str, tuple[Any, ...]] = {
        "levels": (0, 1, 257, -3, 1.5, "256", None, 17),
        "num_classes": (1, 2, -1, 1.5, "3"),
        "num_channels": (1, 4, 0, "3"),
        "channels_last": (False,),
        "validation_fraction": (-0.1, 1, 2, float("nan"), "a", None, 0.999),
        "test_fraction": (-0.1, 0, 1, 2, float("nan"), "a", None, 0.999),
    }
    content = {"images": IMAGES, "labels": LABELS}
    for name, values in wrong.items():
        for value in values:
            attempt = partial(read, content=content, **{name: value})
            fit = (name, value) == ("channels_last", False)
            yield BadInput(
                f"arrays, {name} {value!r}", attempt, (name, "levels", "too small"), fit
            )
    for path in ("nowhere.npz", "", ".", "/"):
        yield BadInput(f"the path {path!r}", lambda _, p=path: arrays(p), (".npz or .npy",))


def batches() -> Iterator[BadInput]:
    """The official batches of ImageNet."""
    data = np.zeros((60, 3 * 6 * 6), np.uint8)
    wrong: dict[str, dict[str, Any]] = {
        "no labels": {"data": data},
        "no data": {"labels": LABELS + 1},
        "nothing": {},
        "labels from 0": {"data": data, "labels": LABELS},
        "labels over 1000": {"data": data, "labels": LABELS + 999},
        "too few labels": {"data": data, "labels": LABELS[:4] + 1},
        "another size": {"data": data[:, :5], "labels": LABELS + 1},
        "floats": {"data": data / 255, "labels": LABELS + 1},
        "objects": {"data": data, "labels": np.array([None] * 60)},
        "objects as data": {"data": np.array([None] * 60), "labels": LABELS + 1},
        "columns": {"data": np.asfortranarray(data), "labels": LABELS + 1},
        "empty": {"data": data[:0], "labels": LABELS[:0]},
        "text": {"data": data, "labels": np.array(["a"] * 60)},
    }
    for name, content in wrong.items():

        def attempt(folder: Path, content=content) -> None:
            np.savez(folder / "bad.npz", **content)
            NpzBatches([folder / "bad.npz"], 6)

        yield BadInput(f"batches, {name}", attempt, ("bad.npz",))


def prepared() -> Iterator[BadInput]:
    """What `tarflow prepare` left, changed since."""

    def attempt(folder: Path, change: Callable[[Path], Any], **options: Any) -> None:
        np.savez(folder / "good.npz", images=IMAGES, labels=LABELS)
        data = arrays(folder / "good.npz", test_fraction=0.5)
        prepare(data, folder / "prepared", Arrays())
        change(folder / "prepared")
        memory_mapped(folder / "prepared", **options)

    def describe(folder: Path, key: str, value: Any) -> None:
        path = folder / "meta.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    for key in ("format", "levels", "num_classes", "image_shape", "class_names", "counts", "more"):
        for value in (None, "x", -1, [], {}, [1], {"train": 5, "test": "a"}, [3, 4, "a"]):
            # A text or object is read as a list of names; the format as arrays, unless shards.
            fit = None if key in ("class_names", "format") else False
            change = partial(describe, key=key, value=value)
            name = f"meta.json, {key}: {value!r}"
            yield BadInput(name, partial(attempt, change=change), ("prepared",), fit)
    for file in ("train_images.npy", "test_labels.npy", "meta.json"):
        changes: dict[str, Callable[[Path], Any]] = {
            "missing": lambda folder, f=file: (folder / f).unlink(),
            "empty": lambda folder, f=file: (folder / f).write_bytes(b""),
            "text": lambda folder, f=file: (folder / f).write_bytes(b"text" * 40),
            "cut off": lambda folder, f=file: (folder / f).write_bytes(
                (folder / f).read_bytes()[:-9]
            ),
        }
        for what, change in changes.items():
            yield BadInput(f"{file}, {what}", partial(attempt, change=change), ("prepared",))
    for value in (-0.1, 1, "a", None):
        change = partial(attempt, change=lambda folder: None, validation_fraction=value)
        fit = value is None
        name = f"memory_mapped, validation_fraction {value!r}"
        yield BadInput(name, change, ("validation_fraction",), fit)
