"""Times ways to sample against each other, and holds what they return to float64."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.modes import GUIDANCE, Case, MakeModes, Mode, decoding, draw
from benchmarks.precision import Precision
from benchmarks.roofline import Counted, Machine, Pass, Transformer
from benchmarks.sampling_results import Measurement
from benchmarks.session import Tell
from tarflow import Decoder, Sequential, TarFlow
from tarflow.machine.device import now
from tarflow.nn.networks import Networks


def measure(
    flow: TarFlow, case: Case, make_modes: MakeModes, machine: Machine, tell: Tell = print
) -> list[Measurement]:
    """Time every mode in every precision, and compare the samples with those in float64.

    Args:
        flow: A flow in float32, on the device.
        case: What to sample.
        make_modes: The ways to sample in one precision.
        machine: What the device does at best.
        tell: Called with what goes on.
    """
    z, y = draw(flow, case.batch_size)
    runs = {}
    for precision in case.precisions:
        for mode in make_modes(flow, case, precision, tell):
            runs[f"{precision}, {mode.name}"] = Run(mode, precision, z, y)
    tell(f"{case}: warming up, and sampling in float64")
    reference = in_float64(flow, z, y)
    first = {}
    for key, run in runs.items():
        begin = now(z.device)
        x = run()
        first[key] = now(z.device) - begin, x.double() - reference
    times = interleave(runs, case.repeats, z.device, lambda text: tell(f"{case}: {text}"))
    found = []
    for key, run in runs.items():
        seconds, error = first[key]
        found.append(summarize(flow, case, run, machine, seconds, error, times[key]))
    return found


@dataclass(frozen=True)
class Run:
    """A mode in a precision, and what it samples from."""

    mode: Mode
    precision: Precision
    z: Tensor
    y: Tensor

    def __call__(self) -> Tensor:
        """Sample."""
        return self.mode.sample(self.z, self.y)


def summarize(
    flow: TarFlow,
    case: Case,
    run: Run,
    machine: Machine,
    first_seconds: float,
    error: Tensor,
    seconds: list[float],
) -> Measurement:
    """Put together what was found out about a mode, and count its passes."""
    passes, finite = count(flow, run), bool(error.isfinite().all())
    return Measurement(
        patch_size=case.patch_size,
        length=case.length,
        batch_size=case.batch_size,
        precision=run.precision.name,
        mode=run.mode.name,
        first_seconds=first_seconds,
        seconds=seconds,
        floor_seconds=Transformer.of(flow).floor(machine, passes, run.precision),
        rms=float(error.square().mean().sqrt()) if finite else math.inf,
        maximum=float(error.abs().max()) if finite else math.inf,
        passes=len(passes),
        positions=sum(each.width for each in passes),
        windows=windows(run.mode.decoder, flow),
    )


@torch.no_grad()
def in_float64(flow: TarFlow, z: Tensor, y: Tensor) -> Tensor:
    """What all should return."""
    return copy.deepcopy(flow).double().inverse(z.double(), y, guidance=GUIDANCE)


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
def count(flow: TarFlow, run: Run) -> list[Pass]:
    """The passes that a decoder takes; those of a sequential one are known."""
    decoder, batch_size = run.mode.decoder, len(run.z)
    if isinstance(decoder, Sequential):
        steps = range(flow.base.shape[0] - 1)
        return [Pass(batch_size, i, 1) for i in steps] * flow.transform.num_decoded
    counted = Counted(decoder)
    networks = Networks(run.precision.parts.name)
    replace(run, mode=decoding("counted", flow, run.precision, networks, counted))()
    return counted.passes


def windows(decoder: Decoder, flow: TarFlow) -> list[int]:
    """The window of each transform, that nearest the noise first; 1 is sequential."""
    depths = range(flow.transform.num_decoded)
    last = flow.base.shape[0] - 1
    return [min(getattr(decoder.at(depth), "window", 1), last) for depth in depths]
