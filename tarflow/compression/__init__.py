"""Flows made smaller: fewer neurons and heads, by interpolative decomposition."""

from tarflow.compression.activations import Activations, Measured, measure
from tarflow.compression.cost import Cost
from tarflow.compression.skeletons import Skeletons, compress
from tarflow.compression.units import Heads, Neurons, Units

__all__ = [
    "Activations",
    "Cost",
    "Heads",
    "Measured",
    "Neurons",
    "Skeletons",
    "Units",
    "compress",
    "measure",
]
