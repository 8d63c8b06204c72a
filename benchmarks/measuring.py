"""Times ways to sample against each other, and holds what they return to float64."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.baseline import Baseline
from benchmarks.results import Measurement
from benchmarks.roofline import Counted, Machine, Pass, Transformer
from tarflow import Decoder, ExampleSeeds, LinearGuidance, Sequential, TarFlow
from tarflow.machine.device import now
from tarflow.nn.networks import Networks
from tarflow.sampling.calibration import calibrate
from tarflow.sampling.plan import Plan

GUIDANCE = LinearGuidance(1.0)
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 1e-1}
"""Largest residual of windowed decoding: above the rounding of the precision."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """What is sampled: one group of measurements.

    Attributes:
        patch_size: Side of a patch.
        batch_size: Number of samples.
        dtype: Precision in which transformers compute.
        repeats: Number of times that each mode is timed.
    """

    patch_size: int
    batch_size: int
    dtype: torch.dtype
    repeats: int

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"patch {self.patch_size}, batch {self.batch_size}, {dtype}"


@dataclass(frozen=True)
class Mode:
    """A way to sample.

    Attributes:
        name: What tables call it.
        sample: Maps noise and labels to images.
        decoder: The decoder that it uses, to count its passes.
    """

    name: str
    sample: Callable[[Tensor, Tensor], Tensor]
    decoder: Decoder


def measure(
    flow: TarFlow, case: Case, machine: Machine, compiled: bool = False, tell: Tell = print
) -> list[Measurement]:
    """Calibrate, then time every mode and compare its samples with those in float64.

    Args:
        flow: A trained flow in float32, on the device.
        case: What to sample.
        machine: What the device does at best.
        compiled: Whether to measure compiled sequential decoding too.
        tell: Called with what goes on.
    """
    z, y = draw(flow, case)
    tell(f"{case}: calibrating")
    modes = make_modes(flow, case.dtype, make_plan(flow, case, y).decoder, compiled)
    tell(f"{case}: warming up, and sampling in float64")
    reference = in_float64(flow, z, y)
    errors, first = {}, {}
    for mode in modes:
        begin = now(z.device)
        x = mode.sample(z, y)
        first[mode.name], errors[mode.name] = now(z.device) - begin, x.double() - reference
    runs = {mode.name: lambda mode=mode: mode.sample(z, y) for mode in modes}
    times = interleave(runs, case.repeats, z.device, lambda text: tell(f"{case}: {text}"))
    return [
        summarize(flow, case, mode, machine, first[mode.name], times[mode.name], errors[mode.name])
        for mode in modes
    ]


def summarize(
    flow: TarFlow,
    case: Case,
    mode: Mode,
    machine: Machine,
    first_seconds: float,
    seconds: list[float],
    error: Tensor,
) -> Measurement:
    """Put together what was found out about a mode, and count its passes."""
    passes = count(flow, case, mode.decoder)
    return Measurement(
        patch_size=case.patch_size,
        length=flow.base.shape[0],
        batch_size=case.batch_size,
        dtype=str(case.dtype).removeprefix("torch."),
        mode=mode.name,
        first_seconds=first_seconds,
        seconds=seconds,
        floor_seconds=Transformer.of(flow).floor(machine, passes, case.dtype),
        rms=float(error.square().mean().sqrt()),
        maximum=float(error.abs().max()),
        passes=len(passes),
        positions=sum(each.width for each in passes),
        windows=windows(mode.decoder, flow.transform.num_decoded),
    )


def draw(flow: TarFlow, case: Case) -> tuple[Tensor, Tensor]:
    """Noise and labels, other ones than those of the calibration, which picks windows by them."""
    z = flow.base.sample(case.batch_size, ExampleSeeds(1, range(case.batch_size)))
    return z, torch.arange(case.batch_size, device=z.device) % flow.num_classes


@torch.no_grad()
def in_float64(flow: TarFlow, z: Tensor, y: Tensor) -> Tensor:
    """What all should return."""
    return copy.deepcopy(flow).double().inverse(z.double(), y, guidance=GUIDANCE)


def make_plan(flow: TarFlow, case: Case, y: Tensor) -> Plan:
    """Calibrate for a case."""
    return calibrate(
        flow,
        case.batch_size,
        y,
        guidance=GUIDANCE,
        dtype=case.dtype,
        tolerance=TOLERANCE[case.dtype],
        repetitions=min(3, case.repeats),
    )


def make_modes(
    flow: TarFlow, dtype: torch.dtype, planned: Decoder, compiled: bool = False
) -> list[Mode]:
    """The baseline, and the library's ways, each with its weights prepared once."""
    baseline = Baseline(flow, dtype)
    networks = Networks(dtype)
    modes = [
        Mode("baseline", lambda z, y: baseline(z, y, GUIDANCE.weight), Sequential()),
        decoding("sequential", flow, networks, Sequential()),
        decoding("windowed", flow, networks, planned),
    ]
    if compiled:
        modes.append(decoding("compiled", flow, Networks(dtype, compile=True), Sequential()))
    return modes


def decoding(name: str, flow: TarFlow, networks: Networks, decoder: Decoder) -> Mode:
    """A mode of the library."""

    @torch.no_grad()
    def sample(z: Tensor, y: Tensor) -> Tensor:
        return flow.inverse(z, y, guidance=GUIDANCE, decoder=decoder, networks=networks)

    return Mode(name, sample, decoder)


def interleave(
    runs: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device | str,
    tell: Tell = lambda text: None,
) -> dict[str, list[float]]:
    """Seconds of every run in every repetition; the order turns round from one to the next.

    Whatever else slows the machine down for a while then slows all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name in turns(list(runs), repeats, tell):
        begin = now(device)
        runs[name]()
        times[name].append(now(device) - begin)
    return times


def turns(names: Sequence[str], repeats: int, tell: Tell = lambda text: None) -> Iterator[str]:
    """All names in every repetition; the order turns round from one to the next."""
    for repetition in range(repeats):
        for name in names if repetition % 2 == 0 else reversed(names):
            tell(f"repetition {repetition + 1} of {repeats}, {name}")
            yield name


@torch.no_grad()
def count(flow: TarFlow, case: Case, decoder: Decoder) -> list[Pass]:
    """The passes that a decoder takes; those of a sequential one are known."""
    if isinstance(decoder, Sequential):
        steps = range(flow.base.shape[0] - 1)
        return [Pass(case.batch_size, i, 1) for i in steps] * flow.transform.num_decoded
    counted = Counted(decoder)
    flow.inverse(*draw(flow, case), guidance=GUIDANCE, decoder=counted, dtype=case.dtype)
    return counted.passes


def windows(decoder: Decoder, num_transforms: int) -> list[int]:
    """The window of each transform, that nearest the noise first; 1 is sequential."""
    return [getattr(decoder.at(depth), "window", 1) for depth in range(num_transforms)]
