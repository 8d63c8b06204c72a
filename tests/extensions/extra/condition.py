"""A condition: one number for each image, how bright it is."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tarflow import Conditioner, ContextError


class Waves(nn.Module):
    """Sines of a number, and a linear map to the width of a model; NaN stands for no number."""

    def __init__(self, model_dim: int, num_waves: int):
        super().__init__()
        self.linear = nn.Linear(num_waves, model_dim)

    def forward(self, brightness: Tensor) -> Tensor:
        known = ~brightness.isnan()
        weight = self.linear.weight
        steps = torch.arange(1, weight.shape[1] + 1, device=weight.device, dtype=weight.dtype)
        waves = torch.sin(brightness.nan_to_num().to(weight.dtype)[:, None] * steps)
        return self.linear(waves) * known[:, None]


@dataclass(frozen=True)
class BrightnessConditioner(Conditioner):
    """The mean of an image, from 0 to 1; the null is not a number."""

    num_waves: int = 4
    part: ClassVar[str] = "brightness"

    def null(self, examples: Tensor) -> Tensor:
        return torch.full((len(examples),), torch.nan, device=examples.device)

    def check(self, rows: Tensor) -> None:
        if ((rows < 0) | (rows > 1)).any():
            raise ContextError(f"brightness is from 0 to 1, not {rows.tolist()}")

    def module(self, model_dim: int) -> nn.Module:
        return Waves(model_dim, self.num_waves)
