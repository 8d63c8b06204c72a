"""What is sampled, and the ways to sample that are compared."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.baseline import Baseline
from benchmarks.peers import gs_jacobi, selective_jacobi
from benchmarks.precision import Precision
from benchmarks.results import Key
from benchmarks.session import Tell
from tarflow import (
    Decoder,
    ExampleSeeds,
    Jacobi,
    LinearGuidance,
    PerTransform,
    Sequential,
    TarFlow,
)
from tarflow.nn.networks import Networks
from tarflow.sampling.calibration import calibrate
from tarflow.sampling.plan import Plan

GUIDANCE = LinearGuidance(1.0)
TOLERANCES = (1e-4, 1e-3, 1e-2, 1e-1)
ITERATIONS = (1, 2, 4, 8, 16)
THRESHOLDS = (0.5, 1e-1, 1e-2, 1e-3)
"""Settings of windows, GS-Jacobi and selective Jacobi decoding, which publishes the first."""


@dataclass(frozen=True)
class Case:
    """What is sampled: one group of measurements, which take turns.

    Attributes:
        patch_size: Side of a patch.
        length: Number of patches T.
        batch_size: Number of samples.
        precisions: In which transformers compute.
        repeats: Number of times that each mode is timed in each precision.
    """

    patch_size: int
    length: int
    batch_size: int
    precisions: tuple[Precision, ...]
    repeats: int

    def __str__(self) -> str:
        return f"T = {self.length}, batch {self.batch_size}"

    @property
    def keys(self) -> list[Key]:
        """The cases that results know."""
        return [(self.length, self.batch_size, each.name) for each in self.precisions]


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


MakeModes = Callable[[TarFlow, Case, Precision, Tell], list[Mode]]


def draw(flow: TarFlow, batch_size: int) -> tuple[Tensor, Tensor]:
    """Noise and labels, other ones than those of the calibration, which picks windows by them."""
    z = flow.base.sample(batch_size, ExampleSeeds(1, range(batch_size)))
    return z, torch.arange(batch_size, device=z.device) % flow.num_classes


def compared(
    flow: TarFlow, case: Case, precision: Precision, tell: Tell, compiled: bool = False
) -> list[Mode]:
    """The baseline and the library's ways: sequential, by a plan, and compiled if asked for."""
    plan, networks = make_plan(flow, case, precision, tell), Networks(precision.parts.name)
    modes = plain(flow, precision, networks)
    modes.append(decoding("windowed", flow, precision, networks, plan.decoder))
    if compiled:
        networks = Networks(precision.parts.name, compile=True)
        modes.append(decoding("compiled", flow, precision, networks, Sequential()))
    return modes


def sequential(flow: TarFlow, case: Case, precision: Precision, tell: Tell) -> list[Mode]:
    """The baseline, and the library's sequential decoding."""
    return plain(flow, precision, Networks(precision.parts.name))


def plain(flow: TarFlow, precision: Precision, networks: Networks) -> list[Mode]:
    """The same, with weights that are prepared once for several modes."""
    baseline = Baseline(flow, precision.parts.dtype)

    def sample(z: Tensor, y: Tensor) -> Tensor:
        with precision.applied():
            return baseline(z, y, GUIDANCE.weight)

    own = decoding("sequential", flow, precision, networks, Sequential())
    return [Mode("baseline", sample, Sequential()), own]


def against_peers(flow: TarFlow, case: Case, precision: Precision, tell: Tell) -> list[Mode]:
    """Parallel decoders with settings from coarse to fine, and the library's own."""
    plan = make_plan(flow, case, precision, tell)
    tough, number = toughest(flow, precision), flow.transform.num_decoded
    decoders: dict[str, Decoder] = {"plan": plan.decoder}
    for tolerance in TOLERANCES:
        if tolerance >= precision.tolerance / 10:
            decoders[f"windows, {tolerance:g}"] = fastest_windows(plan, tolerance)
    for count in ITERATIONS:
        decoders[f"GS-Jacobi, {count}"] = gs_jacobi(tough, number, case.length // 8, count)
    for threshold in THRESHOLDS:
        decoders[f"selective Jacobi, {threshold:g}"] = selective_jacobi(number, threshold)
    networks = Networks(precision.parts.name)
    modes = plain(flow, precision, networks)
    modes += [decoding(name, flow, precision, networks, each) for name, each in decoders.items()]
    return modes


def make_plan(flow: TarFlow, case: Case, precision: Precision, tell: Tell) -> Plan:
    """Calibrate for a case."""
    tell(f"{case}, {precision}: calibrating")
    with precision.for_networks():
        return calibrate(
            flow,
            case.batch_size,
            draw(flow, case.batch_size)[1],
            guidance=GUIDANCE,
            dtype=precision.parts.name,
            tolerance=precision.tolerance,
            repetitions=min(3, case.repeats),
        )


def fastest_windows(plan: Plan, tolerance: float) -> PerTransform:
    """The window that was the fastest for each transform, whether sequential is faster or not."""
    windows: dict[int, Jacobi] = {}
    for each in sorted(plan.measurements, key=lambda each: each.seconds, reverse=True):
        if isinstance(each.decoder, Jacobi):
            windows[each.depth] = replace(each.decoder, tolerance=tolerance)
    return PerTransform(tuple(windows[depth] for depth in sorted(windows)))


@torch.no_grad()
def toughest(flow: TarFlow, precision: Precision) -> int:
    """The depth of the transform that takes the most passes of Jacobi iteration."""
    z, y = draw(flow, batch_size=8)
    whole = Jacobi(flow.base.shape[0], precision.tolerance)
    networks = Networks(precision.parts.name)
    decoded = flow.decode(z, y, guidance=GUIDANCE, decoder=whole, networks=networks)
    passes = decoded.report.passes
    return passes.index(max(passes))


def decoding(
    name: str, flow: TarFlow, precision: Precision, networks: Networks, decoder: Decoder
) -> Mode:
    """A mode of the library."""

    @torch.no_grad()
    def sample(z: Tensor, y: Tensor) -> Tensor:
        with precision.for_networks():
            # Too few iterations may overflow: the deviation tells of it, and the run goes on.
            done = flow.attempt(z, y, guidance=GUIDANCE, decoder=decoder, networks=networks)
        return done.x

    return Mode(name, sample, decoder)
