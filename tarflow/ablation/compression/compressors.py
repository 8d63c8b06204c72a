"""What is compared: ways to make a flow smaller, each of which a threshold drives."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tarflow.ablation.compression.thresholds import at_share
from tarflow.compression.activations import measure
from tarflow.compression.low_rank import low_rank
from tarflow.compression.magnitude import magnitudes
from tarflow.compression.search import SomeImages
from tarflow.compression.skeletons import Skeletons
from tarflow.compression.units import ALL, Neurons, Units
from tarflow.data import ImageData
from tarflow.flows.tar_flow import TarFlow

SHARES = (0.75, 0.5, 0.35, 0.25)
"""What is left of the operations of MLPs: fixed beforehand."""
HALF = 0.5
"""Where heads are left out too, and smaller flows are tuned."""
CALIBRATION = {"num_images": 512, "batch_size": 64}
"""Of training images, which are chosen by the flow's seed."""

Maker = Callable[[float], TarFlow]
"""Makes a smaller flow by a threshold."""


@dataclass(frozen=True)
class Compressor:
    """A way to make a flow smaller.

    Attributes:
        name: What it is called in files.
        words: What it is called in tables.
        prepare: Makes the maker for a flow, its data and a seed.
        shares: Shares of the operations of MLPs at which it is compared.
        is_kept: Whether smaller flows are saved; else they are made again.
    """

    name: str
    words: str
    prepare: Callable[[TarFlow, ImageData, int], Maker]
    shares: tuple[float, ...] = SHARES
    is_kept: bool = True

    def __call__(self, flow: TarFlow, data: ImageData, seed: int, share: float) -> TarFlow:
        """The smaller flow with a share of the operations of MLPs."""
        return at_share(flow, self.prepare(flow, data, seed), share)


def _decomposed(parts: tuple[Units, ...], flow: TarFlow, data: ImageData, seed: int) -> Maker:
    """Interpolative decomposition of units of some kinds."""
    images = SomeImages(data.train, seed=seed, **CALIBRATION)
    return Skeletons.of(flow, measure(flow, images.batches(flow), parts), parts).at


COMPRESSORS = {
    compressor.name: compressor
    for compressor in (
        Compressor("decomposition", "decomposition", partial(_decomposed, (Neurons(),))),
        Compressor("heads", "decomposition, heads too", partial(_decomposed, ALL), (HALF,)),
        Compressor("magnitude", "magnitude", lambda flow, data, seed: magnitudes(flow).at),
        Compressor(
            "low_rank",
            "truncated SVD",
            lambda flow, data, seed: partial(low_rank, flow),
            is_kept=False,
        ),
    )
}
"""By name."""
