"""Plans: which decoder is the fastest for each transform, and where that was measured."""

import json
import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tarflow.errors import CheckpointError
from tarflow.flows.decoding import DecodeOptions, Decoder, PerTransform, Sequential
from tarflow.flows.flow import Flow
from tarflow.flows.jacobi import Jacobi
from tarflow.machine.files import json_text, write_atomically
from tarflow.nn.precisions import Precision
from tarflow.registry import KNOWN, Part

PLANS = "plans.json"
FORMATS = (1, 2)
"""Those that are read; the second, written where a precision was chosen, has more in it."""

LATER = ("accepted", "trials", "precision")
"""Fields that the first format lacks."""


@dataclass(frozen=True)
class Conditions:
    """What a plan holds for: elsewhere, another decoder may be the fastest.

    Attributes:
        hardware: The device, and on CPUs the number of threads.
        batch_size: Number of samples decoded at a time.
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
        anchor, networks = flow.base.anchor, options.networks
        told = options.dtype if networks is None else networks.dtype
        precision = str(Precision.of(anchor.dtype if told is None else told))
        place = hardware(anchor.device)
        return cls(place, batch_size, repr(options.guidance), precision, tolerance, weights)

    def differences(self, other: "Conditions") -> list[str]:
        """What is not the same, in words: `batch_size 64, not 16`."""
        pairs = zip(vars(self).items(), vars(other).values(), strict=True)
        return [f"{name} {own}, not {theirs}" for (name, own), theirs in pairs if own != theirs]


@dataclass(frozen=True)
class Measurement:
    """What decoding one transform in one way took.

    Attributes:
        depth: Number of transforms that are inverted before it.
        seconds: Median time for the batch; infinite where it was given up as too slow.
        passes: Number of passes through the transformer.
        residual: The largest of all examples.
        precision: What was computed in, where that is not the plan's.
    """

    depth: int
    decoder: Decoder
    seconds: float
    passes: int
    residual: float
    precision: str = ""


@dataclass(frozen=True)
class Trial:
    """What decoding whole samples in one way took, and what came out.

    Attributes:
        precision: The name of that.
        seconds: Median time for a batch.
        deviation: Root mean square distance from exact samples, in units of the data.
    """

    precision: str
    decoder: PerTransform
    seconds: float
    deviation: float


@dataclass(frozen=True)
class Plan:
    """A decoder for each transform, and the measurements it was picked by.

    Attributes:
        conditions: What it holds for.
        seconds: Median time of a whole batch with it.
        sequential_seconds: Median time of the same batch with sequential decoding; where the
            precision was chosen, in the exact one.
        measurements: What was measured of single transforms.
        accepted: The deviation of samples by which the precision was chosen, if it was.
        trials: The ways to choose from, the exact one first.
    """

    conditions: Conditions
    decoder: PerTransform
    seconds: float
    sequential_seconds: float
    measurements: tuple[Measurement, ...] = ()
    accepted: float | None = None
    trials: tuple[Trial, ...] = ()

    @property
    def deviation(self) -> float:
        """That of its samples; NaN where the precision was not chosen."""
        own = (self.conditions.dtype, self.decoder)
        found = (each.deviation for each in self.trials if (each.precision, each.decoder) == own)
        return next(found, torch.nan)

    @property
    def ratio(self) -> float:
        """How many times faster than sequential decoding it was."""
        return self.sequential_seconds / self.seconds

    @property
    def told(self) -> str:
        """What decoding by it is, in a sentence."""
        told = "decoding by the calibrated plan"
        if self.accepted is None:
            return f"{told}: {self.ratio:.2f} x sequential when measured"
        return (
            f"{told}, in {self.conditions.dtype}: {self.ratio:.2f} x exact sequential, and off by"
            f" {self.deviation:.1e} (RMS; accepted: {self.accepted:g}), when measured"
        )

    def save(self, directory: Path | str) -> Path:
        """Add it to the plans of a pretrained folder, in place of one for the same conditions."""
        others = [p for p in read_plans(directory) if p.conditions != self.conditions]
        path = Path(directory) / PLANS
        plans = [*others, self]
        chosen = any(plan.accepted is not None for plan in plans)
        content = {"format": FORMATS[chosen], "plans": plans}
        write_atomically(path, json_text(content, _encode))
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
        if content["format"] not in FORMATS:
            raise ValueError(f"format {content['format']!r}, not one of {FORMATS}")
        return [_decode(plan) for plan in content["plans"]]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error!r}): delete it, and run `tarflow calibrate` again"
        ) from error


@dataclass(frozen=True)
class Planned(Part):
    """The decoder of a plan that was made for a tolerance; sequential decoding elsewhere."""

    tolerance: float = 1e-3

    def __post_init__(self):
        Jacobi(1, self.tolerance)  # which checks it

    def settle(self, directory: Path | str, conditions: Conditions) -> Conditions:
        """The same conditions, in the precision that the latest plan for them chose, if one did.

        A later plan for the precision that they name leaves them as they are.
        """
        for plan in reversed(read_plans(directory)):
            elsewhere = replace(plan.conditions, dtype=conditions.dtype) != conditions
            if not elsewhere and (plan.accepted is not None or plan.conditions == conditions):
                return plan.conditions
        return conditions

    def choose(self, directory: Path | str, conditions: Conditions) -> tuple[Decoder, str]:
        """Look for a plan in a pretrained folder; also tells in a sentence what was found."""
        plans = read_plans(directory)
        for plan in plans:
            if plan.conditions == conditions:
                return plan.decoder, plan.told
        hint = "decoding sequentially: run `tarflow calibrate` to find out what is fastest here"
        if not plans:
            return Sequential(), hint
        near = min((plan.conditions.differences(conditions) for plan in plans), key=len)
        return Sequential(), f"{hint} (the nearest plan is for {'; '.join(near)})"


def hardware(device: torch.device) -> str:
    """Names a device so that timings of two devices of that name agree."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        information = Path("/proc/cpuinfo")
        text = information.read_text() if information.is_file() else ""
        found = re.search(r"^model name\s*:(.*)$", text, re.MULTILINE)
        name = found[1].strip() if found else platform.processor() or platform.machine()
        return f"{name}, {torch.get_num_threads()} threads"
    return f"{device.type}, {platform.machine()}"


