"""Precisions by name."""

import pytest
import torch

from tarflow import ConfigurationError
from tarflow.nn.precisions import PRECISIONS, Precision
from tarflow.nn.products import has_half_kernels, has_kernels

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_precision_is_found_by_its_name(name):
    precision = Precision.of(name)
    assert str(precision) == precision.name == name
    assert Precision.of(precision.name) is precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_dtype_is_a_precision_of_all(dtype):
    precision = Precision.of(dtype)
    assert (precision.dtype, precision.products, precision.weights) == (dtype,) * 3
    assert precision.eps == torch.finfo(dtype).eps
    assert precision is Precision.of(str(dtype).removeprefix("torch."))


def test_mixed_precisions_are_of_float32_tensors_and_round_as_their_factors():
    products, weights = map(Precision.of, ("bfloat16_products", "float16_weights"))
    assert products.dtype == weights.dtype == torch.float32
    assert products.eps == torch.finfo(torch.bfloat16).eps
    assert weights.eps == torch.finfo(torch.float16).eps


@pytest.mark.parametrize("value", [torch.int8, "int8", "float32 ", "torch", ""])
def test_what_is_none_is_refused(value):
    with pytest.raises(
        ConfigurationError, match=r"choose one of torch.float32, .*float16_weights"
    ):
        Precision.of(value)


def test_what_suits_a_cpu_is_what_it_has_instructions_for():
    suits = {name: precision.suits(CPU) for name, precision in PRECISIONS.items()}
    assert suits == {
        "float32": True,
        "float64": True,
        "bfloat16": has_kernels(torch.bfloat16),
        "float16": has_kernels(torch.float16),
        "bfloat16_products": has_kernels(torch.bfloat16),
        "float16_weights": has_half_kernels(),
    }


def test_what_suits_another_device():
    """One for which torch tells of no instructions."""
    suited = {name for name, each in PRECISIONS.items() if each.suits(torch.device("mps"))}
    assert suited == {"float32", "float64", "float16"}
