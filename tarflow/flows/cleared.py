"""A transform that lets nothing stand in padding."""

from torch import Tensor

from tarflow.flows.context import Context
from tarflow.flows.position_conditioning import MaskConditioner
from tarflow.flows.shapes import Sequences
from tarflow.flows.transforms import VolumePreserving


class Cleared(VolumePreserving):
    """Lets what stands in padding be zero, in data and in noise.

    Args:
        length: Number of positions.
    """

    def __init__(self, length: int):
        super().__init__()
        self.conditioners = (MaskConditioner(length),)

    def to_noise(self, x: Sequences, context: Context) -> Tensor:
        mask = context.get("mask")
        return x if mask is None else x.where(mask[..., None], 0.0)

    def to_data(self, z: Sequences, context: Context) -> Tensor:
        return self.to_noise(z, context)
