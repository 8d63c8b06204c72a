"""Certified windowed decoding: several positions at a time, each proved or computed exactly."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from tarflow.arguments import check_integer, check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.affine import Affine
from tarflow.flows.decoding import Decoder, Predict
from tarflow.flows.report import Inverse
from tarflow.flows.shapes import Sequences


@dataclass(frozen=True)
class Jacobi(Decoder):
    r"""Iterates $x \leftarrow z \exp(\alpha(x)) + \mu(x)$ on a window behind what is exact.

    Predicting from a draft x also gives the noise z' that x is *exactly* the sample of. Drafts are
    accepted from the front on while $\max |z' - z|$ is within the tolerance; the next position
    then has exact inputs and is exact. Nothing is clamped. A window of 1 is sequential decoding, a
    window of the whole length Jacobi iteration; each ends after at most T - 1 passes.
    Fixed point iteration: arXiv 2002.03629; windows: arXiv 2505.12849.

    Examples finish on their own: an accepted position is never changed again. The batch moves its
    window together, so that a sample depends on its batch within the tolerance.

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
        passes, start, last = 0, 0, z.shape[1] - 1
        while start < last and len(z):
            end = min(start + self.window, last)
            predicted = predict(draft.x[:, start:end], start)
            maps = predicted.room(last) if maps is None else maps
            draft.improve(maps, predicted, start, end, self.tolerance)
            passes += 1
            start = int(draft.front.min())
        maps = Affine.identity(z[:, 1:]) if maps is None else maps
        return self.solved(z, draft.x, maps, passes, draft.iterations, draft.non_finite)


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

    def improve(
        self, maps: Affine, predicted: Affine, start: int, end: int, tolerance: float
    ) -> None:
        """Accept what a prediction from positions `start ... end - 1` proves; redo the rest.

        The maps, those of all positions but the first, go with x.
        """
        inside, last = slice(start + 1, end + 1), self.z.shape[1] - 1
        noise, old = self.z[:, inside], self.x[:, inside]
        position = torch.arange(start + 1, end + 1, device=noise.device)
        final = position <= self.front[:, None]
        residual = (predicted.to_noise(old) - noise).abs().amax(dim=-1)
        accepted = (final | (residual <= tolerance)).cumprod(dim=1).bool()
        exact = start + accepted.sum(dim=1) + 1  # the first position after those accepted
        new = predicted.to_data(noise)
        finite = new.isfinite().all(dim=-1)
        thrown = ~(accepted | finite) & (position > exact[:, None])
        guess = torch.where(thrown[..., None], noise, new)
        self.x[:, inside] = torch.where(accepted[..., None], old, guess)
        for name, store in vars(maps).items():
            kept, value = store[:, start:end], getattr(predicted, name)
            store[:, start:end] = torch.where(final[..., None], kept, value)
        self.non_finite.add_(thrown.sum(dim=1))
        self.iterations.add_(self.front < last)
        # An example whose exact value is not finite cannot go on.
        broken = (~finite & (position == exact[:, None])).any(dim=1)
        self.front.copy_(torch.where(broken, last, exact.clamp(max=end)))
