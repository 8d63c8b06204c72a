"""The precisions in which benchmarks compute: those of the package, and what torch is told."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from tarflow.nn.precisions import Precision as NetworkPrecision


@dataclass(frozen=True)
class Precision:
    """How transformers compute.

    Attributes:
        name: What options and tables call it; the package calls it the same, unless told.
        tolerance: Largest residual of windowed decoding: above the rounding of the precision.
        matmul: How exactly torch multiplies matrices of float32 for those who know no better.
        network: What the package calls it, where it leaves products to torch as well.
    """

    name: str
    tolerance: float
    matmul: str = "highest"
    network: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def parts(self) -> NetworkPrecision:
        """What is of which dtype."""
        return NetworkPrecision.of(self.network or self.name)

    def suits(self, device: torch.device) -> bool:
        """Whether a device has instructions for it."""
        if self.matmul == "high":
            return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return self.parts.suits(device)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context, torch multiplies matrices of float32 as it is told."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.matmul)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def for_networks(self) -> AbstractContextManager[None]:
        """The same for networks that the package prepares, where they leave products to torch."""
        return self.applied() if self.network else nullcontext()


PRECISIONS = {
    each.name: each
    for each in (
        Precision("float32", 1e-3),
        Precision("tf32_products", 1e-2, matmul="high", network="float32"),
        Precision("bfloat16_products", 1e-1, matmul="medium"),
        Precision("bfloat16", 1e-1),
        Precision("float16_weights", 1e-2),
        Precision("float16", 1e-2),
    )
}
"""All of them; the tensors of `products` and `weights` are of float32."""


def choose(names: Sequence[str], device: torch.device) -> tuple[tuple[Precision, ...], list[str]]:
    """The precisions that a device has instructions for, and a sentence on each other one.

    Args:
        names: Of precisions; one alone is taken in any case.
        device: The device.
    """
    asked = [PRECISIONS[name] for name in names]
    taken = [each for each in asked if len(asked) == 1 or each.suits(device)]
    notes = [
        f"{each} was left out, for which there are no instructions here; --precision {each}"
        " measures it"
        for each in asked
        if each not in taken
    ]
    return tuple(taken), notes
