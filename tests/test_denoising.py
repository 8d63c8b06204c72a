"""Tweedie's formula."""

import pytest
import torch

from tarflow import (
    ConfigurationError,
    Context,
    Flow,
    GaussianNoise,
    NonFiniteError,
    NoNoise,
    Reverse,
    StandardNormal,
    denoise,
)
from tarflow.sampling.chunks import ChunkSize, InsufficientMemoryError

from .memory import limit_memory
from .models import tiny_flow


@pytest.fixture
def noisy() -> Flow:
    """A flow that knows the noise it was trained with, in float64."""
    return tiny_flow(num_classes=3, noise=GaussianNoise(std=0.3)).double()


def test_denoising_moves_by_the_variance_times_the_score(noisy, x, y):
    torch.testing.assert_close(denoise(noisy, x, y, 0.5), x + 0.25 * noisy.score(x, y))


def test_the_standard_deviation_is_by_default_that_of_the_flow(noisy, x, y):
    assert torch.equal(denoise(noisy, x, y), denoise(noisy, x, y, 0.3))


def test_denoising_a_gaussian_is_its_posterior_mean():
    # Clean data of variance 1 - s^2 and noise of variance s^2: the posterior mean is (1 - s^2) x.
    flow, x = Flow([Reverse()], StandardNormal(3, 2)), torch.randn(4, 3, 2)
    torch.testing.assert_close(denoise(flow, x, noise_std=0.6), 0.64 * x)


@pytest.mark.parametrize("noise", [None, NoNoise()])
def test_denoising_needs_a_standard_deviation(x, noise):
    flow = tiny_flow(noise=noise).double()
    with pytest.raises(ValueError, match="noise_std"):
        denoise(flow, x)


def test_denoising_builds_no_graph_and_leaves_the_input_alone(noisy, x, y):
    x.requires_grad_()
    before = x.detach().clone()
    assert not denoise(noisy, x, y).requires_grad
    assert torch.equal(x, before)
    assert x.grad is None
    assert all(parameter.grad is None for parameter in noisy.parameters())


@pytest.mark.parametrize("max_batch", [1, 3, 4, 9])
def test_chunks_change_nothing(noisy, x, y, max_batch):
    torch.testing.assert_close(denoise(noisy, x, y, max_batch=max_batch), denoise(noisy, x, y))
    context = Context(y, torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64))
    whole = denoise(noisy, x, context)
    torch.testing.assert_close(denoise(noisy, x, context, max_batch=max_batch), whole)
    one_label = denoise(noisy, x, 1)
    torch.testing.assert_close(denoise(noisy, x, 1, max_batch=max_batch), one_label)


def test_memory_that_runs_out_halves_the_chunks_of_this_call_and_later_ones(noisy, x, y):
    expected, chunks = denoise(noisy, x, y), ChunkSize()
    memory = limit_memory(noisy, 1)
    with pytest.warns(RuntimeWarning, match="going on with 1 examples at a time"):
        torch.testing.assert_close(denoise(noisy, x, y, max_batch=chunks), expected)
    assert memory.asked == [4, 2, 1, 1, 1, 1]
    torch.testing.assert_close(denoise(noisy, x, y, max_batch=chunks), expected)
    assert memory.asked[6:] == [1, 1, 1, 1]
    assert all(parameter.requires_grad for parameter in noisy.parameters())


def test_the_memory_of_a_cpu_runs_out_with_an_error_of_its_own(noisy, x, y):
    expected = denoise(noisy, x, y)
    limit_memory(noisy, 2, RuntimeError("DefaultCPUAllocator: not enough memory: you tried to"))
    with pytest.warns(RuntimeWarning, match="going on with 2"):
        torch.testing.assert_close(denoise(noisy, x, y), expected)


def test_not_even_one_example_fits(noisy, x):
    limit_memory(noisy, 0)
    with pytest.raises(InsufficientMemoryError, match="one example at a time"):
        denoise(noisy, x)
    assert all(parameter.requires_grad for parameter in noisy.parameters())


def test_the_backward_pass_is_that_of_x_alone(noisy, x, y):
    weights = {parameter.data_ptr(): parameter.shape for parameter in noisy.parameters()}
    noisy.requires_grad_(False)
    expected = saved_numbers(noisy, x, y, weights)
    noisy.requires_grad_(True)
    assert saved_numbers(noisy, x, y, weights) == expected
    kept = [parameter for parameter in noisy.parameters() if parameter.requires_grad]
    assert len(kept) == len(list(noisy.parameters()))


def saved_numbers(flow, x, y, weights):
    """How many numbers the backward pass of denoising finds kept, besides weights."""
    count = 0

    def pack(tensor):
        nonlocal count
        count += tensor.numel() if tensor.data_ptr() not in weights else 0
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        denoise(flow, x, y)
    return count


def test_frozen_parameters_stay_frozen(noisy, x):
    frozen = next(noisy.parameters()).requires_grad_(False)
    denoise(noisy, x)
    learned = [parameter for parameter in noisy.parameters() if parameter.requires_grad]
    assert len(learned) == len(list(noisy.parameters())) - 1
    assert not frozen.requires_grad


def test_denoising_in_inference_mode(noisy, x, y):
    expected = denoise(noisy, x, y)
    with torch.inference_mode():
        torch.testing.assert_close(denoise(noisy, x.clone(), y.clone(), max_batch=3), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_transformers_in_half_precision(noisy, x, y, dtype):
    flow, x = noisy.float(), x.float()
    expected, seen = denoise(flow, x, y), set()
    for module in flow.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, inputs, result: seen.add(result.dtype))
    clean = denoise(flow, x, y, dtype=dtype)
    assert seen == {dtype}
    assert clean.dtype == torch.float32
    difference = (clean - expected).abs().max()
    assert 0 < difference < 0.02


def test_the_precision_of_the_weights_by_name(noisy, x, y):
    assert torch.equal(denoise(noisy, x, y, dtype=torch.float64), denoise(noisy, x, y))
    flow, x = noisy.float(), x.float()
    assert torch.equal(denoise(flow, x, y, dtype=torch.float32), denoise(flow, x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int32])
def test_a_precision_that_autocast_would_ignore_is_refused(noisy, x, dtype):
    with pytest.raises(ConfigurationError, match=r"torch.float64 cannot denoise in .*float\(\)"):
        denoise(noisy, x, dtype=dtype)


def test_a_gradient_that_overflows_is_refused(x):
    flow = Flow([Steep()], StandardNormal(3, 2))
    with pytest.raises(NonFiniteError, match=r"gradient .* not finite: denoise in a higher"):
        denoise(flow, torch.zeros(4, 3, 2), noise_std=0.5)


class Steep(Reverse):
    """The density is finite at zero, and its gradient is not."""

    def forward(self, x, context):
        return super().forward(x, context)[0], x.abs().sqrt().sum(dim=(1, 2))


def test_an_empty_batch(noisy):
    assert denoise(noisy, torch.zeros(0, 2, 4, 4, dtype=torch.float64)).shape == (0, 2, 4, 4)