def _encode(part: Plan | Trial | Measurement | Decoder | Conditions) -> dict[str, Any]:
    """What JSON, which has no infinity, keeps of a part of a plan; of a decoder also its name.

    What the first format lacks is left out where it is the default.
    """
    if isinstance(part, Decoder):
        return {"type": type(part).__name__, **vars(part)}
    content = {key: value for key, value in vars(part).items() if value or key not in LATER}
    if isinstance(part, Plan | Trial):
        content = {"decoders": content.pop("decoder").decoders, **content}
    return {name: None if value == torch.inf else value for name, value in content.items()}


def _decode(content: dict[str, Any]) -> Plan:
    """Undo `_encode`."""
    conditions = Conditions(**content.pop("conditions"))
    measurements = tuple(map(_decode_measurement, content.pop("measurements")))
    trials = tuple(map(_decode_trial, content.pop("trials", ())))
    told = {"decoder": _decode_decoders(content.pop("decoders")), "measurements": measurements}
    return Plan(conditions, **content, **told, trials=trials)


def _decode_trial(content: dict[str, Any]) -> Trial:
    """Undo `_encode`."""
    decoder, off = _decode_decoders(content.pop("decoders")), content.pop("deviation")
    return Trial(**content, decoder=decoder, deviation=torch.inf if off is None else off)


def _decode_decoders(contents: list[dict[str, Any]]) -> PerTransform:
    """Undo `_encode`."""
    return PerTransform(tuple(map(_decode_decoder, contents)))


def _decode_measurement(content: dict[str, Any]) -> Measurement:
    """Undo `_encode`."""
    numbers = {name: torch.inf if value is None else value for name, value in content.items()}
    return Measurement(**{**numbers, "decoder": _decode_decoder(content["decoder"])})


def _decode_decoder(content: dict[str, Any]) -> Decoder:
    """Undo `_encode`; nothing but registered decoders is ever constructed."""
    kind = KNOWN[content.pop("type")]
    if not (isinstance(kind, type) and issubclass(kind, Decoder)):
        raise ValueError(f"{kind.__name__} is not a decoder")
    return kind(**content)
