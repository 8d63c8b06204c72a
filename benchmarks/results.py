"""What a benchmark found: to be shown, kept and read again."""

import json
import math
import os
import platform
import re
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from rich.table import Table

import tarflow
from benchmarks.roofline import Machine
from tarflow.sampling.plan import hardware

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_fp16")
"""What a processor may have that decides how fast it multiplies."""


class Timed:
    """One way to do something in one case, timed again and again; data classes add the fields."""

    mode: str
    batch_size: int
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
    def case(self) -> tuple[int, int, str]:
        """What is the same for all modes that are compared: length, batch size, precision."""
        raise NotImplementedError


@dataclass(frozen=True)
class Measurement(Timed):
    """One way to sample, in one case.

    Attributes:
        patch_size: Side of a patch.
        length: Number of patches T.
        batch_size: Number of samples.
        dtype: Precision in which transformers compute.
        mode: The way.
        first_seconds: Of the first batch, which prepares weights or compiles.
        seconds: Of each repetition after it, in order.
        floor_seconds: The least that the machine would need for the same passes.
        rms: Root mean square of the deviation from sequential samples in float64.
        maximum: Largest deviation.
        passes: Number of passes through a transformer, over all transforms.
        positions: Number of positions that they predicted.
        windows: Window of each transform, that nearest the noise first; 1 is sequential.
    """

    patch_size: int
    length: int
    batch_size: int
    dtype: str
    mode: str
    first_seconds: float
    seconds: list[float]
    floor_seconds: float
    rms: float
    maximum: float
    passes: int
    positions: int
    windows: list[int]

    @property
    def roofline(self) -> float:
        """The share of its time that the machine would need at best."""
        return self.floor_seconds / self.median

    @property
    def case(self) -> tuple[int, int, str]:
        return self.length, self.batch_size, self.dtype


M = TypeVar("M", bound=Timed)


@dataclass
class Report(Generic[M]):
    """All measurements of a run.

    Attributes:
        environment: Where and with what they were made.
        machine: What the device does at best.
        measurements: The measurements, grouped by case.
        notes: What was left out, and why.
    """

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

    @property
    def slug(self) -> str:
        """The device's name, fit for a file's."""
        plain = self.environment["hardware"].lower().replace("(r)", "")
        return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")

    def beside(self, measurement: M, mode: str) -> M:
        """What another mode did in the same case."""
        [other] = (
            each
            for each in self.measurements
            if each.case == measurement.case and each.mode == mode
        )
        return other

    def ratio(self, measurement: M) -> float:
        """How many times as fast as the baseline of the same case, by medians."""
        return self.beside(measurement, "baseline").median / measurement.median

    def to_dict(self) -> dict[str, Any]:
        """Everything, and the derived numbers with it."""
        rows = [
            asdict(each) | self.derived(each)  # pyright: ignore[reportArgumentType]
            for each in self.measurements
        ]
        content = {"environment": self.environment, "machine": asdict(self.machine)}
        return content | {"notes": self.notes, "measurements": rows}

    def derived(self, each: M) -> dict[str, float]:
        """Numbers that follow from a measurement and those beside it."""
        raise NotImplementedError

    def write(self, directory: Path) -> Path:
        """Write a file that is named after the device."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.prefix}-{self.slug}.json"
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n")
        return path

    def table(self) -> Table:
        """A row for each measurement."""
        table = Table(title=f"{self.title} on {self.environment['hardware']}")
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

    def cells(self, each: M) -> list[str]:
        """What a row of the table tells about a measurement."""
        raise NotImplementedError


@dataclass
class Results(Report[Measurement]):
    """How fast samples were drawn."""

    prefix = "sampling"
    title = "guided samples"
    columns = ("images/s", "ratio", "roofline", "RMS", "maximum", "passes", "windows")

    def break_even(self, measurement: Measurement) -> float:
        """Number of samples from which a mode takes less than sequential decoding in all.

        What the first batch takes longer than the others is the cost of the mode.
        """
        sequential = self.beside(measurement, "sequential")
        cost = measurement.first_seconds - measurement.median
        gain = sequential.median - measurement.median
        return measurement.batch_size * cost / gain if gain > 0 else math.inf

    def compilation(self) -> list[str]:
        """What compiling costs and gains, a line for each case."""
        lines = []
        for each in self.measurements:
            if each.mode == "compiled":
                samples, sequential = self.break_even(each), self.beside(each, "sequential")
                pays = f"pays after {samples:,.0f} samples" if samples < math.inf else "never pays"
                lines.append(
                    f"compiled, T = {each.length}, batch {each.batch_size}, {each.dtype}:"
                    f" first batch {each.first_seconds:.1f} s, others {each.median:.3g} s,"
                    f" sequential {sequential.median:.3g} s; {pays}"
                )
        return lines

    def derived(self, each: Measurement) -> dict[str, float]:
        return {
            "median_seconds": each.median,
            "images_per_second": each.images_per_second,
            "ratio_to_baseline": self.ratio(each),
            "roofline_fraction": each.roofline,
        }

    def cells(self, each: Measurement) -> list[str]:
        return [
            f"{each.images_per_second:.3g}",
            f"{self.ratio(each):.2f} x",
            f"{100 * each.roofline:.0f} %",
            f"{each.rms:.1e}",
            f"{each.maximum:.1e}",
            str(each.passes),
            " ".join(map(str, each.windows)),
        ]


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions, the device, what its processor can do, and how busy it is."""
    return {
        "hardware": hardware(device),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "cpu_flags": cpu_flags(),
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
