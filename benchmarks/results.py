"""What a benchmark found: to be shown, kept and read again."""

import hashlib
import json
import math
import os
import platform
import re
import statistics
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from rich.table import Table

import tarflow
from benchmarks.roofline import Machine
from tarflow.machine.files import json_text, write_atomically
from tarflow.sampling.plan import hardware

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_fp16")
"""What a processor may have that decides how fast it multiplies."""
INSTRUCTIONS = {"amx_bf16": "amx", "avx512_bf16": "avx512_bf16", "avx512f": "avx512"}
"""What a set of flags is called, by the first of these that is among them."""
Key = tuple[int, int, str]
"""Length, batch size and precision."""


@dataclass(frozen=True)
class Timed:
    """One way to do something in one case, timed again and again.

    Attributes:
        patch_size: Side of a patch.
        length: Number of patches T.
        batch_size: Number of images.
        precision: In which transformers compute.
        mode: The way.
        first_seconds: Of the first time, which prepares weights or compiles.
        seconds: Of each repetition after it, in order.
    """

    patch_size: int
    length: int
    batch_size: int
    precision: str
    mode: str
    first_seconds: float
    seconds: list[float]

    @property
    def median(self) -> float:
        """Median seconds of a batch."""
        return statistics.median(self.seconds)

    @property
    def images_per_second(self) -> float:
        """At the median."""
        return self.batch_size / self.median

    @property
    def case(self) -> Key:
        """What is the same for all modes that are compared."""
        return self.length, self.batch_size, self.precision


M = TypeVar("M", bound=Timed)


@dataclass
class Report(ABC, Generic[M]):
    """All measurements of a run.

    Attributes:
        environment: Where and with what they were made.
        machine: What the device does at best.
        measurements: The measurements, grouped by case.
        notes: What was left out, and why.
    """

    row: ClassVar[type[Any]]
    """What a measurement is."""
    prefix: ClassVar[str]
    """What names of files begin with."""
    title: ClassVar[str]
    """What was done."""
    columns: ClassVar[tuple[str, ...]]
    """Names of what `cells` tells."""

    environment: dict[str, Any]
    machine: Machine
    measurements: list[M] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what was written."""
        content = json.loads(path.read_text())
        machine = Machine(
            {int(size): rate for size, rate in content["machine"]["bandwidth"].items()},
            content["machine"]["rate"],
        )
        rows = rows_of(cls.row, content["measurements"])
        return cls(content["environment"], machine, rows, content["notes"])

    @property
    def device(self) -> str:
        """The device in words, a processor with its instruction set: one name has several."""
        name = self.environment["hardware"].replace("(R)", "")
        flags = self.environment["cpu_flags"]
        if self.environment["device"] != "cpu" or not flags:
            return name
        known = (words for flag, words in INSTRUCTIONS.items() if flag in flags)
        return f"{name}, {next(known, flags[0])}"

    @property
    def slug(self) -> str:
        """The device, fit for a file's name."""
        return re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-")

    def has(self, keys: Sequence[Key]) -> bool:
        """Whether cases were measured, all of them."""
        return {*keys} <= {each.case for each in self.measurements}

    def forget(self, keys: Sequence[Key]) -> None:
        """Drop what was measured of cases, to measure them again."""
        self.measurements = [each for each in self.measurements if each.case not in keys]

    def beside(self, measurement: M, mode: str) -> M:
        """What another mode did in the same case."""
        [other] = (each for each in self.rows(mode) if each.case == measurement.case)
        return other

    def rows(self, mode: str) -> Iterator[M]:
        """The measurements of a mode."""
        return (each for each in self.measurements if each.mode == mode)

    def ratio(self, measurement: M) -> float:
        """How many times as fast as the baseline of the same case, by medians."""
        return self.beside(measurement, "baseline").median / measurement.median

    def ratio_to_best(self, measurement: M) -> float:
        """How many times as fast as the baseline in the precision in which that is fastest."""
        same = (b for b in self.rows("baseline") if b.case[:2] == measurement.case[:2])
        return min(each.median for each in same) / measurement.median

    def to_dict(self) -> dict[str, Any]:
        """Everything, and the derived numbers with it."""
        rows = [
            asdict(each) | self.derived(each)  # pyright: ignore[reportArgumentType]
            for each in self.measurements
        ]
        content = {"environment": self.environment, "machine": asdict(self.machine)}
        return content | {"notes": self.notes, "measurements": rows}

    def remarks(self) -> list[str]:
        """What is to be said of the measurements, a line for each."""
        return []

    @abstractmethod
    def derived(self, each: M) -> dict[str, float]:
        """Numbers that follow from a measurement and those beside it."""

    def write(self, directory: Path) -> Path:
        """Write a file that is named after the device."""
        directory.mkdir(parents=True, exist_ok=True)
        path = self.path(directory)
        write_atomically(path, json_text(self.to_dict(), indent=1))
        return path

    def path(self, directory: Path) -> Path:
        """The file's name."""
        return directory / f"{self.prefix}-{self.slug}.json"

    def table(self) -> Table:
        """A row for each measurement."""
        table = Table(title=f"{self.title} on {self.device}")
        for name in ("T", "batch", "precision", "mode"):
            table.add_column(name, no_wrap=True)
        for name in self.columns:
            table.add_column(name, justify="right", no_wrap=True)
        previous = None
        for each in self.measurements:
            if previous not in (None, each.case):
                table.add_section()
            case = ("", "", "") if each.case == previous else map(str, each.case)
            table.add_row(*case, each.mode, *self.cells(each))
            previous = each.case
        return table

    @abstractmethod
    def cells(self, each: M) -> list[str]:
        """What a row of the table tells about a measurement."""


def percent(share: float) -> str:
    """A share in words."""
    return f"{100 * share:.2g} %" if share < 1 else f"{share:.0%}".replace("%", " %")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions, the device, what its processor can do, and how busy it is."""
    return {
        "hardware": hardware(device),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "cpu_flags": cpu_flags(),
        "code": code(),
        "tarflow": tarflow.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def cpu_flags() -> list[str]:
    """The flags of this processor that decide how fast it multiplies; none where not known."""
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.is_file() else ""
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    present = set(found[1].split()) if found else set()
    return [flag for flag in FLAGS if flag in present]


def code() -> str:
    """Identifies the code of the package: what another one did is measured again."""
    digest = hashlib.sha256()
    for path in sorted(Path(tarflow.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def rows_of(kind: type[Any], rows: Sequence[dict[str, Any]]) -> list[Any]:
    """Rows as they were, without the numbers that were derived; null is infinite."""
    names = [each.name for each in fields(kind)]
    return [
        kind(**{name: math.inf if row[name] is None else row[name] for name in names})
        for row in rows
    ]
