"""Plans: which decoder is the fastest for each transform, and where that was measured."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from tarflow.errors import CheckpointError
from tarflow.flows.decoding import DecodeOptions, Decoder, PerTransform, Sequential
from tarflow.flows.flow import Flow
from tarflow.flows.jacobi import Jacobi
from tarflow.machine.files import write_atomically
from tarflow.registry import KNOWN, Part

PLANS = "plans.json"
FORMAT = 1


@dataclass(frozen=True)
class Conditions:
    """What a plan holds for: elsewhere, another decoder may be the fastest.

    Attributes:
        hardware: The device, and on CPUs the number of threads.
        batch_size: Number of samples decoded at a time.
        guidance: The guidance, in words.
        dtype: Precision in which transformers compute.
        tolerance: The largest residual that was allowed.
        weights: Identifies the weights, where they were read from a file.
    """

    hardware: str
    batch_size: int
    guidance: str
    dtype: str
    tolerance: float
    weights: str = ""

    @classmethod
    def of(
        cls,
        flow: Flow,
        batch_size: int,
        options: DecodeOptions = DecodeOptions(),
        tolerance: float = 1e-3,
        weights: str = "",
    ) -> "Conditions":
        """The conditions of sampling from a flow, on the device that it is on."""
        anchor = flow.base.anchor
        precision = str(options.dtype or anchor.dtype).removeprefix("torch.")
        place = hardware(anchor.device)
        return cls(place, batch_size, repr(options.guidance), precision, tolerance, weights)

    def differences(self, other: "Conditions") -> list[str]:
        """What is not the same, in words: `batch_size 64, not 16`."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return [f"{name} {own}, not {theirs}" for name, own, theirs in pairs if own != theirs]


@dataclass(frozen=True)
class Measurement:
    """What decoding one transform in one way took.

    Attributes:
        depth: Number of transforms that are inverted before it.
        decoder: The way.
        seconds: Median time for the batch; infinite where it was given up as too slow.
        passes: Number of passes through the transformer.
        residual: Largest residual of an example.
    """

    depth: int
    decoder: Decoder
    seconds: float
    passes: int
    residual: float


@dataclass(frozen=True)
class Plan:
    """A decoder for each transform, and the measurements it was picked by.

    Attributes:
        conditions: What it holds for.
        decoder: The decoders.
        seconds: Median time of a whole batch with it.
        sequential_seconds: Median time of the same batch with sequential decoding.
        measurements: What was measured of single transforms.
    """

    conditions: Conditions
    decoder: PerTransform
    seconds: float
    sequential_seconds: float
    measurements: tuple[Measurement, ...] = ()

    def save(self, directory: Path | str) -> Path:
        """Add it to the plans of a pretrained folder, in place of one for the same conditions."""
        others = [p for p in read_plans(directory) if p.conditions != self.conditions]
        path = Path(directory) / PLANS
        content = {"format": FORMAT, "plans": [_encode(plan) for plan in (*others, self)]}
        write_atomically(path, json.dumps(content, indent=2) + "\n")
        return path


def read_plans(directory: Path | str) -> list[Plan]:
    """The plans of a pretrained folder; none, if it was not calibrated.

    Raises:
        CheckpointError: The file is damaged, or of a newer format.
    """
    path = Path(directory) / PLANS
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, not {FORMAT}")
        return [_decode(plan) for plan in content["plans"]]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error!r}): delete it, and run `tarflow calibrate` again"
        ) from error


def find_plan(plans: Sequence[Plan], conditions: Conditions) -> tuple[Plan | None, str]:
    """The plan for some conditions, and a sentence that tells what was found."""
    for plan in plans:
        if plan.conditions == conditions:
            ratio = plan.sequential_seconds / plan.seconds
            return plan, f"decoding by the calibrated plan: {ratio:.2f} x sequential when measured"
    hint = "decoding sequentially: run `tarflow calibrate` to find out what is fastest here"
    if not plans:
        return None, hint
    near = min((plan.conditions.differences(conditions) for plan in plans), key=len)
    return None, f"{hint} (the nearest plan is for {'; '.join(near)})"


@dataclass(frozen=True)
class Planned(Part):
    """The decoder of a fitting plan, where there is one; sequential decoding elsewhere.

    Attributes:
        tolerance: The tolerance that a plan must have been made for.
    """

    tolerance: float = 1e-3

    def __post_init__(self):
        Jacobi(1, self.tolerance)  # which checks it

    def choose(self, directory: Path | str, conditions: Conditions) -> tuple[Decoder, str]:
        """Look for a plan in a pretrained folder; also tells in a sentence what was found."""
        plan, message = find_plan(read_plans(directory), conditions)
        return (Sequential() if plan is None else plan.decoder), message


def hardware(device: torch.device) -> str:
    """Names a device so that timings of two devices of that name agree."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{_processor()}, {torch.get_num_threads()} threads"
    return f"{device.type}, {platform.machine()}"


def _processor() -> str:
    """The processor's name."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _encode(plan: Plan) -> dict[str, Any]:
    """Make a plan fit for JSON, which has no infinity."""
    return {
        "conditions": vars(plan.conditions),
        "decoders": [_encode_decoder(decoder) for decoder in plan.decoder.decoders],
        "seconds": plan.seconds,
        "sequential_seconds": plan.sequential_seconds,
        "measurements": [
            {
                **vars(m),
                "decoder": _encode_decoder(m.decoder),
                "seconds": m.seconds if m.seconds < torch.inf else None,
                "residual": m.residual if m.residual < torch.inf else None,
            }
            for m in plan.measurements
        ],
    }


def _encode_decoder(decoder: Decoder) -> dict[str, Any]:
    """A decoder's name and settings."""
    return {"type": type(decoder).__name__, **vars(decoder)}


def _decode(content: dict[str, Any]) -> Plan:
    """Undo `_encode`."""
    measurements = (
        {
            **m,
            "decoder": _decode_decoder(m["decoder"]),
            "seconds": torch.inf if m["seconds"] is None else m["seconds"],
            "residual": torch.inf if m["residual"] is None else m["residual"],
        }
        for m in content["measurements"]
    )
    return Plan(
        Conditions(**content["conditions"]),
        PerTransform(tuple(_decode_decoder(decoder) for decoder in content["decoders"])),
        content["seconds"],
        content["sequential_seconds"],
        tuple(Measurement(**m) for m in measurements),
    )


def _decode_decoder(content: dict[str, Any]) -> Decoder:
    """Undo `_encode_decoder`; nothing but registered decoders is ever constructed."""
    arguments = dict(content)
    kind = KNOWN[arguments.pop("type")]
    if not (isinstance(kind, type) and issubclass(kind, Decoder)):
        raise ValueError(f"{kind.__name__} is not a decoder")
    return kind(**arguments)
