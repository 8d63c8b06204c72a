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
from tarflow.flows.categories import Categories
from tarflow.flows.codec import Codec, Pixels, UniformDequantization
from tarflow.flows.conditioning import Conditioner, LabelConditioner, NoiseLevelConditioner
from tarflow.flows.context import NULL_CLASS, Context
from tarflow.flows.decoding import DecodeOptions, Decoder, PerTransform, Sequential
from tarflow.flows.distribution import FlowDistribution
from tarflow.flows.first_position import FirstPosition, FixedFirst, StartToken
from tarflow.flows.flow import Flow
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
from tarflow.flows.noise_levels import (
    LogNormalLevels,
    NoiseLevels,
    UniformLevels,
    UniformVarianceLevels,
)
from tarflow.flows.ordering import Alternating, Ordering, Raster
from tarflow.flows.position_conditioning import MaskConditioner, OrderConditioner
from tarflow.flows.pretrained import Pretrained, load
from tarflow.flows.reordering import Permute, Reverse
from tarflow.flows.report import Inverse, SamplingReport
from tarflow.flows.spline import SplineScale
from tarflow.flows.standardization import ColumnNormalization, Normalization, Whitening
from tarflow.flows.supports import Circle, HalfLine, Integers, Interval, Real, Simplex, Support
from tarflow.flows.table_columns import TableColumns
from tarflow.flows.tar_flow import TarFlow
from tarflow.flows.token_flow import TokenFlow
from tarflow.flows.transforms import Composition, Patchify, Transform
from tarflow.flows.vector_conditioning import (
    PrefixConditioner,
    TokenConditioner,
    VectorConditioner,
)
from tarflow.flows.vector_flow import VectorFlow
from tarflow.nn.feed_forward import FeedForward, GeluMLP, SwiGLU
from tarflow.nn.gates import Gate, SigmoidGate
from tarflow.nn.layers import AdaptiveNorm, Layer, PreNorm
from tarflow.nn.networks import Networks
from tarflow.nn.norms import LayerNormalization, Norm, RootMeanSquare
from tarflow.nn.positions import LearnedPositions, Positions, RotaryGrid, RotaryPositions
from tarflow.randomness import ExampleSeeds
from tarflow.registry import Part, register
from tarflow.sampling.annealed import annealed_samples
from tarflow.sampling.denoiser import (
    AutoDenoiser,
    Denoiser,
    OneStep,
    ProbabilityFlow,
    StochasticDenoising,
)
from tarflow.sampling.denoising import denoise
from tarflow.sampling.importance import importance_weights
from tarflow.students.inverse_student import InverseStudent
from tarflow.students.judgement import Chosen, Judgement, best_of, judge
from tarflow.students.placement import placed, placed_states, unplaced
from tarflow.students.solvers import Euler, Heun, Solver
from tarflow.students.student import Student
from tarflow.students.velocity_student import ShortcutStudent, VelocityStudent
from tarflow.tokenizers import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "NULL_CLASS",
    "AdaptiveNorm",
    "Affine",
    "Alternating",
    "AutoDenoiser",
    "AutoregressiveTransform",
    "Categories",
    "CheckpointError",
    "Chosen",
    "Circle",
    "Codec",
    "ColumnNormalization",
    "Composition",
    "Conditioner",
    "ConfigurationError",
    "ConstantSchedule",
    "Context",
    "ContextError",
    "DataError",
    "DecodeOptions",
    "Decoder",
    "Denoiser",
    "DiagonalNormal",
    "Euler",
    "ExampleSeeds",
    "ExpScale",
    "FeedForward",
    "FirstPosition",
    "FixedFirst",
    "Flow",
    "FlowDistribution",
    "Gate",
    "GaussianGuidance",
    "GaussianNoise",
    "GeluMLP",
    "Guidance",
    "HalfLine",
    "Heun",
    "Inpainting",
    "Integers",
    "Interval",
    "Inverse",
    "InverseStudent",
    "Jacobi",
    "Judgement",
    "LabelConditioner",
    "Layer",
    "LayerNormalization",
    "LearnedPositions",
    "LinearGuidance",
    "LinearScaleGuidance",
    "LinearSchedule",
    "LogNormalLevels",
    "MaskConditioner",
    "Networks",
    "NoNoise",
    "Noise",
    "NoiseLevelConditioner",
    "NoiseLevels",
    "NonFiniteError",
    "Norm",
    "Normalization",
    "OneStep",
    "OrderConditioner",
    "Ordering",
    "Part",
    "Patchify",
    "PerTransform",
    "Permute",
    "Pixels",
    "Positions",
    "PreNorm",
    "PrefixConditioner",
    "Pretrained",
    "ProbabilityFlow",
    "Raster",
    "Real",
    "Reverse",
    "RootMeanSquare",
    "RotaryGrid",
    "RotaryPositions",
    "SamplingReport",
    "Scale",
    "Sequential",
    "ShortcutStudent",
    "SigmoidGate",
    "Simplex",
    "SoftClipScale",
    "SoftplusScale",
    "Solver",
    "SplineScale",
    "StandardNormal",
    "StartToken",
    "StochasticDenoising",
    "Student",
    "Support",
    "SwiGLU",
    "TableColumns",
    "TarFlow",
    "TarflowError",
    "TokenConditioner",
    "TokenFlow",
    "Tokenizer",
    "Transform",
    "UniformDequantization",
    "UniformLevels",
    "UniformVarianceLevels",
    "UnitScale",
    "VectorConditioner",
    "VectorFlow",
    "VelocityStudent",
    "Whitening",
    "annealed_samples",
    "best_of",
    "denoise",
    "importance_weights",
    "inpaint",
    "interpolate",
    "judge",
    "load",
    "placed",
    "placed_states",
    "register",
    "unplaced",
]
