"""What a layer may do with less of: neurons of its MLP, and heads of its attention."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

from torch import nn

from tarflow.arguments import shown
from tarflow.errors import ConfigurationError
from tarflow.flows.autoregressive import AutoregressiveTransform
from tarflow.flows.flow import Flow
from tarflow.flows.stack import Stack
from tarflow.nn.attention import CausalSelfAttention
from tarflow.nn.feed_forward import MLP, GatedMLP
from tarflow.nn.gates import SigmoidGating
from tarflow.nn.layers import Block
from tarflow.registry import Part


@dataclass(frozen=True, eq=False)
class Group:
    """The units of one kind in a layer, next to each other in what its last product reads.

    Attributes:
        reader: The linear layer that reads them: each unit is some of its inputs.
        makers: The linear layers that make them, and what each makes of every unit: the outputs
            are as many stretches, in each of which the units follow one another.
        size: How many numbers a unit is.
        attended: To how many positions a unit attends from one, in the mean.
    """

    reader: nn.Linear
    makers: tuple[tuple[nn.Linear, int], ...]
    size: int
    attended: float = 0.0

    def __post_init__(self):
        for linear in (self.reader, *(linear for linear, _ in self.makers)):
            if type(linear) is not nn.Linear or linear.bias is None:
                raise ConfigurationError(
                    f"cannot compress a {type(linear).__name__} in place of a linear layer with a"
                    " bias: compress first, then put adapters or quantized layers in"
                )

    @property
    def count(self) -> int:
        """Number of units."""
        return self.reader.in_features // self.size

    @property
    def operations(self) -> float:
        """What a unit takes at each position: products with weights, logits and weighted sums."""
        rows = sum(stretches * linear.in_features for linear, stretches in self.makers)
        return self.size * (2 * (rows + self.reader.out_features) + 4 * self.attended)


class Place(NamedTuple):
    """Where a group is.

    Attributes:
        transform: Index, of the autoregressive ones, of the first that uses the network.
        layer: Index of the layer.
        units: The kind of units.
    """

    transform: int
    layer: int
    units: "Units"


@dataclass(frozen=True)
class Units(Part, ABC):
    """A kind of units, of which layers may have fewer."""

    name: ClassVar[str]
    """What they are called."""

    field: ClassVar[str]
    """The field of a `TarFlow` that tells their number in every layer, times `per`."""

    @abstractmethod
    def of(self, block: Block, length: int) -> Group:
        """Those of a layer, in a network of so many positions.

        Raises:
            ConfigurationError: The layer has a part of another kind than this package makes.
        """


@dataclass(frozen=True)
class Neurons(Units):
    """The hidden neurons of MLPs."""

    name: ClassVar[str] = "neurons"
    field: ClassVar[str] = "hidden_dims"

    def of(self, block: Block, length: int) -> Group:
        mlp = block.mlp
        if type(mlp) is MLP:
            first, _, second, *_ = (cast(nn.Linear, each) for each in mlp)
            return Group(second, ((first, 1),), 1)
        if type(mlp) is GatedMLP:
            return Group(mlp.down, ((mlp.up, 2),), 1)
        raise _unknown(mlp, "an MLP or a GatedMLP")


@dataclass(frozen=True)
class Heads(Units):
    """The heads of attention: what each returns, gated where there is a gate."""

    name: ClassVar[str] = "heads"
    field: ClassVar[str] = "num_heads"

    def of(self, block: Block, length: int) -> Group:
        attention = block.attention
        if type(attention) is not CausalSelfAttention:
            raise _unknown(attention, "a CausalSelfAttention")
        makers = [(attention.qkv, 3)]
        if attention.gate is not None:
            if type(attention.gate) is not SigmoidGating:
                raise _unknown(attention.gate, "a SigmoidGating")
            makers.append((attention.gate.linear, 1))
        return Group(attention.proj, tuple(makers), attention.head_dim, length / 2)


ALL = (Neurons(), Heads())
"""All kinds of units."""


def networks_of(flow: Flow) -> Iterator[tuple[int, AutoregressiveTransform]]:
    """The autoregressive transforms that have a network of their own, with their index.

    Raises:
        ConfigurationError: The flow is not one that can have fewer units.
    """
    if not isinstance(flow.description, Stack):
        raise ConfigurationError(
            f"a {type(flow).__name__} has no widths of its own for each layer: give a TarFlow, as"
            " `tarflow train` and `tarflow convert` make them"
        )
    found = [each for each in flow.transform if isinstance(each, AutoregressiveTransform)]
    places = {id(each): index for index, each in reversed([*enumerate(found)])}
    return ((index, each) for index, each in enumerate(found) if places[id(each)] == index)


def groups_of(flow: Flow, parts: Sequence[Units] = ALL) -> dict[Place, Group]:
    """All units of some kinds, by where they are.

    Raises:
        ConfigurationError: The flow, or a layer of it, is not of a kind that this package makes.
    """
    if not parts or not all(isinstance(each, Units) for each in parts):
        raise ConfigurationError(
            f"parts {shown(parts)}: give (Neurons(), Heads()), or one of them"
        )
    found = {}
    for index, transform in networks_of(flow):
        network = transform.network
        for layer, block in enumerate(network.blocks):
            if not isinstance(block, Block):
                raise _unknown(block, "a Block")
            found |= {Place(index, layer, each): each.of(block, network.length) for each in parts}
    return found


def _unknown(module: nn.Module, wanted: str) -> ConfigurationError:
    """What to tell of a module whose units are not known."""
    return ConfigurationError(
        f"cannot compress a {type(module).__name__}: only {wanted} tells what its units are"
    )
