r"""The least time that a machine needs to decode, from what it was measured to do.

A pass of B rows through a transformer of P weights (the entries of its matrices), L layers and
width C, for the m positions from s on, moves and computes at least

    bytes = w P + k 2 L C B (s + m)         weights of w bytes once; keys, values of k up to it
    operations = 2 P B m + 4 L C B sum_{i=1..m} (s + i)         matrices; logits, weighted sums

and takes no less than max(bytes / bandwidth, operations / rate). The floor of a decoder is the sum
over the passes that it made: T - 1 of one position for each transform when sequential, as counted
when windowed. Guidance doubles the rows. Activations, norms and the affine map count as nothing.

The rate is the best of square matrix products in each precision, plain or packed; that of float32
where the machine multiplies a lower precision more slowly, since widening its numbers costs little
beside that. The bandwidth is that of copies, reading and writing counted, as large as what a pass
reads or larger, whichever is fastest: weights of some megabytes stay in a cache from step to step,
where a floor made of main memory's bandwidth would be none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.precision import PRECISIONS, Precision
from tarflow import Affine, AutoregressiveTransform, Decoder, Flow
from tarflow.flows.decoding import Predict
from tarflow.flows.report import Inverse
from tarflow.machine.device import LARGEST, MEGABYTE, copy_bandwidth, matrix_rate
from tarflow.nn.attention import Fronts
from tarflow.nn.products import REORDER, has_kernels, multiply

FLOAT32 = "float32"
SIZES = (8, 16, 32, 64, 128, 256, 512)
"""Megabytes that are read and written by the copies that are timed."""


def product_rate(device: torch.device | str, dtype: torch.dtype, largest: int) -> float:
    """Operations per second of matrix products, by the fastest of torch's kernels."""
    rate = matrix_rate(device, dtype, largest)
    if torch.device(device).type != "cpu" or not has_kernels(dtype):
        return rate

    def packed(matrix: Tensor) -> Callable[[Tensor], Tensor]:
        weight = REORDER(matrix)
        return lambda x: multiply(x, weight, None)

    return max(rate, matrix_rate(device, dtype, largest, prepare=packed))


@dataclass(frozen=True)
class Machine:
    """What a device does at best, at the number of threads in use.

    Attributes:
        bandwidth: Bytes per second of copies, by their megabytes.
        rate: Operations per second of matrix products, by precision.
    """

    bandwidth: dict[int, float]
    rate: dict[str, float]

    @classmethod
    def measure(
        cls,
        device: torch.device | str,
        precisions: Sequence[Precision],
        sizes: Sequence[int] = SIZES,
        largest: int = LARGEST,
    ) -> "Machine":
        """Measure it: some seconds.

        Args:
            device: The device.
            precisions: Of matrix products; float32 is measured in any case.
            sizes: Megabytes of the copies.
            largest: Side of the largest matrices.
        """
        bandwidth = {size: copy_bandwidth(device, size) for size in sizes}
        rate = {}
        for precision in {PRECISIONS[FLOAT32]: None} | dict.fromkeys(precisions):
            with precision.applied():
                rate[precision.name] = product_rate(device, precision.parts.products, largest)
        return cls(bandwidth, rate)

    def bandwidth_for(self, num_bytes: float) -> float:
        """Bytes per second at which a working set of that size can be read at best."""
        large = [rate for size, rate in self.bandwidth.items() if size * MEGABYTE >= num_bytes]
        return max(large, default=self.bandwidth[max(self.bandwidth)])

    def rate_for(self, precision: Precision) -> float:
        """Operations per second at best on numbers of a precision, widened if that is faster."""
        return max(self.rate[precision.name], self.rate[FLOAT32])


@dataclass(frozen=True)
class Pass:
    """One pass through a transformer, as a decoder asked for it.

    Attributes:
        examples: Number of examples.
        start: Position of the first input: the mean, where every example has its own.
        width: Number of inputs.
    """

    examples: int
    start: float
    width: int


@dataclass(frozen=True)
class Counted(Decoder):
    """Notes the passes of another decoder.

    Attributes:
        decoder: The decoder that works.
        passes: Where the passes go, of all transforms.
    """

    decoder: Decoder
    passes: list[Pass] = field(default_factory=list)

    @property
    def tolerance(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.decoder.tolerance

    def __call__(self, predict: Predict, z: Tensor) -> Inverse:
        return self.decoder(CountedPrediction(predict, self.passes), z)

    def at(self, depth: int) -> Decoder:
        return Counted(self.decoder.at(depth), self.passes)


@dataclass(frozen=True)
class CountedPrediction(Predict):
    """A prediction that notes its passes."""

    predict: Predict
    passes: list[Pass]

    def __call__(self, x: Tensor, start: int | Fronts) -> Affine:
        own = start if isinstance(start, int) else float(start.positions[:, 0].double().mean())
        self.passes.append(Pass(len(x), own, x.shape[1]))
        return self.predict(x, start)


@dataclass(frozen=True)
class Transformer:
    """The sizes of a transformer that its floor depends on.

    Attributes:
        num_weights: Number of entries of its matrices.
        num_layers: Number of layers.
        model_dim: Width.
        length: Number of positions.
    """

    num_weights: int
    num_layers: int
    model_dim: int
    length: int

    @classmethod
    def of(cls, flow: Flow) -> "Transformer":
        """Read them off a flow all of whose transforms have the same."""
        [*decoded] = (t for t in flow.transform if isinstance(t, AutoregressiveTransform))
        network = decoded[0].network
        matrices = [p for p in network.parameters() if p.ndim == 2]
        table = network.position_embedding
        num_weights = sum(p.numel() for p in matrices if p is not table)
        return cls(num_weights, len(network.blocks), network.model_dim, network.length)

    def num_bytes(self, rows: int, end: float, precision: Precision) -> float:
        """What a pass reads: the weights, and the keys and values up to its end."""
        weights = precision.parts.weights.itemsize * self.num_weights
        cached = 2 * self.num_layers * self.model_dim * rows * end
        return weights + precision.parts.dtype.itemsize * cached

    def operations(self, rows: int, start: float, width: int) -> float:
        """What a pass computes."""
        attended = width * start + width * (width + 1) / 2
        matrices = 2 * self.num_weights * rows * width
        return matrices + 4 * self.num_layers * self.model_dim * rows * attended

    def floor(
        self, machine: Machine, passes: Sequence[Pass], precision: Precision, guided: bool = True
    ) -> float:
        """Least seconds of some passes.

        Args:
            machine: What the device does at best.
            passes: The passes.
            precision: That of weights, keys and values.
            guided: Whether every example takes two rows.
        """
        total, copies = 0.0, 2 if guided else 1
        for each in passes:
            rows, end = copies * each.examples, each.start + each.width
            num_bytes = self.num_bytes(rows, end, precision)
            working_set = self.num_bytes(rows, self.length, precision)
            reading = num_bytes / machine.bandwidth_for(working_set)
            computing = self.operations(rows, each.start, each.width) / machine.rate_for(precision)
            total += max(reading, computing)
        return total
