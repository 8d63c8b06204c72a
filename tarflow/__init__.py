"""Transformer autoregressive flows: exact likelihoods and samples from one model."""

from tarflow.editing import Inpainting, inpaint, interpolate
from tarflow.errors import (
    CheckpointError,
    ConfigurationError,
    ContextError,
    DataError,
    NonFiniteError,
    TarflowError,
)
from tarflow.flows.affine import Affine, ExpScale, Scale, SoftClipScale, SoftplusScale, UnitScale
from tarflow.flows.autoregressive import AutoregressiveTransform
from tarflow.flows.base import DiagonalNormal, StandardNormal
from tarflow.flows.codec import Codec, Pixels, UniformDequantization
from tarflow.flows.conditioning import Conditioner, LabelConditioner
from tarflow.flows.context import NULL_CLASS, Context
from tarflow.flows.decoding import DecodeOptions, Decoder, PerTransform, Sequential
from tarflow.flows.flow import Flow, load
from tarflow.flows.guidance import (
    ConstantSchedule,
    GaussianGuidance,
    Guidance,
    LinearGuidance,
    LinearScaleGuidance,
    LinearSchedule,
)
from tarflow.flows.jacobi import Jacobi
from tarflow.flows.noise import GaussianNoise, Noise, NoNoise
from tarflow.flows.ordering import Alternating, Ordering, Raster
from tarflow.flows.report import Inverse, SamplingReport
from tarflow.flows.tar_flow import TarFlow
from tarflow.flows.transforms import Composition, Patchify, Permute, Reverse, Transform
from tarflow.nn.networks import Networks
from tarflow.nn.transformer import Layer, PreNorm
from tarflow.randomness import ExampleSeeds
from tarflow.registry import Part, register
from tarflow.sampling.denoising import denoise

__version__ = "0.1.0"

__all__ = [
    "NULL_CLASS",
    "Affine",
    "Alternating",
    "AutoregressiveTransform",
    "CheckpointError",
    "Codec",
    "Composition",
    "Conditioner",
    "ConfigurationError",
    "ConstantSchedule",
    "Context",
    "ContextError",
    "DataError",
    "DecodeOptions",
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
    "LabelConditioner",
    "Layer",
    "LinearGuidance",
    "LinearScaleGuidance",
    "LinearSchedule",
    "Networks",
    "NoNoise",
    "Noise",
    "NonFiniteError",
    "Ordering",
    "Part",
    "Patchify",
    "PerTransform",
    "Permute",
    "Pixels",
    "PreNorm",
    "Raster",
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
    "UniformDequantization",
    "UnitScale",
    "denoise",
    "inpaint",
    "interpolate",
    "load",
    "register",
]
