"""What makes training faster or smaller changes nothing but rounding.

Compiling: tests/compilation.py.
"""

import pytest
import torch

from tarflow import ConfigurationError
from tarflow.nn.kernels import FlashAttention, ProductAttention, TorchAttention
from tarflow.training.acceleration import (
    compile_blocks,
    compiling,
    multiplied_in,
    networks,
    recompute,
    use_attention,
)
from tests.models import randomized, tiny_flow
from tests.nn.test_packing import flow_of
from tests.test_training.test_module import data, fit, tiny_module
from tests.test_training.test_module import tiny_flow as trained_flow

__all__ = ["data"]


def gradients(flow, seed=0):
    """Log-densities and gradients; dropout is drawn from a seed."""
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(seed)
    log_prob = flow.log_prob(x)
    return [log_prob, *torch.autograd.grad(log_prob.sum(), list(flow.parameters()))]


@pytest.mark.parametrize("num_layers", [0, 1, 2])
def test_recomputed_layers_give_the_same_gradients_with_dropout(num_layers):
    flow = randomized(tiny_flow(dropout=0.3)).train()
    expected = gradients(flow)
    recompute(flow, num_layers)
    for one, other in zip(gradients(flow), expected, strict=True):
        assert torch.equal(one, other)


def test_recomputed_layers_keep_less():
    def kept(num_layers: int) -> int:
        flow = tiny_flow(num_transforms=1, num_layers=4)
        recompute(flow, num_layers)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            flow.log_prob(torch.randn(64, 2, 4, 4))
        return sum(sizes)

    assert kept(0) > kept(2) > kept(4)
    assert kept(4) < kept(0) / 3


def test_too_many_recomputed_layers_are_refused():
    with pytest.raises(ConfigurationError, match=r"checkpointed_layers 3 must be in \[0, 2\]"):
        recompute(tiny_flow(), 3)


def test_a_shallow_transformer_recomputes_all_that_it_has():
    flow = tiny_flow(num_layers=(1, 3, 2))
    recompute(flow, 2)
    assert [network.num_recomputed for network in networks(flow)] == [1, 2, 2]
    with pytest.raises(ConfigurationError, match=r"checkpointed_layers 4 must be in \[0, 3\]"):
        recompute(flow, 4)


def test_a_kernel_that_cannot_compute_stops_a_run_at_its_start(data):
    module = tiny_module(trained_flow(), attention=FlashAttention())
    with pytest.raises(ConfigurationError, match=r"FlashAttention\(\) cannot serve"):
        fit(module, data, 1)


@pytest.mark.parametrize("kernel", [TorchAttention(), ProductAttention()])
def test_the_chosen_kernel_is_used_and_the_loss_is_the_same(data, kernel):
    flow = trained_flow()
    fit(tiny_module(flow, attention=kernel), data, 1)
    assert all(block.attention.kernel == kernel for block in flow.transform[1].network.blocks)


def test_layers_of_any_kind_are_recomputed_and_attend_by_the_chosen_kernel():
    flow = flow_of(None)  # of somebody else's layers
    x = torch.randn(3, 2, 1, 7)

    def found():
        log_prob = flow.log_prob(x)
        return [log_prob, *torch.autograd.grad(log_prob.sum(), list(flow.parameters()))]

    expected = found()
    recompute(flow, 2)
    assert all(map(torch.equal, found(), expected))
    use_attention(flow, ProductAttention(), torch.device("cpu"), torch.float32)
    block = flow.transform[1].network.blocks[1]
    assert block.attention.kernel == ProductAttention()
    for one, other in zip(found(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_kernels_agree_in_a_flow():
    flow = tiny_flow()
    expected = gradients(flow)
    use_attention(flow, ProductAttention(), torch.device("cpu"), torch.float32)
    for one, other in zip(gradients(flow), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_precision_of_products_follows_from_lightnings_name():
    names = ("bf16-mixed", "16-mixed", "32-true", "64-true", "bf16-true")
    found = [multiplied_in(name, torch.float32) for name in names]
    half, whole = torch.float16, torch.float32
    assert found == [torch.bfloat16, half, whole, whole, torch.bfloat16]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiler_that_fails_is_told_of_with_what_to_do():
    def failing(graph, inputs):
        raise OSError("no space left on device")

    flow = tiny_flow()
    compile_blocks(flow, failing)
    message = r"cannot be compiled \(.*no space left.*module.compile=false trains without"
    with pytest.raises(ConfigurationError, match=message), compiling():
        flow.log_prob(torch.randn(3, 2, 4, 4))
