"""Folders of pictures: in which part and class each picture is.

That follows from the names of folders, and from a `dataset.json` where there is one. The table in
`docs/data.md` has every layout.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tarflow.data.images import UNLABELLED
from tarflow.data.storage.listing import RUNS, Listing, summary
from tarflow.errors import DataError

NAMES_OF_PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
PARTS = {name: part for part, names in NAMES_OF_PARTS.items() for name in names}

TABLE = "dataset.json"
"""Tells the label of every picture, where folders do not: as EDM's and StyleGAN's tools write."""

OUTPUTS = ("outputs", "multirun", "lightning_logs")
"""Folders that runs are made in, which need not hold pictures."""

Samples = list[tuple[str, int]]
"""Path and label of each picture."""


@dataclass(frozen=True)
class PicturePart:
    """The pictures of a part.

    Attributes:
        folder: The folder of its classes.
        names: The path of each picture below that folder.
        labels: The label of each picture.
        class_names: The name of each class; none where folders are not classes.
    """

    folder: Path
    names: list[str]
    labels: list[int]
    class_names: tuple[str, ...] = ()

    @property
    def samples(self) -> Samples:
        """Path and label of each picture."""
        paths = (str(self.folder / name) for name in self.names)
        return list(zip(paths, self.labels, strict=True))


@dataclass(frozen=True)
class PictureFolder:
    """Finds the pictures below a folder; tells in a line on stderr what it found.

    Attributes:
        expected: What messages tell of the layout.
        parts: The parts that there are; all pictures are `train` where the folder is not divided.

    Raises:
        DataError: The folder is missing or of another layout.
    """

    folder: Path
    expected: str
    parts: dict[str, PicturePart] = field(init=False)

    def __post_init__(self):
        if not self.folder.is_dir():
            raise DataError(f"there is no folder {self.folder}: {self.expected}")
        listing = Listing(self.folder)
        left_out = summary(listing.left_out)
        if not listing.pictures:
            raise self._error(self.folder, f"holds no pictures, but {left_out or 'nothing'}")
        levels = self._levels(listing)
        parts = {part: self._part(listing, *level) for part, level in levels.items()}
        object.__setattr__(self, "parts", parts)
        self._check_same_classes()
        counts = ", ".join(f"{len(part.names):,} {name}" for name, part in self.parts.items())
        classes = f" in {len(self.class_names):,} classes" * bool(self.class_names)
        told = f"{self.folder}: {counts} pictures{classes}; left out: {left_out or 'nothing'}"
        print(told, file=sys.stderr)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, in natural order; none where folders are not classes."""
        return next(iter(self.parts.values())).class_names

    def _levels(self, listing: Listing) -> dict[str, tuple[Path, list[str]]]:
        """For each part, the folder of its classes and the paths of its pictures below it."""
        folder, names = _step_in(self.folder, listing.pictures)
        groups = _grouped(names)
        named = [name for name in groups if name.lower() in PARTS]
        deep = any("/" in path for name in named for path in groups[name])
        others = sorted(groups.keys() - set(named))
        # a folder "train" among others that holds pictures is a class: railways have one
        undivided = not named or (not deep and (len(named) == 1 or bool(others)))
        if undivided or _read_table(folder) is not None:
            return {"train": (folder, names)}
        if others:
            mixed = ", ".join(name or "pictures" for name in others)
            raise self._error(folder, f"holds {', '.join(named)} and, beside these, {mixed}")
        folders = self._by_part(folder, named)
        return {part: _step_in(folder / name, groups[name]) for part, name in folders.items()}

    def _by_part(self, folder: Path, named: list[str]) -> dict[str, str]:
        """The name of the folder of each part; refuses two of one, and missing ones."""
        found: dict[str, list[str]] = {part: [] for part in NAMES_OF_PARTS}
        for name in named:
            found[PARTS[name.lower()]].append(name)
        for part, names in found.items():
            if len(names) > 1:
                raise self._error(folder, f"holds {' and '.join(sorted(names))}, both {part}")
        held = ", ".join(named)
        if not found["train"]:
            raise self._error(folder, f"holds {held} but no train: name the images to fit train")
        if not found["test"]:
            [train] = found["train"]
            raise self._error(
                folder,
                f"holds {held} but not test: name the images to report on test, or pass"
                f" {folder / train} to have them taken out of it",
            )
        return {part: names[0] for part, names in found.items() if names}

    def _part(self, listing: Listing, folder: Path, names: list[str]) -> PicturePart:
        """Find the label of each picture."""
        if (table := _read_table(folder)) is not None:
            return self._of_table(folder, names, table)
        groups = _grouped(names)
        if list(groups) == [""]:
            return PicturePart(folder, names, [UNLABELLED] * len(names))
        self._check_classes(listing, folder, groups)
        classes = tuple(sorted(groups, key=natural))
        ordered = [f"{name}/{path}" for name in classes for path in groups[name]]
        labels = [label for label, name in enumerate(classes) for _ in groups[name]]
        return PicturePart(folder, ordered, labels, classes)

    def _of_table(self, folder: Path, names: list[str], table: dict[str, int]) -> PicturePart:
        """Look the label of each picture up."""
        if not table:
            return PicturePart(folder, names, [UNLABELLED] * len(names))
        missing = [name for name in names if name not in table]
        if missing:
            raise DataError(
                f"{folder / TABLE} has no label for {len(missing)} of {len(names)} pictures, such"
                f" as {missing[0]}: add them to its labels, or move the pictures elsewhere"
            )
        return PicturePart(folder, names, [table[name] for name in names])

    def _check_classes(self, listing: Listing, folder: Path, groups: dict[str, list[str]]) -> None:
        """Refuse classes beside loose pictures, classes without pictures, and parts in classes."""
        if "" in groups:
            loose = f"{len(groups['']):,}, such as {groups[''][0]}"
            raise self._error(
                folder,
                f"holds pictures ({loose}) beside the folders of classes: move them into one, or"
                " elsewhere",
            )
        inside = folder.relative_to(self.folder)
        below = (path for path in map(Path, listing.folders) if path.parent == inside)
        empty = [p.name for p in below if p.name not in groups and not _of_runs(listing, p)]
        if empty:
            listed = ", ".join(sorted(empty))
            message = f"holds no pictures of the classes {listed}: add some, or move these folders"
            raise self._error(folder, message)
        for name, paths in groups.items():
            parts = {PARTS.get(below.lower()) for below in _grouped(paths)}
            if {"train", "test"} <= parts:
                raise self._error(folder / name, "holds the parts of a class: exchange them")

    def _check_same_classes(self) -> None:
        """Refuse parts that differ in their classes."""
        train = self.parts["train"]
        for part in self.parts.values():
            differing = sorted(set(part.class_names).symmetric_difference(train.class_names))
            if differing:
                raise DataError(
                    f"{part.folder} and {train.folder} differ in the classes"
                    f" {', '.join(differing)}: every part needs a folder for every class"
                )

    def _error(self, folder: Path, problem: str) -> DataError:
        """Tells what was found and what is expected."""
        return DataError(f"{folder} {problem}; {self.expected}")


