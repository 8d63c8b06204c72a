"""Thresholds of compression, found by what they leave to compute."""

from collections.abc import Callable

from tarflow.compression.cost import mlp_operations
from tarflow.errors import ConfigurationError
from tarflow.flows.tar_flow import TarFlow

BISECTIONS = 22
LARGEST = 30.0
"""Thresholds are powers of two, whose exponents are at most so large; known to 1 in 100,000."""


def at_share(flow: TarFlow, compressed: Callable[[float], TarFlow], share: float) -> TarFlow:
    """The compressed flow of the lowest threshold that leaves a share of the MLPs' operations.

    Args:
        flow: The flow.
        compressed: Makes the compressed one of a threshold: the higher, the smaller.
        share: The share, which is not exceeded.

    Raises:
        ConfigurationError: No threshold leaves as little.
    """
    found, low, high = None, -LARGEST, LARGEST
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        candidate = compressed(2.0**middle)
        if mlp_operations(candidate) <= share * mlp_operations(flow):
            found, high = candidate, middle
        else:
            low = middle
    if found is None:
        raise ConfigurationError(f"no threshold leaves {share:g} of the operations of the MLPs")
    return found
