"""Compares compiled with eager; run as a program, for the hook of the tests breaks graphs."""

import torch

from .models import tiny_flow
from .registry import REGISTRY


def compare_transforms() -> None:
    """Compile every transform without a graph break."""
    for name, case in REGISTRY.items():
        torch._dynamo.reset()
        transform, x = case.build(), case.data(torch.float32)
        compiled = torch.compile(transform, backend="aot_eager", fullgraph=True)
        for ours, expected in zip(compiled(x, case.context), transform(x, case.context)):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5, msg=name)


def compare_flow_in_place() -> None:
    """Compile a flow in place: the same keys, the same density, and compiled code runs."""
    flow, x, y = tiny_flow(num_classes=3), torch.randn(3, 2, 4, 4), torch.tensor([0, -1, 2])
    keys, expected = list(flow.state_dict()), flow.log_prob(x, y)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    flow.compile(backend="aot_eager")
    torch.testing.assert_close(flow.log_prob(x, y), expected, rtol=1e-5, atol=1e-4)
    assert list(flow.state_dict()) == keys
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


if __name__ == "__main__":
    compare_transforms()
    compare_flow_in_place()