def natural(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """Sorts names as people do: numbers in them by their value.

    Example:
        >>> sorted(["10", "9", "cat", "a10", "a9"], key=natural)
        ['9', '10', 'a9', 'a10', 'cat']
    """
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part], name


def _step_in(folder: Path, names: list[str]) -> tuple[Path, list[str]]:
    """Go through folders that hold nothing but one folder, which holds folders in turn."""
    while _read_table(folder) is None:
        groups = _grouped(names)
        [(name, inside), *others] = groups.items()
        if others or not name or name.lower() in PARTS or "" in _grouped(inside):
            break
        folder, names = folder / name, inside
    return folder, names


def _grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Paths below each folder by its name; those that are in none by an empty one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        first, slash, rest = name.partition("/")
        groups[first if slash else ""].append(rest if slash else name)
    return groups


def _of_runs(listing: Listing, folder: Path) -> bool:
    """Whether a folder without pictures is where runs are."""
    made = (Path(path) for path in listing.left_out[RUNS])
    return folder.name in OUTPUTS or any(path.is_relative_to(folder) for path in made)


def _read_table(folder: Path) -> dict[str, int] | None:
    """The label of each path that a folder's table lists; empty where pictures have no labels."""
    path = folder / TABLE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or "labels" not in content:
            return None  # of something else
        table = {str(name).replace("\\", "/"): label for name, label in content["labels"] or ()}
        if not all(type(label) is int and label >= 0 for label in table.values()):
            raise ValueError("labels are integers from 0")
        return table
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f'{path} cannot be read ({error}): expected is {{"labels": [["00000/0.png", 3],'
            ' ...]}, or {"labels": null}'
        ) from error
