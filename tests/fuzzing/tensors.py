"""Tensors, labels and options that a flow cannot use."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from tarflow import (
    Context,
    ExampleSeeds,
    GaussianNoise,
    Jacobi,
    LinearGuidance,
    PerTransform,
    Sequential,
    denoise,
    inpaint,
    interpolate,
)
from tarflow.editing.markov_chains import CrankNicolson, Hamiltonian
from tarflow.sampling.drawing import read_classes, sample_batches
from tests.fuzzing.judging import BadInput, calls
from tests.models import tiny_flow

FLOW = tiny_flow(num_classes=3, noise=GaussianNoise(std=0.1)).eval()
Values = dict[str, tuple[Any, tuple[str, ...]]]

X, Z = torch.zeros(3, 2, 4, 4), torch.zeros(3, 4, 8)
SHORT = Hamiltonian(burn_in=1, num_steps=1, num_leapfrog=1)


def filled(like: torch.Tensor, value: float) -> torch.Tensor:
    """Zeros but for one value."""
    x = like.clone()
    x.view(-1)[5] = value
    return x


def kinds(like: torch.Tensor) -> Values:
    """What is of the wrong kind, whatever its shape."""
    return {
        "integers": (like.long(), ("int64",)),
        "bytes": (like.to(torch.uint8), ("uint8",)),
        "truth values": (like.bool(), ("bool",)),
        "complex numbers": (like.to(torch.complex64), ("complex64",)),
        "on another device": (like.to("meta"), ("meta",)),
        "a list": (like.tolist(), ("list",)),
        "an array": (like.numpy(), ("ndarray",)),
        "text": ("images.npy", ("str",)),
        "nothing": (None, ("None",)),
        "a number": (3, ("int",)),
    }


def non_finite(like: torch.Tensor) -> Values:
    """What holds numbers that are none."""
    cause = ("not finite",)
    return {
        "NaN": (filled(like, torch.nan), cause),
        "infinity": (filled(like, torch.inf), cause),
        "minus infinity": (filled(like, -torch.inf), cause),
        "all NaN": (torch.full_like(like, torch.nan), cause),
    }


MARKED = ("NaN", "infinity", "minus infinity")
"""What spoils one example of a batch, which is marked and does not end the work."""


def shaped(*shapes: tuple[int, ...]) -> Values:
    """Zeros of wrong shapes."""
    return {f"shape {shape}": (torch.zeros(shape), (str(shape),)) for shape in shapes}


IMAGES = shaped(
    *[(), (4,), (4, 4), (2, 4, 4), (3, 2, 4), (1, 3, 2, 4, 4), (3, 1, 4, 4), (3, 3, 4, 4)],
    *[(3, 2, 5, 4), (3, 2, 4, 5), (3, 2, 8, 8), (3, 2, 2, 8), (3, 4, 4, 2), (3, 2, 0, 4)],
)
NOISES = shaped((), (8,), (4, 8), (3, 4), (3, 4, 7), (3, 5, 8), (3, 8, 4), (3, 2, 4, 4), (3, 0, 8))
LABELS: Values = {
    "too large": (torch.tensor([0, 1, 3]), ("3",)),
    "below null": (torch.tensor([0, 1, -2]), ("-2",)),
    "huge": (torch.tensor([0, 1, 2**40]), (str(2**40),)),
    "one too large": (3, ("3",)),
    "one below null": (-2, ("-2",)),
    "huge number": (2**70, (str(2**70),)),
    "fraction": (1.5, ("1.5", "float")),
    "truth value": (True, ("bool",)),
    "text": ("cat", ("cat",)),
    "list of text": (["a", "b", "c"], ("'a'",)),
    "ragged list": ([[1], [1, 2]], ("[1, 2]",)),
    "dictionary": ({"labels": 1}, ("labels is unknown",)),
    "object": (object(), ("object",)),
    "too few": (torch.tensor([0, 1]), ("(2,)",)),
    "too many": (torch.tensor([0, 1, 2, 0]), ("(4,)",)),
    "none at all": (torch.tensor([], dtype=torch.long), ("(0,)",)),
    "two axes": (torch.tensor([[0], [1], [2]]), ("(3, 1)",)),
    "one-hot": (torch.eye(3, dtype=torch.long), ("(3, 3)",)),
    "floats": (torch.tensor([0.0, 1, 2]), ("float32",)),
    "NaN": (torch.full((3,), torch.nan), ("float32",)),
    "truth values": (torch.tensor([True, False, True]), ("bool",)),
    "complex": (torch.zeros(3, dtype=torch.complex64), ("complex64",)),
    "array of text": (np.array(["a", "b", "c"]), ("labels are integers",)),
    "array of objects": (np.array([0, "a", None], object), ("labels are integers",)),
    "context with floats": (Context(label=torch.zeros(3)), ("float32",)),
    "context with a list": (Context(label=["a", "b", "c"]), ("'a'",)),
    "context with too few": (Context(label=torch.tensor([0])), ("(1,)",)),
    "context with another temperature": (Context(temperature=torch.ones(2)), ("(2,)",)),
    "context with text": (Context(temperature="warm"), ("warm",)),
    "context without temperature": (Context(temperature=torch.zeros(3)), ("temperature",)),
    "context with NaN": (Context(temperature=torch.full((3,), torch.nan)), ("temperature",)),
    "context with cold": (Context(temperature=torch.full((3,), -1.0)), ("temperature",)),
    "context with integers": (Context(temperature=torch.ones(3).long()), ("temperature",)),
}
VALUES = (
    *("too large", "below null", "huge"),
    *("context without temperature", "context with NaN", "context with cold"),
)
"""What only a look at values tells, for which densities do not wait."""

COUNTS: Values = {
    "-1": (-1, ("-1",)),
    "a fraction": (1.5, ("1.5",)),
    "text": ("3", ("3",)),
    "nothing": (None, ("None",)),
    "NaN": (float("nan"), ("nan",)),
    "a tensor": (torch.ones(2), ("tensor", "Tensor")),
    "a list": ([3], ("[3]",)),
    "a truth value": (True, ("True",)),
}
SOURCES: Values = {
    "text": ("seed", ("seed",)),
    "a number": (3, ("3",)),
    "too few seeds": (ExampleSeeds(0, range(2)), ("2 example seeds",)),
    "a list of seeds": ([1, 2, 3], ("[1, 2, 3]",)),
    "a class": (torch.Generator, ("Generator",)),
}
OPTIONS: Values = {
    "guidance by name": ({"guidance": "linear"}, ("linear",)),
    "guidance by weight": ({"guidance": 1.5}, ("1.5",)),
    "guidance by class": ({"guidance": LinearGuidance}, ("LinearGuidance",)),
    "decoder by name": ({"decoder": "jacobi"}, ("jacobi",)),
    "decoder by class": ({"decoder": Jacobi}, ("Jacobi",)),
    "no decoder": ({"decoder": None}, ("None",)),
    "too few decoders": ({"decoder": PerTransform((Sequential(),))}, ("1 transforms",)),
    "no decoders": ({"decoder": PerTransform(())}, ("0 transforms",)),
    "precision by name": ({"dtype": "float16"}, ("float16",)),
    "integers": ({"dtype": torch.int32}, ("int32",)),
    "complex": ({"dtype": torch.complex64}, ("complex64",)),
    "networks": ({"networks": 3}, ("3",)),
    "options by name": ({"options": "fast"}, ("fast",)),
}


def of_data() -> dict[str, Callable[[Any], Any]]:
    """What takes data."""
    return {
        "log_prob": FLOW.log_prob,
        "forward": FLOW,
        "score": FLOW.score,
        "denoise": lambda x: denoise(FLOW, x),
        "interpolate": lambda x: interpolate(FLOW, x, x),
        "inpaint": lambda x: inpaint(FLOW, x, torch.tensor(True), sampler=SHORT),
    }


def check_density(label: Any) -> None:
    """Compute densities, and ask whether they are finite."""
    FLOW.check_finite(FLOW.log_prob(X, label), X, label)


def bad_inputs() -> Iterator[BadInput]:
    """All of them."""
    images = IMAGES | kinds(X) | non_finite(X)
    for name, function in of_data().items():
        # What is not finite is found after the fact, by `check_finite`; or marked and told.
        through = tuple(non_finite(X)) if name in ("log_prob", "forward", "score") else ()
        through = MARKED if name in ("denoise", "interpolate") else through
        yield from calls(f"{name} of images", function, images, through)
    decoders = {
        "inverse": FLOW.inverse,
        "decode, windows": lambda z: FLOW.decode(z, decoder=Jacobi(2)),
    }
    with torch.no_grad():
        for name, function in decoders.items():
            noises = NOISES | kinds(Z) | non_finite(Z)
            yield from calls(f"{name} of noise", function, noises, MARKED)
        yield from calls("sample", lambda y: FLOW.sample(3, y), LABELS)
        yield from calls("log_prob", lambda y: FLOW.log_prob(X, y), LABELS, VALUES)
        yield from calls("check_finite", check_density, LABELS)
        yield from calls("denoise", lambda y: denoise(FLOW, X, y), LABELS)
        yield from calls("sample, options", lambda options: FLOW.sample(3, **options), OPTIONS)
        yield from calls("source", lambda source: FLOW.sample(3, source=source), SOURCES)
        yield from calls("num_samples", FLOW.sample, COUNTS)
        yield from calls("num_samples, log_prob", FLOW.sample_and_log_prob, COUNTS)
        yield from editing()
        yield from batches()


def editing() -> Iterator[BadInput]:
    """Arguments of `denoise`, `interpolate` and `inpaint`."""
    stds: Values = {
        "negative": (-0.1, ("-0.1",)),
        "NaN": (torch.nan, ("nan",)),
        "text": ("0.1", ("0.1",)),
        "infinite": (torch.inf, ("inf",)),
    }
    whole = torch.tensor(True)
    yield from calls("denoise, noise_std", lambda std: denoise(FLOW, X, None, std), stds)
    limits = {name: COUNTS[name] for name in ("-1", "a fraction", "text", "a list")}
    limits["0"] = (0, ("0",))
    yield from calls("denoise, max_batch", lambda n: denoise(FLOW, X, max_batch=n), limits)
    yield from calls("interpolate, steps", lambda n: interpolate(FLOW, X, X, n), limits)
    yield from calls(
        "inpaint, num_samples",
        lambda n: inpaint(FLOW, X, whole, sampler=SHORT, num_samples=n),
        {**limits, "2": (2, ("2",))},
    )
    yield from calls(
        "inpaint, noise_std",
        lambda std: inpaint(FLOW, X, whole, noise_std=std, sampler=SHORT),
        {**stds, "0": (0.0, ("0.0",))},
    )
    masks: Values = {
        "floats": (torch.ones(4), ("float32",)),
        "integers": (torch.ones(4).long(), ("int64",)),
        "shape": (torch.ones(5).bool(), ("(5,)",)),
        "axes": (torch.ones(1, 1, 1, 1, 1).bool(), ("(1, 1, 1, 1, 1)",)),
        "list": ([True], ("[True]",)),
        "truth value": (True, ("bool",)),
        "nothing": (None, ("None",)),
    }
    yield from calls("mask", lambda mask: inpaint(FLOW, X, mask, sampler=SHORT), masks)
    yield from calls(
        "interpolate, shapes", lambda x: interpolate(FLOW, X, x), shaped((2, 2, 4, 4), (4, 4))
    )
    kinds_of_sampler: Values = {
        "by name": ("hmc", ("hmc",)),
        "by class": (CrankNicolson, ("CrankNicolson",)),
    }
    yield from calls(
        "inpaint, sampler", lambda s: inpaint(FLOW, X, whole, sampler=s), kinds_of_sampler
    )


def batches() -> Iterator[BadInput]:
    """Arguments of drawing many samples, and choices of classes."""
    sizes = {**COUNTS, "0": (0, ("0",))}
    yield from calls(
        "sample_batches, number", lambda n: list(sample_batches(FLOW, n, None, 0, 2)), sizes
    )
    yield from calls(
        "sample_batches, size", lambda n: list(sample_batches(FLOW, 3, None, 0, n)), sizes
    )
    choices: Values = {
        "unknown word": ("some", ("some",)),
        "too large": (3, ("3",)),
        "below null": (-2, ("-2",)),
        "empty list": ([], ("[]",)),
        "list with null": ([0, -1], ("-1",)),
        "list of text": (["a"], ("'a'",)),
        "fraction": (0.5, ("0.5",)),
        "list of fractions": ([0.5], ("0.5",)),
        "nothing": (None, ("None",)),
        "truth value": (True, ("True",)),
    }
    yield from calls("choice of classes", lambda c: read_classes(c, 3), choices)
