"""Derivatives of densities of any order and by any way, and densities that never wait.

Compiling and exporting them: tests/compilation.py.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.autograd.functional import hessian
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from tarflow import (
    Context,
    ContextError,
    SoftClipScale,
    SoftplusScale,
    TarFlow,
    UnitScale,
)

from .compilation import Density
from .models import NETWORKS, randomized, tiny_flow

# torch compiles a few formulas of forward derivatives by its old compiler.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")

SIZES = {"num_transforms": 2, "num_layers": 1, "model_dim": 8, "head_dim": 4}
STEP = 1e-5
EXACT = {"rtol": 0, "atol": 1e-10}
NEAR = {"rtol": 0, "atol": 1e-7}

VARIANTS = {
    "labels": {"num_classes": 3},
    "no labels": {},
    "bounded": {"num_classes": 3, "scale": SoftClipScale(0.5)},
    "volume": {"scale": UnitScale()},
    "all parts": {"num_classes": 3, "scale": SoftplusScale(), **NETWORKS["all parts"]},
}


@pytest.fixture(params=VARIANTS)
def small(request) -> TarFlow:
    """A flow over four pixels: small enough for finite differences in every direction."""
    flow = tiny_flow((2, 2), 1, 1, **SIZES, **VARIANTS[request.param]).double().eval()
    return randomized(flow, std=0.1)  # lest second derivatives vanish


@pytest.fixture
def x() -> torch.Tensor:
    """Four images for it."""
    return torch.randn(4, 1, 2, 2, dtype=torch.float64)


@pytest.fixture
def y(small) -> torch.Tensor | None:
    """Their labels, one of them null."""
    return torch.tensor([0, 2, -1, 1]) if small.num_classes else None


def density_of(flow, parameters=None):
    """The log-density as a function of one example."""

    def density(x, y=None):
        label = None if y is None else y[None]
        if parameters is None:
            return flow.log_prob(x[None], label)[0]
        return functional_call(Density(flow), parameters, (x[None], label))[0]

    return density


def given(*parts):
    """What is there of an example's data and label."""
    return tuple(part for part in parts if part is not None)


def differences(function, x, step=STEP):
    """Central differences of a function of one example in every pixel, in a last dimension."""
    columns = []
    for direction in torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape):
        difference = function(x + step * direction) - function(x - step * direction)
        columns.append(difference / (2 * step))
    return torch.stack(columns, dim=-1).detach()


# --- First derivatives ----------------------------------------------------------------------


def test_densities_of_examples_are_those_of_the_batch(small, x, y):
    found = vmap(density_of(small))(*given(x, y))
    torch.testing.assert_close(found, small.log_prob(x, y), **EXACT)


def test_gradients_of_examples_are_the_score(small, x, y):
    found = vmap(grad(density_of(small)))(*given(x, y))
    torch.testing.assert_close(found, small.score(x, y), **EXACT)
    for row in range(len(x)):
        label = None if y is None else y[row]
        expected = differences(lambda x, label=label: density_of(small)(x, label), x[row])
        torch.testing.assert_close(found[row].flatten(), expected, **NEAR)


def test_directional_derivatives(small, x, y):
    direction = torch.randn_like(x)
    value, found = jvp(lambda x: small.log_prob(x, y), (x,), (direction,))
    torch.testing.assert_close(value, small.log_prob(x, y), **EXACT)
    expected = (small.score(x, y) * direction).flatten(1).sum(dim=1)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("jacobian", [jacrev, jacfwd])
def test_jacobians_of_examples(small, x, y, jacobian):
    def to_noise(x, y=None):
        return small(x[None], None if y is None else y[None])[0].flatten()

    found = vmap(jacobian(to_noise))(*given(x, y)).flatten(2)
    expected = differences(lambda x: to_noise(x, None if y is None else y[1]), x[1])
    torch.testing.assert_close(found[1], expected, **NEAR)
    torch.testing.assert_close(found.slogdet()[1], small(x, y)[1], **EXACT)


