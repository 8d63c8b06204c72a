"""Compares compiled with eager; run as a program, for the hook of the tests breaks graphs."""

import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from tarflow import (
    Context,
    ExampleSeeds,
    GaussianGuidance,
    Jacobi,
    LinearGuidance,
    Networks,
    StartToken,
    TarFlow,
)
from tarflow.nn.attention import CausalSelfAttention, Window
from tarflow.nn.compiled import CompiledNetwork
from tarflow.nn.layers import Layer
from tarflow.nn.transformer import CausalTransformer
from tarflow.training.acceleration import compile_blocks, recompute

from .models import NETWORKS, randomized, tiny_flow
from .registry import REGISTRY

EVERY = REGISTRY.keys() - NETWORKS.keys() | {"all parts"}
"""Names of all transforms to compile: parts of networks, together."""


@torch.no_grad()
def compare_transforms(names: Collection[str] = EVERY) -> None:
    """Compile transforms without a graph break."""
    for name in names:
        case = REGISTRY[name]
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


def compare_densities(backend: str) -> None:
    """Compile densities in every kind of context without a graph break; export them."""
    x, label, temperature = torch.randn(4, 2, 4, 4), torch.tensor([0, 2, -1, 1]), torch.ones(4) / 2
    contexts = {
        3: [None, label, label.int(), 1, Context(label, temperature=temperature)],
        0: [None, Context(temperature=temperature)],
    }
    cases = [(n, context, {}) for n in contexts for context in contexts[n]]
    cases.append((3, label, NETWORKS["all parts"]))
    for num_classes, context, parts in cases:
        flow = tiny_flow(num_transforms=2, num_layers=1, num_classes=num_classes, **parts)
        torch._dynamo.reset()
        compiled = torch.compile(flow.log_prob, backend=backend, fullgraph=True)
        found = [density(x, context) for density in (flow.log_prob, compiled)]
        torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-4)
        weights = list(flow.parameters())
        expected, gradients = (
            torch.autograd.grad(log_prob.sum(), weights, materialize_grads=True)
            for log_prob in found
        )
        torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-4)
        if not isinstance(context, Context):
            inputs = (x,) if context is None else (x, context)
            compare_exported(flow, *inputs)


def compare_exported(flow: TarFlow, *inputs: torch.Tensor | int) -> None:
    """Export a density for batches of any size."""
    sizes = tuple({0: torch.export.Dim("batch")} if torch.is_tensor(i) else None for i in inputs)
    exported = torch.export.export(Density(flow), inputs, dynamic_shapes=sizes).module()
    twice = [torch.cat([one, one]) if torch.is_tensor(one) else one for one in inputs]
    torch.testing.assert_close(exported(*twice), flow.log_prob(*twice), rtol=1e-5, atol=1e-4)


class Density(torch.nn.Module):
    """A module that calls `log_prob`."""

    def __init__(self, flow: TarFlow):
        super().__init__()
        self.flow = flow

    def forward(self, x: torch.Tensor, label: torch.Tensor | int | None = None) -> torch.Tensor:
        return self.flow.log_prob(x, label)


def compare_blocks_in_place(parts: dict[str, Any]) -> None:
    """Compile the blocks of a flow, one of them recomputed: one graph for all."""
    flow = tiny_flow(num_transforms=3, num_layers=3, num_classes=3, **parts).train()
    keys, expected, gradients = list(flow.state_dict()), *log_prob_and_gradients(flow)
    for layers, graphs in ((0, 1), (1, 1)):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        recompute(flow, layers)
        compile_blocks(flow, "aot_eager")
        log_prob, compiled_gradients = log_prob_and_gradients(flow)
        torch.testing.assert_close(log_prob, expected, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(compiled_gradients, gradients, rtol=1e-4, atol=1e-4)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert list(flow.state_dict()) == keys


def log_prob_and_gradients(flow):
    """Log-densities of three images, and the gradients of their sum."""
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    log_prob = flow.log_prob(x, torch.tensor([0, -1, 2]))
    return log_prob, torch.autograd.grad(log_prob.sum(), list(flow.parameters()))


def compare_steps_by_inductor() -> None:
    """Sample with compiled steps, as users do: conditions and temperatures, and bfloat16."""
    for parts in ({}, NETWORKS["all parts"]):
        flow = tiny_flow((1, 5), 1, num_transforms=2, num_layers=1, num_classes=3, **parts)
        compare_samples_by_inductor(flow)


def compare_samples_by_inductor(flow: TarFlow) -> None:
    """Sample with compiled steps and without."""
    guidance, label = LinearGuidance(1.0, temperature=0.5), torch.tensor([0, -1])

    def sample(**options):
        source = ExampleSeeds(0, range(2))
        return flow.sample(2, label, guidance=guidance, source=source, **options)

    torch.testing.assert_close(sample(compile=True), sample(), rtol=0, atol=1e-5)
    half = sample(networks=Prepared(torch.bfloat16, num_buckets=1))
    torch.testing.assert_close(half, sample(dtype=torch.bfloat16), rtol=0, atol=0.02)


class Prepared(Networks):
    """Compiled networks of other than the default options."""

    def __init__(self, dtype: torch.dtype | None = None, **options):
        super().__init__(dtype)
        self.options = options

    def _prepare(self, network):
        return CompiledNetwork(network.to(self._precision(network).dtype), **self.options)


@torch.no_grad()
def compare_buckets() -> None:
    """Transforms share code, and there may be more of it than dynamo compiles of one function."""
    flow = tiny_flow((2, 4), 1, num_transforms=4, num_layers=1, num_classes=3)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    cases = [
        (1, {}),
        (3, {}),
        (3, {"guidance": LinearGuidance(1.0)}),
        (3, {"guidance": GaussianGuidance(1.0)}),
        (3, {"decoder": Jacobi(3, 1e-6)}),
    ]
    for batch, options in cases:
        z, label = torch.randn(batch, 8, 2), torch.tensor([2, -1, 0])[:batch]
        expected = flow.inverse(z, label, **options)
        for networks in (Prepared(backend="aot_eager"), Prepared(backend="aot_eager")):
            x = flow.inverse(z, label, networks=networks, **options)
            torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)
    # Four for each of 1, 3 and 6 rows, whatever the number of transforms.
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 12


