"""How a file of arrays holds samples."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from jaxtyping import Shaped
from torch import Tensor

from tarflow.arguments import shown
from tarflow.errors import ConfigurationError
from tarflow.flows.codec import Codec


class ArrayLayout(ABC):
    """Names of the arrays, and what is in them."""

    images: ClassVar[str]
    labels: ClassVar[str]

    @abstractmethod
    def arrange(
        self, stored: Shaped[Tensor, "batch channels height width"], codec: Codec
    ) -> Shaped[Tensor, "batch ..."]:
        """Samples as they are written."""


class AsStored(ArrayLayout):
    """As data are read: `images` (N, C, H, W) of the codec's integers or numbers, and `labels`."""

    images, labels = "images", "labels"

    def arrange(
        self, stored: Shaped[Tensor, "batch channels height width"], codec: Codec
    ) -> Shaped[Tensor, "batch ..."]:
        return stored


class AsShown(ArrayLayout):
    """As the evaluators of ADM (arXiv 2105.05233) read: `arr_0` of bytes (N, H, W, C), `arr_1`.

    Grey images become colour, which these evaluators want.
    """

    images, labels = "arr_0", "arr_1"

    def arrange(
        self, stored: Shaped[Tensor, "batch channels height width"], codec: Codec
    ) -> Shaped[Tensor, "batch ..."]:
        pixels = codec.to_bytes(stored)
        colour = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels
        return colour.permute(0, 2, 3, 1)


LAYOUTS: dict[Any, ArrayLayout] = {True: AsStored(), "adm": AsShown()}


def layout_of(value: bool | str) -> ArrayLayout | None:
    """Read the setting `save_npz`.

    Raises:
        ConfigurationError: There is no such layout.
    """
    if value is False:
        return None
    if value not in LAYOUTS:
        raise ConfigurationError(
            f"save_npz={shown(value)}: choose true (images, labels), adm (arr_0, arr_1) or false"
        )
    return LAYOUTS[value]