def test_gradients_in_parameters_for_each_example(small, x, y):
    weights = dict(Density(small).named_parameters())

    def density(weights, *example):
        return density_of(small, weights)(*example)

    rows = (None, *(0 for _ in given(x, y)))
    found = vmap(grad(density), in_dims=rows)(weights, *given(x, y))
    for row in range(len(x)):
        log_prob = small.log_prob(x[row : row + 1], None if y is None else y[row : row + 1])
        expected = torch.autograd.grad(log_prob.sum(), list(weights.values()))
        for name, one in zip(weights, expected, strict=True):
            torch.testing.assert_close(found[name][row], one, **EXACT)


# --- Second derivatives ---------------------------------------------------------------------


def test_hessians_by_all_ways(small, x, y):
    for row in range(2):
        label = None if y is None else y[row]

        def density(x, label=label):
            return density_of(small)(x, label)

        def score(x, label=label):
            return small.score(x[None], None if label is None else label[None]).flatten()

        expected = differences(score, x[row])
        assert (expected + torch.eye(4)).abs().max() > 0.1  # not that of the identity
        found = {
            "func": torch.func.hessian(density)(x[row]),
            "reverse twice": jacrev(jacrev(density))(x[row]),
            "of the score": jacrev(score)(x[row]),
            "autograd": hessian(density, x[row]),
            "batched": hessian(density, x[row], vectorize=True),
        }
        for name, one in found.items():
            one = one.reshape(4, 4)
            torch.testing.assert_close(one, expected, **NEAR, msg=lambda m, n=name: f"{n}: {m}")


def test_hessians_of_examples(small, x, y):
    found = vmap(torch.func.hessian(density_of(small)))(*given(x, y))
    for row in range(len(x)):
        label = None if y is None else y[row]
        expected = hessian(lambda x, label=label: density_of(small)(x, label), x[row])
        torch.testing.assert_close(found[row], expected, **EXACT)


@pytest.mark.parametrize("kind", ["score", "autograd"])
def test_gradients_through_the_score(small, x, y, kind):
    parameters = list(small.parameters())

    def penalty():
        if kind == "score":
            return small.score(x, y, create_graph=True).square().sum()
        inputs = x.clone().requires_grad_()
        total = small.log_prob(inputs, y).sum()
        return torch.autograd.grad(total, inputs, create_graph=True)[0].square().sum()

    found = torch.autograd.grad(penalty(), parameters, materialize_grads=True)
    directions = [torch.randn_like(one) for one in parameters]
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            torch._foreach_add_(parameters, directions, alpha=sign * STEP)
            values.append(small.score(x, y).square().sum())
    expected = (values[0] - values[1]) / (2 * STEP)
    total = sum((one * other).sum() for one, other in zip(found, directions, strict=True))
    torch.testing.assert_close(total, expected, rtol=1e-7, atol=0)


def test_the_score_of_examples(small, x, y):
    def score(x, y=None):
        return small.score(x[None], None if y is None else y[None])[0]

    torch.testing.assert_close(vmap(score)(*given(x, y)), small.score(x, y), **EXACT)


# --- Never waiting --------------------------------------------------------------------------


