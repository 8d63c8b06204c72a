"""The contract of transforms, for all of the registry; then what each promises by itself."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tarflow import Composition, Context, ExpScale, Patchify, Permute, Reverse

from .models import tiny_autoregressive
from .registry import REGISTRY, Case

ROUND_TRIP = {torch.float64: 1e-9, torch.float32: 1e-4}


@pytest.fixture(params=REGISTRY.values(), ids=REGISTRY.keys())
def case(request) -> Case:
    """Each transform of the registry."""
    return request.param


def test_shapes(case):
    transform, x = case.build(), case.data(torch.float32)
    z, log_det = transform(x, case.context)
    assert z.numel() == x.numel()
    assert log_det.shape == (3,)
    assert transform.inverse(z, case.context).x.shape == x.shape


@pytest.mark.parametrize("dtype", ROUND_TRIP)
@pytest.mark.parametrize("grad", [True, False])
def test_inverse_undoes_forward(case, dtype, grad):
    transform, x = case.build().to(dtype), case.data(dtype)
    with torch.set_grad_enabled(grad):
        z, log_det = transform(x, case.context)
        restored = transform.inverse(z, case.context).x
    assert z.dtype == log_det.dtype == restored.dtype == dtype
    torch.testing.assert_close(restored, x, rtol=0, atol=ROUND_TRIP[dtype])


@pytest.mark.parametrize("dtype", ROUND_TRIP)
def test_forward_undoes_inverse(case, dtype):
    transform = case.build().to(dtype)
    shape = transform(case.data(dtype), case.context)[0].shape
    z = torch.randn(shape, dtype=dtype)
    restored, _ = transform(transform.inverse(z, case.context).x, case.context)
    torch.testing.assert_close(restored, z, rtol=0, atol=ROUND_TRIP[dtype])


def test_log_det_is_that_of_the_jacobian(case):
    transform, x = case.build().double(), case.data(torch.float64)
    _, log_det = transform(x, case.context)

    def sum_of_outputs(x):  # examples are independent: the sum's Jacobian holds each one's
        return transform(x, case.context)[0].sum(dim=0)

    jacobian = torch.autograd.functional.jacobian(sum_of_outputs, x)
    dims = x[0].numel()
    matrices = jacobian.reshape(dims, 3, dims).transpose(0, 1)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(matrices).logabsdet)


def test_examples_are_independent(case):
    transform, x = case.build().double(), case.data(torch.float64)

    def first_example(x):
        z, log_det = transform(x, case.context)
        return z[0].sum() + log_det[0]

    gradient = torch.autograd.functional.jacobian(first_example, x)
    assert gradient[0].any()
    assert not gradient[1:].any()


def test_input_is_untouched(case):
    transform, x = case.build(), case.data(torch.float32)
    before = x.clone()
    z, _ = transform(x, case.context)
    assert torch.equal(x, before)
    for grad in (True, False):
        before = z.clone()
        with torch.set_grad_enabled(grad):
            transform.inverse(z, case.context)
        assert torch.equal(z, before)


def test_gradients_reach_every_parameter(case):
    transform, x = case.build(), case.data(torch.float32).requires_grad_()
    z, log_det = transform(x, case.context)
    (z.square().sum() - log_det.sum()).backward()
    assert_gradients(x=x, **dict(transform.named_parameters()))


def test_gradients_of_the_inverse_reach_every_parameter(case):
    transform = case.build()
    z = transform(case.data(torch.float32), case.context)[0].detach().requires_grad_()
    transform.inverse(z, case.context).x.square().sum().backward()
    assert_gradients(z=z, **dict(transform.named_parameters()))


def test_loaded_state_gives_identical_outputs(case, tmp_path):
    transform, x = case.build(), case.data(torch.float32)
    torch.save(transform.state_dict(), tmp_path / "state.pt")
    other = case.build()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert_identical(transform(x, case.context), other(x, case.context))


def test_deep_copy_is_equal_and_separate(case):
    transform, x = case.build(), case.data(torch.float32)
    expected = transform(x, case.context)
    duplicate = copy.deepcopy(transform)
    for parameter in transform.parameters():
        torch.nn.init.zeros_(parameter)
    assert_identical(duplicate(x, case.context), expected)


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "bfloat16 weights"])
def test_half_precision_is_close_and_keeps_the_state_in_float32(case, autocast):
    transform, x = case.build(), case.data(torch.float32)
    z, log_det = transform(x, case.context)
    expected = (z, log_det, transform.inverse(z, case.context).x)
    half = transform if autocast else copy.deepcopy(transform).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        computed = (*half(x, case.context), half.inverse(z, case.context).x)
    for ours, reference in zip(computed, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, reference, rtol=0.05, atol=0.05)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("aot_eager", "inductor")]


@pytest.mark.parametrize("comparisons", ["a few", *SLOW])
def test_compiled_equals_eager(comparisons):
    root = Path(__file__).parent.parent
    harmless = "ignore:Guards may run slower on Python 3.13.0:RuntimeWarning"
    # dynamo looks at the inputs of a layer; torch hides that from users
    looking = "ignore:The .grad attribute of a Tensor:UserWarning"
    flags = ["-W", "error", "-W", harmless, "-W", looking]
    program = [sys.executable, *flags, "-m", "tests.compilation", comparisons]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def assert_gradients(**tensors):
    """Each has a gradient that is not zero."""
    for name, tensor in tensors.items():
        assert tensor.grad is not None, name
        assert tensor.grad.any(), name


def assert_identical(ours, expected):
    """Both outputs of a transform are bitwise the same."""
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_reverse_flips_positions_only():
    x = torch.arange(6.0).view(1, 3, 2)
    z, _ = Reverse()(x, Context())
    assert z.tolist() == [[[4, 5], [2, 3], [0, 1]]]


def test_permute_takes_position_order_i_of_its_input():
    x = torch.arange(3.0).view(1, 3, 1)
    z, _ = Permute([2, 0, 1])(x, Context())
    assert z.flatten().tolist() == [2, 0, 1]


@pytest.mark.parametrize("order", [[0, 0, 1], [1, 2, 3], [0, 2], [-1, 0]])
def test_permute_refuses_what_is_no_permutation(order):
    with pytest.raises(ValueError, match="not a permutation"):
        Permute(order)


def test_patchify_is_in_raster_order_and_channel_major():
    x = torch.randn(2, 3, 4, 6)
    z, _ = Patchify((4, 6), 2)(x, Context())
    assert z.shape == (2, 6, 12)
    for row in range(2):
        for column in range(3):
            patch = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(z[:, 3 * row + column], patch.flatten(1))


@pytest.mark.parametrize(("image_size", "patch_size"), [((4, 6), 4), ((6, 4), 4), ((4, 4), 0)])
def test_patchify_refuses_patches_that_do_not_tile(image_size, patch_size):
    with pytest.raises(ValueError, match=f"patch_size {patch_size}"):
        Patchify(image_size, patch_size)


def test_composition_applies_in_order_and_adds_log_dets():
    first, second = tiny_autoregressive(ExpScale()), tiny_autoregressive(ExpScale())
    torch.nn.init.ones_(second.network.proj_out.bias)
    x, context = torch.randn(3, 5, 2), Context()
    middle, first_log_det = first(x, context)
    expected, second_log_det = second(middle, context)
    z, log_det = Composition([first, second])(x, context)
    assert torch.equal(z, expected)
    assert torch.equal(log_det, first_log_det + second_log_det)


def test_composition_counts_what_is_decoded():
    nested = Composition([Reverse(), tiny_autoregressive(ExpScale())])
    assert Composition([nested, Reverse(), nested]).num_decoded == 2
