"""Transformer autoregressive flows: exact likelihoods and samples from one model."""

from tarflow.affine import Affine, ExpScale, Scale, SoftClipScale, SoftplusScale, UnitScale
from tarflow.autoregressive import AutoregressiveTransform
from tarflow.base import DiagonalNormal, StandardNormal
from tarflow.context import NULL_CLASS, Context
from tarflow.decoding import Decoder, PerTransform, Sequential
from tarflow.denoising import denoise
from tarflow.editing import Inpainting, inpaint, interpolate
from tarflow.errors import (
    CheckpointError,
    ConfigurationError,
    ContextError,
    DataError,
    NonFiniteError,
    TarflowError,
)
from tarflow.flow import Flow
from tarflow.guidance import (
    ConstantSchedule,
    GaussianGuidance,
    Guidance,
    LinearGuidance,
    LinearSchedule,
)
from tarflow.jacobi import Jacobi
from tarflow.nn.prepared import Networks
from tarflow.noise import GaussianNoise, Noise, UniformDequantization
from tarflow.randomness import ExampleSeeds
from tarflow.report import SamplingReport, TransformReport
from tarflow.tar_flow import TarFlow
from tarflow.transforms import Composition, Inverse, Patchify, Permute, Reverse, Transform

__version__ = "0.1.0"

__all__ = [
    "NULL_CLASS",
    "Affine",
    "AutoregressiveTransform",
    "CheckpointError",
    "Composition",
    "ConfigurationError",
    "ConstantSchedule",
    "Context",
    "ContextError",
    "DataError",
    "Decoder",
    "DiagonalNormal",
    "ExampleSeeds",
    "ExpScale",
    "Flow",
    "GaussianGuidance",
    "GaussianNoise",
    "Guidance",
    "Inpainting",
    "Inverse",
    "Jacobi",
    "LinearGuidance",
    "LinearSchedule",
    "Networks",
    "Noise",
    "NonFiniteError",
    "Patchify",
    "PerTransform",
    "Permute",
    "Reverse",
    "SamplingReport",
    "Scale",
    "Sequential",
    "SoftClipScale",
    "SoftplusScale",
    "StandardNormal",
    "TarFlow",
    "TarflowError",
    "Transform",
    "TransformReport",
    "UniformDequantization",
    "UnitScale",
    "denoise",
    "inpaint",
    "interpolate",
]
