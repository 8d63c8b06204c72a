"""Parallel decoders of other papers, written from their equations, with the settings they use.

They run on the package's own networks, caches and guidance, so that the algorithm alone differs.
Unlike published code they do not clamp iterates to [-3, 3], which changes the answer.
"""

from dataclasses import dataclass

from tarflow import Decoder, PerTransform, Sequential
from tarflow.flows.affine import Affine
from tarflow.flows.decoding import Predict
from tarflow.flows.report import Inverse
from tarflow.flows.shapes import Sequences

WHOLE = 1_000_000
"""A window of any sequence's whole length."""


@dataclass(frozen=True)
class FixedIterations(Decoder):
    r"""Iterates $x \leftarrow z \exp(\alpha(x)) + \mu(x)$ so often in each window, untested.

    Windows follow each other; keys and values of those before are those of the last input, not of
    the last iterate. As many iterations as a window has positions are exact (arXiv 2505.12849).

    Attributes:
        window: Number of positions in a window.
        iterations: Number of passes through a window; no more than it has positions.
    """

    window: int
    iterations: int

    def __call__(self, predict: Predict, z: Sequences) -> Inverse:
        x, last = z.clone(), z.shape[1] - 1
        maps: list[Affine] = []  # of every window, as last predicted
        passes = 0
        for start in range(0, last, self.window):
            end = min(start + self.window, last)
            draft, noise = x[:, start + 1 : end + 1], z[:, start + 1 : end + 1]
            predicted = Affine.identity(noise)
            for _ in range(min(self.iterations, end - start)):
                predicted = predict(x[:, start:end], start)
                draft.copy_(predicted.to_data(noise))
                passes += 1
            maps.append(predicted)
        found = Affine.cat(maps) if maps else Affine.identity(z[:, 1:])
        return self.solved(z, x, found, passes)


@dataclass(frozen=True)
class WholeUntil(Decoder):
    """Iterates on the whole sequence until nothing in the batch changes by a threshold or more.

    The test waits for the device in every iteration (arXiv 2505.24791).

    Attributes:
        threshold: Largest change of a number that still goes on, in units of the data.
    """

    threshold: float
    window = WHOLE

    def __call__(self, predict: Predict, z: Sequences) -> Inverse:
        x, maps, passes = z.clone(), Affine.identity(z[:, 1:]), 0
        while passes < z.shape[1] - 1:
            maps = predict(x[:, :-1], 0)
            new, passes = maps.to_data(z[:, 1:]), passes + 1
            change = (new - x[:, 1:]).abs().max()
            x[:, 1:] = new
            if change < self.threshold:
                break
        return self.solved(z, x, maps, passes)


def gs_jacobi(tough: int, num_transforms: int, window: int, iterations: int) -> PerTransform:
    """GS-Jacobi: windows in the tough transform, the whole sequence at once in all others.

    Args:
        tough: Depth of the transform, counted from the noise, that converges last.
        num_transforms: Number of autoregressive transforms.
        window: Number of positions in each of its windows.
        iterations: Number of passes through a window, and through each whole sequence.
    """
    decoders = [FixedIterations(WHOLE, iterations)] * num_transforms
    decoders[tough] = FixedIterations(window, iterations)
    return PerTransform(tuple(decoders))


def selective_jacobi(num_transforms: int, threshold: float, sequential: int = 1) -> PerTransform:
    """Selective Jacobi decoding: the first transforms sequentially, the others by iteration.

    Args:
        num_transforms: Number of autoregressive transforms.
        threshold: Where iteration stops.
        sequential: Number of transforms, those nearest the noise, that are decoded exactly.
    """
    rest = num_transforms - sequential
    return PerTransform((Sequential(),) * sequential + (WholeUntil(threshold),) * rest)
