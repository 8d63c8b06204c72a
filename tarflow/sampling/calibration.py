"""Picks the fastest decoder for each transform, from measurements on this machine."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_integer, shown
from tarflow.errors import ConfigurationError
from tarflow.flows.affine import Affine
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.decoding import DecodeOptions, Decoder, PerTransform, Predict, Sequential
from tarflow.flows.flow import Flow
from tarflow.flows.guidance import Guidance
from tarflow.flows.jacobi import Jacobi
from tarflow.flows.report import Inverse
from tarflow.flows.transforms import Composition, Transform
from tarflow.machine.device import medians, now
from tarflow.nn.attention import Fronts
from tarflow.randomness import ExampleSeeds
from tarflow.sampling.plan import Conditions, Measurement, Plan

WINDOWS = (8, 16, 32, 64, 128, 1_000_000)
"""Windows to try; the last is any sequence's whole length."""

MARGIN = 0.95
"""Share of sequential decoding's time that a window must not exceed, since timings scatter."""


@torch.no_grad()
def calibrate(
    flow: Flow,
    batch_size: int,
    context: ContextLike = None,
    *,
    guidance: Guidance | None = None,
    dtype: torch.dtype | None = None,
    tolerance: float = 1e-3,
    windows: Sequence[int] = WINDOWS,
    repetitions: int = 3,
    seed: int = 0,
    show: Callable[[Measurement], None] = lambda measurement: None,
    tell: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Measure ways to decode each transform, and pick the fastest of each.

    It needs no data: a batch of samples is drawn, transform by transform. A window is taken only
    where it is faster than sequential decoding of the same noise, in interleaved repetitions; and
    the whole plan only if it is faster as a whole.

    Args:
        flow: The flow, on the device to calibrate for.
        batch_size: Number of samples that will be decoded at a time.
        context: What to condition on, as for sampling.
        guidance: As in `DecodeOptions`, like dtype.
        dtype: Precision in which transformers compute.
        tolerance: That of `Jacobi`.
        windows: Windows to try; those over the length of a transform count as that.
        repetitions: Number of times that each is measured.
        seed: Seed of the noise.
        show: Called with the measurements of a transform, one by one, when it is done.
        tell: Called with what is measured next, in words.

    Raises:
        ConfigurationError: There is nothing to measure.
    """
    check_integer("batch_size", batch_size, least=1)
    check_integer("repetitions", repetitions, least=1)
    candidates = _read_windows(windows, tolerance)
    z = flow.base.sample(batch_size, ExampleSeeds(seed, range(batch_size)))
    read = flow.sampling_context(context, z)
    options = DecodeOptions(guidance=guidance, dtype=dtype).prepared()
    flow.decode(z, read, options=options)  # checks, warms up
    race = Race(read, options, candidates, repetitions, tell)
    decoders, measurements = [], []
    for results in race.transforms(flow.transform, z):
        decoders.append(fastest(results))
        for result in results:
            measurements.append(result)
            show(result)
    plans = [PerTransform((Sequential(),) * len(decoders)), PerTransform(tuple(decoders))]
    tell("whole samples")
    seconds = race.whole(flow, z, plans)
    conditions = Conditions.of(flow, batch_size, options, tolerance)
    choice = int(seconds[1] < seconds[0])
    return Plan(conditions, plans[choice], seconds[choice], seconds[0], tuple(measurements))


def _read_windows(windows: Any, tolerance: float) -> list[Jacobi]:
    """The decoders of a list of windows."""
    if not isinstance(windows, Iterable):
        raise ConfigurationError(f"windows {shown(windows)} are not a list of integers")
    Jacobi(1, tolerance)  # checks the tolerance where no window does
    name = f"windows {shown(windows)}:"
    return [Jacobi(check_integer(name, window, least=1), tolerance) for window in windows]


def fastest(results: Sequence[Measurement]) -> Decoder:
    """The way that took least time: sequential, the first one, unless another is clearly faster.

    A window also has to have kept its tolerance.
    """
    sequential, *windows = results
    kept = [m for m in windows if m.residual <= m.decoder.tolerance]
    best = min(kept, key=lambda m: m.seconds, default=sequential)
    return best.decoder if best.seconds <= MARGIN * sequential.seconds else sequential.decoder


@dataclass(frozen=True)
class Race:
    """Times decoders against each other, under options but for the decoder."""

    context: Context
    options: DecodeOptions
    candidates: Sequence[Jacobi]
    repetitions: int
    tell: Callable[[str], None]

    def transforms(self, composition: Composition, z: Tensor) -> Iterator[list[Measurement]]:
        """Measure each autoregressive transform, that nearest the noise first."""
        race = self
        for transform in reversed(list(composition)):
            if isinstance(transform, Composition):
                yield from race.transforms(transform, z)
            elif transform.num_decoded:
                yield race.measure(transform, z)
            z = transform.inverse(z, race.context, race.options).x
            race = replace(race, options=race.options.deeper(transform.num_decoded))

    def measure(self, transform: Transform, z: Tensor) -> list[Measurement]:
        """Measure sequential decoding and all candidates, in turns.

        What takes more than twice the time of sequential decoding is given up.
        """
        results = [self.run(transform, z, Sequential())]
        limit = 2 * results[0].seconds
        windows = _clipped(self.candidates, results[0].passes)
        results += [self.run(transform, z, Limited(window, limit)) for window in windows]
        times = {m.decoder: [m.seconds] for m in results if m.seconds < torch.inf}
        for _ in range(self.repetitions - 1):
            for decoder, seconds in times.items():
                seconds.append(self.run(transform, z, decoder).seconds)
        medians = {decoder: statistics.median(seconds) for decoder, seconds in times.items()}
        return [replace(m, seconds=medians.get(m.decoder, torch.inf)) for m in results]

    def run(self, transform: Transform, z: Tensor, decoder: Decoder) -> Measurement:
        """Decode one transform once."""
        subject = decoder.decoder if isinstance(decoder, Limited) else decoder
        options = replace(self.options, decoder=decoder)
        self.tell(f"transform {options.depth} from the noise: {subject}")
        begin = now(z.device)
        try:
            report = transform.inverse(z, self.context, options).report
        except TooSlow:
            return Measurement(options.depth, subject, torch.inf, 0, torch.inf)
        seconds = now(z.device) - begin
        known = report.residual[report.finite]
        residual = float(known.max()) if known.numel() else torch.nan
        return Measurement(options.depth, subject, seconds, report.passes[0], residual)

    def whole(self, flow: Flow, z: Tensor, decoders: Sequence[Decoder]) -> list[float]:
        """Median time of decoding a batch from end to end, for each decoder, in turns."""
        told = {"options": self.options}
        functions = {
            index: partial(flow.attempt, z, self.context, **told, decoder=decoder)
            for index, decoder in enumerate(decoders)
        }
        return list(medians(functions, z.device, self.repetitions).values())


def _clipped(candidates: Sequence[Jacobi], last: int) -> list[Jacobi]:
    """The candidates that differ where there are so many positions to decode."""
    windows = {min(each.window, last): each for each in candidates}
    return [replace(windows[window], window=window) for window in sorted(windows) if window > 1]


class TooSlow(Exception):
    """A decoder took longer than it may."""


@dataclass(frozen=True)
class Limited(Decoder):
    """Gives a decoder up when it takes more than some seconds."""

    decoder: Decoder
    seconds: float

    @property
    def tolerance(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.decoder.tolerance

    def __call__(self, predict: Predict, z: Float[Tensor, "batch length patch_dim"]) -> Inverse:
        end = now(z.device) + self.seconds

        def predict_in_time(x: Tensor, start: int | Fronts) -> Affine:
            if time.perf_counter() > end:
                raise TooSlow
            return predict(x, start)

        return self.decoder(predict_in_time, z)
