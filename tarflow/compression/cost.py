"""What a flow costs: weights, operations, and the memory of its caches."""

from dataclasses import dataclass

from tarflow.compression.units import Heads, Neurons, groups_of, networks_of
from tarflow.flows.flow import Flow
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
        counts = {units: [] for units in (Neurons(), Heads())}
        groups = groups_of(flow)
        for index, _ in networks_of(flow):
            for units, listed in counts.items():
                own = [g.count for p, g in groups.items() if p[0] == index and p.units == units]
                listed.append(tuple(own))
        return cls(
            sum(p.numel() for p in flow.transform.parameters()),
            sum(map(forward_operations, networks(flow))),
            mlp_operations(flow),
            cache_bytes(flow),
            *map(tuple, counts.values()),
        )


def mlp_operations(flow: Flow) -> int:
    """Operations of the matrices of all MLPs in a pass over one example."""
    return sum(
        2 * parameter.numel() * (network.length - 1)
        for network in networks(flow)
        for block in network.blocks
        for parameter in block.mlp.parameters()
        if parameter.ndim == 2
    )


def cache_bytes(flow: Flow) -> int:
    """Memory of the keys and values of one example, in all networks."""
    return sum(
        2 * network.length * network.like.element_size() * block.attention.proj.in_features
        for network in dict.fromkeys(networks(flow))
        for block in network.blocks
    )
