"""Gives numbers of NumPy and torch to whatever keeps numbers; a program, for tests check types."""

import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tarflow import (
    ExampleSeeds,
    GaussianNoise,
    Jacobi,
    LabelConditioner,
    LinearGuidance,
    Pixels,
    SoftClipScale,
    TarFlow,
    load,
)
from tarflow.editing import Hamiltonian
from tarflow.evaluation import LikelihoodMetrics, SampleMetrics
from tarflow.machine.processes import Process
from tarflow.training.objective import MaximumLikelihood
from tarflow.training.optimizers import adamw, muon


def check_parts(integer: Any, real: Any) -> None:
    """Make one of everything, and look at what it keeps."""
    parts = [
        GaussianNoise(real(0.25)),
        Pixels(integer(17)),
        SoftClipScale(real(2.0)),
        LabelConditioner(integer(10)),
        LinearGuidance(real(1.5), real(2.0)),
        Jacobi(integer(8), real(0.25)),
        ExampleSeeds(integer(3), range(2)),
        MaximumLikelihood(real(0.25)),
        Process(integer(1), integer(2)),
        Hamiltonian(integer(2), integer(3), real(0.5), real(0.25), integer(4)),
        LikelihoodMetrics(batch_size=integer(4), seed=integer(1)),
        SampleMetrics(num_samples=integer(4), seeds=[integer(0)], num_reference=integer(9)),
    ]
    for part in parts:
        values = [each if isinstance(each, tuple) else (each,) for each in vars(part).values()]
        numbers = [n for each in values for n in each if hasattr(n, "__float__")]
        assert numbers, part
        assert {type(number) for number in numbers} <= {int, float, bool}, part


def save_flow(folder: Path) -> None:
    """Save a flow of such numbers, and load it."""
    flow = TarFlow(
        np.array([4, 4]).tolist(),
        np.int64(2),
        np.int32(1),
        num_transforms=np.int16(2),
        num_layers=[np.int64(1), np.int8(1)],
        model_dim=np.uint8(16),
        head_dim=torch.tensor(8),
        dropout=np.float32(0.25),
        num_classes=torch.tensor([0, 9, 3]).max() + 1,
        scale=SoftClipScale(np.float32(3)),
        codec=Pixels(np.int64(17)),
        noise=GaussianNoise(std=np.float32(0.05)),
    )
    flow.save_pretrained(folder)
    assert vars(load(folder).description) == vars(flow.description)


def check_optimizer(make: Any, real: Any, file: Path) -> None:
    """Keep the state of an optimizer, and read it without pickles."""
    numbers = {"lr": real(0.25), "betas": (real(0.5), real(0.75)), "weight_decay": real(0.5)}
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    torch.save(make(network.named_parameters(), **numbers).state_dict(), file)
    found = torch.load(file, weights_only=True)["param_groups"][0]
    assert (found["lr"], found["betas"]) == (0.25, (0.5, 0.75))
    assert type(found["lr"]) is float


if __name__ == "__main__":
    for kinds in product((np.int64, np.uint8, torch.tensor), (np.float32, np.array, torch.tensor)):
        check_parts(*kinds)
    for make, kind in product((adamw, muon), (np.float32, np.array, torch.tensor)):
        check_optimizer(make, kind, Path(sys.argv[1]) / "state")
    save_flow(Path(sys.argv[1]))
