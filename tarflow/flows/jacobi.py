"""Certified windowed decoding: several positions at a time, each proved or computed exactly."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from tarflow.arguments import check_integer, check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.affine import Affine
from tarflow.flows.decoding import Decoder, Predict
from tarflow.flows.report import Inverse
from tarflow.flows.shapes import Sequences
from tarflow.nn.attention import Fronts


@dataclass(frozen=True)
class Jacobi(Decoder):
    r"""Iterates $x \leftarrow z \exp(\alpha(x)) + \mu(x)$ on a window behind what is exact.

    Predicting from a draft x also gives the noise z' that x is *exactly* the sample of. Drafts are
    accepted from the front on while $\max |z' - z|$ is within the tolerance; the next position
    then has exact inputs and is exact. Nothing is clamped. A window of 1 is sequential decoding, a
    window of the whole length Jacobi iteration; each ends after at most T - 1 passes.
    Fixed point iteration: arXiv 2002.03629; windows: arXiv 2505.12849.

    Each example moves its window on its own, and an accepted position is never changed again: what
    an example becomes does not depend on its batch, but for rounding.

    Attributes:
        window: Number of positions that are predicted at a time.
        tolerance: Largest residual of an accepted position, in units of the noise. It has to lie
            above that of rounding: some 1e-5 in float32, 1e-2 in float16, 1e-1 in bfloat16.

    Raises:
        ConfigurationError: A value is not positive and finite.
    """

    window: int = 64
    tolerance: float = 1e-3

    def __post_init__(self):
        keep(self, window=check_integer("window", self.window, least=1))
        keep(self, tolerance=check_real("tolerance", self.tolerance))
        if not 0 < self.tolerance < torch.inf:
            raise ConfigurationError(
                f"tolerance {self.tolerance} must be positive and finite:"
                " Sequential() has no tolerance"
            )

    def __call__(self, predict: Predict, z: Sequences) -> Inverse:
        counts = torch.zeros(3, len(z), dtype=torch.long, device=z.device)
        draft, maps = Draft(z, z.clone(), *counts.unbind()), None
        passes, last = 0, z.shape[1] - 1
        width = min(self.window, last)
        watch = Watch(width)
        while watch.least < last and len(z):
            start = draft.start(watch, width)
            positions = draft.positions(start, width)
            predicted = predict(draft.x[draft.rows, positions], start)
            maps = predicted.room(last) if maps is None else maps
            draft.improve(maps, predicted, positions, self.tolerance)
            passes += 1
            watch.look(draft.front)
        maps = Affine.identity(z[:, 1:]) if maps is None else maps
        return self.solved(z, draft.x, maps, passes, draft.iterations, draft.non_finite)


class Watch:
    """Knows how far examples are, without waiting for the device: of a GPU, one pass late.

    Args:
        width: How far a pass may take an example.

    Attributes:
        least: The least front is no less.
        most: The largest front is no more.
    """

    def __init__(self, width: int):
        self.least, self.most, self.width = 0, 0, width
        self.coming: tuple[Tensor, torch.cuda.Event] | None = None

    def look(self, front: Int[Tensor, " batch"]) -> None:
        """Learn of fronts, while those of the next pass are computed."""
        ends = torch.stack(front.aminmax())
        if not ends.is_cuda:
            self.least, self.most = ends.tolist()
            return
        known, copied = self.coming, torch.empty_like(ends, device="cpu", pin_memory=True)
        copied.copy_(ends, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self.coming, self.most = (copied, event), self.width
        if known is not None:
            known[1].synchronize()
            self.least, largest = known[0].tolist()
            self.most = largest + self.width


@dataclass(frozen=True)
class Draft:
    """The state of the iteration; its tensors change in place.

    The data x is final up to each example's front, its last final position; behind it are guesses,
    the first of which is the noise. Iterations are passes that an example took part in unfinished,
    and what is non-finite are guesses that were thrown away.
    """

    z: Sequences
    x: Sequences
    front: Int[Tensor, " batch"]
    iterations: Int[Tensor, " batch"]
    non_finite: Int[Tensor, " batch"]

    @cached_property
    def rows(self) -> Int[Tensor, "batch 1"]:
        """The index of each example."""
        return torch.arange(len(self.z), device=self.z.device)[:, None]

    def start(self, watch: Watch, width: int) -> int | Fronts:
        """Where the next pass starts: at each front, but all windows end within the sequence."""
        latest = self.z.shape[1] - 1 - width
        if watch.least == watch.most and self.z.device.type == "cpu":
            return min(watch.least, latest)  # keys are read as they lie, without a mask
        num_keys = min(watch.most, latest) + width
        return Fronts.at(self.front.clamp(max=latest), width, num_keys)

    def positions(self, start: int | Fronts, width: int) -> Int[Tensor, "#batch window"]:
        """The positions of the inputs of a pass."""
        if isinstance(start, Fronts):
            return start.positions
        return torch.arange(start, start + width, device=self.z.device)[None]

    def improve(
        self,
        maps: Affine,
        predicted: Affine,
        positions: Int[Tensor, "#batch window"],
        tolerance: float,
    ) -> None:
        """Accept what a prediction from the values at some positions proves; redo the rest.

        The maps, those of all positions but the first, go with x.
        """
        position, last = positions + 1, self.z.shape[1] - 1
        inside = self.rows, position
        noise, old = self.z[inside], self.x[inside]
        final = position <= self.front[:, None]
        residual = (predicted.to_noise(old) - noise).abs().amax(dim=-1)
        accepted = (final | (residual <= tolerance)).cumprod(dim=1).bool()
        exact = position[:, 0] + accepted.sum(dim=1)  # the first position after those accepted
        new = predicted.to_data(noise)
        finite = new.isfinite().all(dim=-1)
        thrown = ~(accepted | finite) & (position > exact[:, None])
        guess = torch.where(thrown[..., None], noise, new)
        self.x[inside] = torch.where(accepted[..., None], old, guess)
        for name, store in vars(maps).items():
            kept, value = store[self.rows, positions], getattr(predicted, name)
            store[self.rows, positions] = torch.where(final[..., None], kept, value)
        self.non_finite.add_(thrown.sum(dim=1))
        self.iterations.add_(self.front < last)
        # An example whose exact value is not finite cannot go on.
        broken = (~finite & (position == exact[:, None])).any(dim=1)
        self.front.copy_(torch.where(broken, last, exact.clamp(max=position[:, -1])))
