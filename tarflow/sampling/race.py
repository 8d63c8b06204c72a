"""Times decoders of transforms against each other."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.flows.affine import Affine, Vectors
from tarflow.flows.context import Context
from tarflow.flows.decoding import DecodeOptions, Decoder, Predict, Sequential
from tarflow.flows.jacobi import Jacobi
from tarflow.flows.report import Inverse
from tarflow.flows.transforms import Composition, Transform
from tarflow.machine.device import now
from tarflow.nn.attention import Fronts
from tarflow.sampling.plan import Measurement


@dataclass(frozen=True)
class Race:
    """Times decoders against each other, under options but for the decoder.

    Attributes:
        context: What is conditioned on.
        options: How to decode.
        candidates: The windows to try.
        repetitions: Number of times that each is measured.
        tell: Called with what is measured next, in words.
        precision: What measurements say of the precision of the options, if anything.
    """

    context: Context
    options: DecodeOptions
    candidates: Sequence[Jacobi]
    repetitions: int
    tell: Callable[[str], None]
    precision: str = ""

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
        where = f"{self.precision}, " if self.precision else ""
        self.tell(f"{where}transform {options.depth} from the noise: {subject}")
        begin = now(z.device)
        try:
            report = transform.inverse(z, self.context, options).report
        except TooSlow:
            told = (options.depth, subject, torch.inf, 0, torch.inf)
            return Measurement(*told, self.precision)
        seconds = now(z.device) - begin
        known = report.residual[report.finite]
        residual = float(known.max()) if known.numel() else torch.nan
        told = (options.depth, subject, seconds, report.passes[0], residual)
        return Measurement(*told, self.precision)


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
        return self.decoder(InTime(predict, now(z.device) + self.seconds), z)


@dataclass(frozen=True)
class InTime(Predict):
    """A prediction that ends with `TooSlow` when it is late."""

    predict: Predict
    end: float

    def __call__(self, x: Vectors, start: int | Fronts) -> Affine:
        self._check()
        return self.predict(x, start)

    def step(self, x: Vectors, position: int, z: Vectors) -> tuple[Vectors, Affine]:
        self._check()
        return self.predict.step(x, position, z)

    def _check(self) -> None:
        if time.perf_counter() > self.end:
            raise TooSlow
