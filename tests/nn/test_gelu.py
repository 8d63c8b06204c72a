"""The GELU that compilers leave as it is, against the definition."""

import pytest
import torch
from torch.autograd import gradcheck

from tarflow.nn.gelu import UncompiledGELU, uncompiled_gelu


@pytest.fixture
def x() -> torch.Tensor:
    """Numbers of either sign, some of them large."""
    return torch.randn(3, 5, 8, dtype=torch.float64).mul(3).requires_grad_()


@pytest.mark.parametrize("gelu", [UncompiledGELU(), uncompiled_gelu], ids=["eager", "uncompiled"])
def test_it_is_x_times_the_probability_of_less(gelu, x):
    torch.testing.assert_close(gelu(x), x * (1 + torch.erf(x / 2**0.5)) / 2)
    assert gradcheck(gelu, x)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of the check
def test_what_compilers_need_to_know_of_it_is_true(x):
    torch.library.opcheck(uncompiled_gelu, (x,))
    torch.library.opcheck(uncompiled_gelu, (x.detach().transpose(0, 2),))
