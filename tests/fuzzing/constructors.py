"""Arguments that the public classes and functions cannot use."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from tarflow import (
    Composition,
    ExampleSeeds,
    Flow,
    GaussianGuidance,
    GaussianNoise,
    Heun,
    InverseStudent,
    Jacobi,
    LinearGuidance,
    LinearScaleGuidance,
    Patchify,
    Permute,
    PerTransform,
    Pixels,
    Reverse,
    Sequential,
    ShortcutStudent,
    SoftClipScale,
    StandardNormal,
    TarFlow,
    UniformDequantization,
    VelocityStudent,
    best_of,
    judge,
)
from tarflow.data import ArrayDataset, ImageData, Shards, digits, random_images
from tarflow.editing.markov_chains import CrankNicolson, Hamiltonian
from tarflow.machine.processes import Process
from tarflow.sampling.calibration import calibrate
from tarflow.sampling.chunks import ChunkSize
from tests.fuzzing.judging import BadInput
from tests.models import tiny_flow, tiny_student

NAN, INF = float("nan"), float("inf")
NO_INTEGER = [1.5, "2", None, NAN, [3], True]
NO_COUNT = [0, -1, *NO_INTEGER]
NO_REAL = ["0.1", None, [0.1]]
NEGATIVE = [-1.0, NAN, *NO_REAL]
NOT_POSITIVE = [0.0, *NEGATIVE]
NO_DEPTHS = [[], [-1], [0.5], ["a"], 0, "0", [True], [None], 1.5]
NO_FRACTION = [-0.1, 1.0, 1.5, NAN, INF, "0.1", None, [0.5]]

BYTES = ArrayDataset(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3).long())
STUDENT = tiny_student(VelocityStudent, tiny_flow(num_classes=3), num_layers=1)
IMAGES = torch.zeros(2, 2, 4, 4)
TINY = {"image_size": 4, "patch_size": 2, "num_layers": 1, "model_dim": 16, "head_dim": 8}
ARGUMENTS: dict[Callable[..., Any], dict[str, list[Any]]] = {
    partial(TarFlow, **TINY): {
        "image_size": [0, -4, 5, 4.0, "4", None, (4,), (4, 4, 4), (4, 5), (4, "4"), (0, 4), True],
        "patch_size": [3, 8, *NO_COUNT],
        "num_channels": NO_COUNT,
        "num_transforms": NO_COUNT,
        "num_layers": NO_COUNT,
        "model_dim": [12, *NO_COUNT],
        "head_dim": [3, 32, *NO_COUNT],
        "expansion": NO_COUNT,
        "dropout": [-0.1, 1.1, NAN, INF, *NO_REAL],
        "num_classes": [-1, *NO_INTEGER],
        "conditioned": ["yes", 1, None, 0.5, [True], [1] * 8],
        "num_heads": [
            3,
            "2",
            [2] * 8,
            [[0]] * 8,
            [[0.5]] * 8,
            [["1"]] * 8,
            [[1]] * 7,
            [[1, 1]] * 8,
        ],
        "hidden_dims": [3, "2", [2] * 8, [[0]] * 8, [[0.5]] * 8, [["1"]] * 8, [[1]] * 7],
        "networks": [1, "01234567", [0], [1] * 8, [0.0] * 8, ["0"] * 8, [-1] * 8, [0] * 9],
        "scale": ["exp", None, 3, SoftClipScale, GaussianNoise()],
        "noise": ["gaussian", 0.1, GaussianNoise, SoftClipScale()],
    },
    partial(InverseStudent, **TINY): {
        "image_size": [0, 5, 4.0, "4", None, (4,), (4, "4")],
        "patch_size": [3, 8, (2, 2), *NO_COUNT],
        "num_channels": NO_COUNT,
        "num_blocks": NO_COUNT,
        "num_layers": NO_COUNT,
        "model_dim": [12, *NO_COUNT],
        "head_dim": [3, 32, *NO_COUNT],
        "expansion": NO_COUNT,
        "dropout": [-0.1, 1.1, NAN, INF, *NO_REAL],
        "num_classes": [-1, *NO_INTEGER],
        "layer": ["adaptive", None, 3, SoftClipScale()],
        "positions": ["learned", None, 3],
        "output_norm": ["layer", 3, SoftClipScale()],
        "codec": ["pixels", 17, Pixels],
        "class_names": ["cat", 3, ["cat"]],
    },
    partial(VelocityStudent, **TINY): {
        "steps": [1001, *NO_COUNT],
        "solver": ["euler", None, 3, Heun, Pixels()],
    },
    partial(ShortcutStudent, **TINY): {"solver": [Heun(), "euler", None]},
    partial(STUDENT.generate, IMAGES): {
        "weight": [NAN, INF, *NO_REAL, torch.zeros(3), torch.zeros(2) > 0, True],
        "steps": [value for value in NO_COUNT if value is not None],
    },
    partial(STUDENT.velocity, IMAGES): {"time": [NAN, INF, *NO_REAL, torch.zeros(3)]},
    partial(STUDENT.velocity, IMAGES, 0.5): {"step": [NAN, INF, *NO_REAL, torch.zeros(2, 1)]},
    STUDENT.sample: {"num_samples": [-1, *NO_INTEGER]},
    partial(best_of, STUDENT, tiny_flow(num_classes=3), num_samples=2): {"count": NO_COUNT},
    partial(judge, tiny_flow(), x=IMAGES): {
        "z": [None, 3, "z", torch.zeros(2, 4, 8), torch.zeros(1, 2, 4, 4)],
    },
    partial(judge, tiny_flow(), IMAGES): {"x": [None, 3, "x", IMAGES.long(), IMAGES[:, :1]]},
    partial(Patchify, image_size=(4, 4), patch_size=2): {
        "image_size": [(0, 4), (4,), "44", None, (4, 4.0), (-4, 4)],
        "patch_size": NO_COUNT,
    },
    Permute: {"order": [[0, 0], [1, 2], [0.0, 1.0], ["a"], [], None, 3, "10", [True, False]]},
    Composition: {"transforms": [3, [3], [torch.nn.ReLU()], "abc", [Reverse]]},
    partial(Flow, transforms=[Reverse()], base=StandardNormal(2, 2)): {
        "transforms": [3, [3], "abc"],
        "base": ["normal", None, StandardNormal, torch.nn.ReLU()],
        "codec": ["pixels", 17, Pixels],
        "noise": ["gaussian", 0.1, GaussianNoise, Pixels()],
    },
    partial(StandardNormal, length=2, patch_dim=2): {"length": NO_COUNT, "patch_dim": NO_COUNT},
    SoftClipScale: {"bound": NOT_POSITIVE},
    Pixels: {"levels": [1, *NO_COUNT]},
    GaussianNoise: {"std": [INF, *NEGATIVE]},
    UniformDequantization: {"levels": [1, *NO_COUNT]},
    LinearGuidance: {"weight": [INF, *NEGATIVE]},
    partial(LinearGuidance, 1.0): {
        "schedule": ["linear", None, 3],
        "temperature": [INF, *NOT_POSITIVE],
        "depths": NO_DEPTHS,
    },
    GaussianGuidance: {"weight": [INF, *NEGATIVE]},
    partial(LinearScaleGuidance, 1.0): {"schedule": ["linear", None, 3], "depths": NO_DEPTHS},
    Jacobi: {"window": NO_COUNT, "tolerance": [INF, *NOT_POSITIVE]},
    PerTransform: {"decoders": [None, 3, ("sequential",), Sequential(), [Jacobi]]},
    partial(ExampleSeeds, seed=0, indices=range(3)): {
        "seed": NO_INTEGER,
        "indices": [None, 3, "abc", [0.5], [None]],
    },
    Hamiltonian: {
        "burn_in": [-1, *NO_INTEGER],
        "num_steps": NO_COUNT,
        "num_leapfrog": NO_COUNT,
        "target_acceptance": [0.0, 1.0, *NEGATIVE],
        "first_step_size": [INF, *NOT_POSITIVE],
    },
    CrankNicolson: {"burn_in": [-1, *NO_INTEGER], "num_steps": NO_COUNT},
    ChunkSize: {"limit": [value for value in NO_COUNT if value is not None]},
    Process: {"rank": [-1, 1, 5, *NO_INTEGER], "world_size": NO_COUNT},
    digits: {"validation_fraction": NO_FRACTION},
    random_images: {
        "num_train": NO_COUNT,
        "num_test": NO_COUNT,
        "image_size": NO_COUNT,
        "num_channels": NO_COUNT,
        "num_classes": [-1, *NO_INTEGER],
        "levels": [1, 257, *NO_COUNT],
        "seed": [-1, *NO_INTEGER],
    },
    Shards: {"images_per_shard": NO_COUNT},
    partial(ArrayDataset, torch.zeros(3, 1, 2, 2, dtype=torch.uint8)): {
        "labels": [torch.zeros(2).long(), torch.zeros(4).long(), torch.zeros(0).long()],
    },
    partial(ImageData, "made up", BYTES, None, BYTES, num_classes=0, image_shape=(1, 2, 2)): {
        "codec": [17, None, "pixels", Pixels, GaussianNoise()],
    },
    partial(calibrate, tiny_flow(), batch_size=1): {
        "batch_size": NO_COUNT,
        "repetitions": NO_COUNT,
        "tolerance": NOT_POSITIVE,
        "windows": [["a"], [0.5], 3, "ab", [-3], [0]],
    },
}

NAMES = {"limit": "max_batch"}
"""What users call an argument, where it is another name."""


def bad_inputs() -> Iterator[BadInput]:
    """One argument wrong at a time."""
    for make, arguments in ARGUMENTS.items():
        name = getattr(make, "__name__", None) or make.func.__name__  # pyright: ignore
        for argument, values in arguments.items():
            for index, value in enumerate(values):
                yield BadInput(
                    f"{name}, {argument} {index}: {value!r}",
                    lambda folder, make=make, given={argument: value}: make(**given),
                    causes_of(argument, value),
                )


def causes_of(argument: str, value: Any) -> tuple[str, ...]:
    """What the message has to name: the value, or the argument."""
    names = (argument, argument.replace("_", " "), NAMES.get(argument, argument))
    return names if isinstance(value, tuple | list) else (*names, repr(value))
