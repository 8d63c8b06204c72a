"""How samples lie in an .npz: what its arrays are called, and in which order their axes are."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor

from tarflow.arguments import shown
from tarflow.errors import ConfigurationError
from tarflow.flows.codec import Codec

Pixels = Shaped[Tensor, "batch ..."]


@dataclass(frozen=True)
class ArrayLayout:
    """Names of the arrays, and what is stored of pixels as the codec knows them."""

    images: str
    labels: str
    stored: Callable[[Codec, Pixels], Pixels]


def _as_evaluators_read(codec: Codec, pixels: Pixels) -> Pixels:
    """Bytes with the channels last; one channel becomes three, which networks for colours want."""
    picture = codec.to_bytes(pixels).movedim(1, -1)
    return picture.expand(*picture.shape[:-1], 3) if picture.shape[-1] == 1 else picture


LAYOUTS = {
    "images": ArrayLayout("images", "labels", lambda codec, pixels: pixels),
    "arr_0": ArrayLayout("arr_0", "arr_1", _as_evaluators_read),
}
"""By the name of the array of images: as this package reads them, and as evaluators (ADM) do."""


def layout_of(name: bool | str) -> ArrayLayout | None:
    """The layout that is asked for: true means `images`, false none.

    Raises:
        ConfigurationError: There is no such layout.
    """
    if isinstance(name, bool):
        return LAYOUTS["images"] if name else None
    if name not in LAYOUTS:
        raise ConfigurationError(
            f"save_npz={shown(name)} is unknown: give true or images (levels in the order of the"
            " flow), arr_0 (bytes with the channels last, for evaluators), or false"
        )
    return LAYOUTS[name]
