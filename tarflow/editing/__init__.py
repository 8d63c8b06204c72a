"""Data that a flow keeps likely: paths between two, and wholes of a part."""

from tarflow.editing.inpainting import Inpainting, inpaint
from tarflow.editing.interpolation import interpolate
from tarflow.editing.markov_chains import CrankNicolson, Hamiltonian

__all__ = ["CrankNicolson", "Hamiltonian", "Inpainting", "inpaint", "interpolate"]
