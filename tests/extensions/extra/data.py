"""A data set whose images have a brightness beside their label."""

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from tarflow.data import ImageData, digits


class WithBrightness(Dataset):
    """Images of another data set, conditioned on the mean of their pixels too."""

    def __init__(self, part: Any, largest: int):
        self.part, self.largest = part, largest

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        stored, context = self.part[index]
        return stored, {**context, "brightness": float(stored.double().mean()) / self.largest}


def bright_digits(validation_fraction: float = 0.1) -> ImageData:
    """The digits of scikit-learn, each with its brightness."""
    data = digits(validation_fraction)
    parts = {name: getattr(data, name) for name in ("train", "validation", "test")}
    largest = 16
    read = {name: WithBrightness(part, largest) for name, part in parts.items()}
    return replace(data, name=f"{data.name}, with brightness", **read)