class NoReading(TorchDispatchMode):
    """Refuses what brings values from a device to the host."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::").split(".")[0]
        waits = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item", "unique")
        assert name not in (*waits, "_unique2", "masked_select", "bincount"), name
        if name.strip("_").startswith("index"):  # by a mask: on a GPU its true entries are counted
            indices = args[1] if isinstance(args[1], list | tuple) else ()
            assert not any(each is not None and each.dtype == torch.bool for each in indices), name
        return function(*args, **(kwargs or {}))


def contexts(device="cpu"):
    """Every kind of context, by the number of classes of the flow that takes it."""
    label = torch.tensor([0, 2, -1, 1], device=device)
    temperature = torch.full((4,), 0.5, device=device)
    return {
        3: [None, label, label.int(), 1, Context(label, temperature=temperature)],
        0: [None, Context(temperature=temperature)],
    }


@pytest.mark.parametrize("num_classes", [3, 0])
@pytest.mark.parametrize("index", range(5))
def test_densities_and_gradients_read_nothing_back(num_classes, index):
    flow, x = tiny_flow(num_classes=num_classes), torch.randn(4, 2, 4, 4, requires_grad=True)
    for context in contexts()[num_classes][index : index + 1]:
        with NoReading():
            z, log_det = flow(x, context)
            log_prob = flow.log_prob(x, context)
            log_prob.sum().backward()
            flow.score(x, context)
        assert torch.equal(flow.base.log_prob(z) + log_det, log_prob)


@pytest.mark.parametrize("num_classes", [3, 0])
def test_a_gpu_is_not_waited_for(num_classes):
    with FakeTensorMode():
        with torch.device("cuda"):
            flow, x = tiny_flow_on_device(num_classes), torch.randn(4, 2, 4, 4)
        for context in contexts("cuda")[num_classes]:
            assert flow.log_prob(x, context).device.type == "cuda"
            with pytest.raises(DataDependentOutputException):  # it would be noticed
                flow.check_finite(flow.log_prob(x, context), x, context)


def tiny_flow_on_device(num_classes: int) -> TarFlow:
    """A flow of the default device, with its first weights."""
    return TarFlow(4, 2, 2, **{**SIZES, "model_dim": 16, "head_dim": 8}, num_classes=num_classes)


def test_reading_back_is_noticed(flow):
    y = torch.tensor([0, 2])
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoReading():
        flow.check_context(Context(y))


# --- Labels that only a device knows ----------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_every_integer_type(dtype):
    flow = tiny_flow(num_classes=3).double()
    x, label = torch.randn(3, 2, 4, 4, dtype=torch.float64), torch.tensor([0, 2, 1])
    assert torch.equal(flow.log_prob(x, label.to(dtype)), flow.log_prob(x, label))
    assert torch.equal(flow.inverse(flow(x)[0], label.to(dtype)), flow.inverse(flow(x)[0], label))


@pytest.mark.parametrize("wrong", [3, 1 << 40, -2])
def test_a_label_out_of_range_is_nan_and_found_after_the_fact(wrong):
    flow = tiny_flow(num_classes=3).double()
    x, label = torch.randn(4, 2, 4, 4, dtype=torch.float64), torch.tensor([0, wrong, -1, 2])
    log_prob = flow.log_prob(x, label)
    assert log_prob.isnan().tolist() == [False, True, False, False]
    fine = flow.log_prob(x, label.clamp(-1, 2))
    assert torch.equal(log_prob[[0, 2, 3]], fine[[0, 2, 3]])
    with pytest.raises(ContextError, match=rf"labels go from .*{wrong}.*knows 0 \.\.\. 2"):
        flow.check_finite(log_prob, x, label)
    flow.check_finite(fine, x, label)


@pytest.mark.parametrize("wrong", [0.0, -0.5, torch.nan])
def test_a_temperature_that_is_not_positive_is_nan_and_found_after_the_fact(wrong):
    flow = tiny_flow().double()
    x, temperature = torch.randn(3, 2, 4, 4, dtype=torch.float64), torch.tensor([1.0, wrong, 0.5])
    context = Context(temperature=temperature)
    log_prob = flow.log_prob(x, context)
    assert log_prob.isnan().tolist() == [False, True, False]
    assert flow.score(x, context).isnan().flatten(1).all(dim=1).tolist() == [False, True, False]
    assert torch.equal(log_prob[0], flow.log_prob(x)[0])
    with pytest.raises(ContextError, match=rf"temperature .* above 0, not .*{wrong}"):
        flow.check_finite(log_prob, x, context)
