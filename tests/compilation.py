"""Compares compiled with eager; run as a program, for the hook of the tests breaks graphs."""

import torch

from .models import tiny_flow
from .registry import REGISTRY


@torch.no_grad()
def compare_transforms() -> None:
    """Compile every transform without a graph break."""
    for name, case in REGISTRY.items():
        torch._dynamo.reset()
        transform, x = case.build(), case.data(torch.float32)
        compiled = torch.compile(transform, backend="aot_eager", fullgraph=True)
        expected = transform(x, case.context)
        for ours, theirs in zip(compiled(x, case.context), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, msg=name)


def compare_flow_in_place() -> None:
    """Compile a flow in place: same keys, density and gradients, and compiled code runs."""
    flow = tiny_flow(num_transforms=2, num_layers=1, num_classes=3)
    keys, expected, gradients = list(flow.state_dict()), *log_prob_and_gradients(flow)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    flow.compile(backend="aot_eager")
    log_prob, compiled_gradients = log_prob_and_gradients(flow)
    torch.testing.assert_close(log_prob, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(compiled_gradients, gradients, rtol=1e-4, atol=1e-4)
    assert list(flow.state_dict()) == keys
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def log_prob_and_gradients(flow):
    """Log-densities of three images, and the gradients of their sum."""
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    log_prob = flow.log_prob(x, torch.tensor([0, -1, 2]))
    return log_prob, torch.autograd.grad(log_prob.sum(), list(flow.parameters()))


if __name__ == "__main__":
    compare_transforms()
    compare_flow_in_place()