@torch.no_grad()
def compare_started_steps() -> None:
    """Steps after a start token, of which there is one more."""
    flow = tiny_flow((1, 5), 1, num_transforms=1, num_layers=1, first=StartToken())
    torch._dynamo.reset()
    z = torch.randn(2, 5, 2)
    x = flow.inverse(z, networks=Prepared(backend="aot_eager"))
    torch.testing.assert_close(x, flow.inverse(z), rtol=0, atol=1e-5)


def compare_threads() -> None:
    """Eight threads compile and decode at once."""
    flow = tiny_flow(num_transforms=2, num_layers=1, num_classes=3)
    torch._dynamo.reset()

    def sample(seed: int, **options):
        return flow.sample(
            2 + seed % 2, 1, source=ExampleSeeds(seed, range(2 + seed % 2)), **options
        )

    expected, networks = [sample(seed) for seed in range(8)], Prepared(backend="aot_eager")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda seed: sample(seed, networks=networks), range(8)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def compare_unequal_networks() -> None:
    """Networks of other widths, depths, heads or layers have code of their own."""
    torch._dynamo.reset()
    shapes = [{"model_dim": 16}, {"model_dim": 32}, {"head_dim": 4}, {"num_layers": 2}]
    shapes += [{"expansion": 1}, {"expansion": 2}, {"layer": Twice()}, {"num_layers": 3}]
    shapes.append({"num_layers": 2} | NETWORKS["all parts"])
    networks, x = Prepared(backend="aot_eager", num_buckets=1), torch.randn(2, 4, 3)
    for shape in shapes:
        sizes = {"model_dim": 16, "num_layers": 1, "head_dim": 8} | shape
        network = randomized(CausalTransformer(3, 4, 4, **sizes), 0.3)
        for vector in (None, torch.randn(2, sizes["model_dim"])):
            ready = networks.of(network)
            condition = ready.conditioned(vector)
            cache = ready.new_cache(2)
            steps = [ready(x[:, i : i + 1], condition, Window(i, cache)) for i in range(4)]
            torch.testing.assert_close(
                torch.cat(steps, dim=1), network(x, condition), rtol=1e-5, atol=1e-5
            )


@dataclass(frozen=True)
class Twice(Layer):
    """Somebody else's layer: attention whose result is attended to again, without an MLP."""

    def __call__(
        self, model_dim: int, head_dim: int, expansion: int, dropout: float, index: int
    ) -> nn.Module:
        return TwiceLayer(model_dim, head_dim, index)


class TwiceLayer(nn.Module):
    def __init__(self, model_dim: int, head_dim: int, index: int):
        super().__init__()
        self.attention = CausalSelfAttention(model_dim, head_dim, layer=index)
        self.norm = nn.RMSNorm(model_dim)

    def forward(self, x: torch.Tensor, window: Window) -> torch.Tensor:
        return x + self.norm(self.attention(x, window))


if __name__ == "__main__":
    comparisons = {
        "a few": (
            partial(compare_transforms, ["modern TarFlow"]),
            compare_flow_in_place,
            partial(compare_blocks_in_place, {}),
            compare_started_steps,
        ),
        "aot_eager": (
            compare_transforms,
            compare_flow_in_place,
            partial(compare_blocks_in_place, {}),
            partial(compare_blocks_in_place, NETWORKS["all parts"]),
            compare_buckets,
            compare_started_steps,
            compare_unequal_networks,
            compare_threads,
            partial(compare_densities, "aot_eager"),
        ),
        "inductor": (compare_steps_by_inductor, partial(compare_densities, "inductor")),
    }
    for compare in comparisons[sys.argv[1]]:
        torch.manual_seed(0)  # one random flow in thousands overflows
        compare()
