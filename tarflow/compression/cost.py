"""What a flow costs: weights, operations, and the memory of its caches."""

from dataclasses import dataclass
from typing import cast

from tarflow.compression.units import ALL, groups_of, networks_of
from tarflow.flows.flow import Flow
from tarflow.nn.layers import Block
from tarflow.training.acceleration import networks
from tarflow.training.operations import forward_operations


@dataclass(frozen=True)
class Cost:
    """What a flow costs, for one example.

    Attributes:
        parameters: Number of weights, but for those of its codec.
        operations: Those of one pass over an example, as `tarflow.training.operations` counts
            them: a likelihood, and about what decoding an example position by position takes.
        mlp_operations: Those of them in the matrices of MLPs.
        cache_bytes: Memory of keys and values of all transforms, in the precision of the weights.
        neurons: Width of the hidden layers: of each layer, in each transform with its own network.
        heads: Number of heads, likewise.
    """

    parameters: int
    operations: int
    mlp_operations: int
    cache_bytes: int
    neurons: tuple[tuple[int, ...], ...]
    heads: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, flow: Flow) -> "Cost":
        """What a flow costs.

        Raises:
            ConfigurationError: It has parts whose units are not known.
        """
        groups, owners = groups_of(flow), dict(networks_of(flow))
        counts = [
            tuple(
                tuple(g.count for p, g in groups.items() if p.units == units and p[0] == index)
                for index in owners
            )
            for units in ALL
        ]
        return cls(
            sum(p.numel() for p in flow.transform.parameters()),
            sum(map(forward_operations, networks(flow))),
            mlp_operations(flow),
            cache_bytes(flow),
            *counts,
        )


def mlp_operations(flow: Flow) -> int:
    """Operations of the matrices of all MLPs in a pass over one example."""
    return sum(
        2 * parameter.numel() * (network.length - 1)
        for network in networks(flow)
        for block in network.blocks
        for parameter in cast(Block, block).mlp.parameters()
        if parameter.ndim == 2
    )


def cache_bytes(flow: Flow) -> int:
    """Memory of the keys and values of one example, in all networks."""
    cached = sum(
        2 * network.length * cast(Block, block).attention.proj.in_features
        for network in dict.fromkeys(networks(flow))
        for block in network.blocks
    )
    return cached * flow.base.anchor.element_size()
