"""Flows of fewer units: those kept are real ones, and what reads them makes up for the others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from tarflow.arguments import check_integer, check_real
from tarflow.compression.activations import Activations, Measured
from tarflow.compression.decomposition import Ranking, coefficients, rank_blocks, rank_columns
from tarflow.compression.units import ALL, Group, Place, Units, groups_of
from tarflow.errors import ConfigurationError
from tarflow.flows.autoregressive import AutoregressiveTransform
from tarflow.flows.tar_flow import TarFlow

Columns = Float64[np.ndarray, "outputs columns"]


def compress(
    flow: TarFlow, activations: Activations, threshold: float, parts: Sequence[Units] = ALL
) -> TarFlow:
    """A flow of those units of another that are more important than a threshold.

    Args:
        flow: The flow, which stays as it is.
        activations: What its units do, by `measure`.
        threshold: See `Skeletons.at`.
        parts: Which kinds of units it may have fewer of.

    Raises:
        ConfigurationError: The threshold is negative or not a number, the flow has parts whose
            units are not known, or the activations are those of others.
    """
    return Skeletons.of(flow, activations, parts).at(threshold)


@dataclass(frozen=True, eq=False)
class Skeletons:
    r"""The units of a flow by their importance, from which smaller flows are made.

    The importance of a unit is what its reader would put out wrongly without it, once the kept
    units have made up for what they tell of it: in the measure $\sqrt{\delta^T F \delta}$, where F
    is the mean of $g g^T$ over tokens, for gradients g of the negative log-likelihood. A half of
    its square is about what each token loses, in nats. Divided by the root of the operations that
    a unit takes, neurons and heads of all layers compare: by nats for an operation. On the digits,
    at half of the operations of MLPs, 0.009 bits/dim were lost so, 0.016 with F = 1; at half of
    all operations, heads too, 0.04, and 0.11 without the division.

    Attributes:
        flow: The flow.
        activations: What its units do.
        rankings: The units of every group.
        multiple: Layers keep a multiple of so many numbers, where they had as many: products of
            such matrices are faster on most devices.
    """

    flow: TarFlow
    activations: Activations
    rankings: Mapping[Place, Ranking]
    multiple: int = 1

    @classmethod
    def of(
        cls,
        flow: TarFlow,
        activations: Activations,
        parts: Sequence[Units] = ALL,
        multiple: int = 1,
    ) -> "Skeletons":
        """Rank the units of a flow; raises as `compress` does."""
        check_integer("multiple", multiple, least=1)
        rankings = {}
        for place, group in groups_of(flow, parts).items():
            measured = activations.get(place)
            if measured is None or len(measured.factor) != group.reader.in_features + 1:
                raise ConfigurationError(
                    f"the activations are not those of the {place.units.name} in layer"
                    f" {place.layer} of transform {place.transform}: measure those of this flow"
                )
            rankings[place] = _rank(group, measured)
        return cls(flow, activations, rankings, multiple)

    @property
    def thresholds(self) -> Float64[np.ndarray, " count"]:
        """The thresholds at which another unit is left out, from 0 up."""
        return np.unique(np.concatenate([[0.0], *[r.importance for r in self.rankings.values()]]))

    @property
    def groups(self) -> dict[Place, Group]:
        """The units of the flow, whose kinds are ranked."""
        return groups_of(self.flow, tuple({place.units: None for place in self.rankings}))

    def kept(self, threshold: float) -> dict[Place, np.ndarray]:
        """The indices of the units that a flow would have at a threshold."""
        if not check_real("threshold", threshold) >= 0:
            raise ConfigurationError(f"threshold {threshold} must not be negative")
        found = {}
        for place, group in self.groups.items():
            step = self.multiple // math.gcd(self.multiple, group.size)
            found[place] = self.rankings[place].kept(threshold, step)
        return found

    def at(self, threshold: float) -> TarFlow:
        """A flow of the units that are more important than a threshold: one at least in a group.

        At 0 it leaves out only what others tell exactly, and is the same function to rounding.
        """
        kept = self.kept(threshold)
        with torch.random.fork_rng(devices=[]):  # of weights that are written over
            new = self.flow.remade(**widths(self.flow, kept))
        state = dict(self.flow.state_dict())
        names = {module: name for name, module in self.flow.named_modules()}
        for place, group in self.groups.items():
            if len(kept[place]) < group.count:
                new_weights = fewer(group, self.activations[place], kept[place])
                state |= {
                    f"{names[linear]}.{name}": tensor
                    for linear, tensors in new_weights.items()
                    for name, tensor in tensors.items()
                }
        anchor = self.flow.base.anchor
        new.to(anchor.dtype).load_state_dict(state)
        return new.to(anchor.device).eval()


def _rank(group: Group, measured: Measured) -> Ranking:
    """Rank the units of a group."""
    readers = seen_by_loss(group.reader.weight, measured) / group.operations**0.5
    if group.size == 1:
        return rank_columns(measured.centered * np.linalg.norm(readers, axis=0))
    return rank_blocks(measured.centered, readers, group.size)


def seen_by_loss(weight: Tensor, measured: Measured) -> Columns:
    """Columns of a reader, whose norms are what the likelihood makes of them."""
    values, vectors = np.linalg.eigh(measured.fisher.numpy())
    root = vectors * np.sqrt(np.maximum(values, 0))
    return root.T @ weight.detach().cpu().double().numpy()


def fewer(
    group: Group, measured: Measured, units: np.ndarray
) -> dict[nn.Linear, dict[str, Tensor]]:
    """The weights of linear layers for some of the units of a group; what reads them makes up."""
    found = {}
    for maker, stretches in group.makers:
        shape = (stretches, group.count, group.size)
        found[maker] = {
            name: tensor.detach().unflatten(0, shape)[:, units].flatten(0, 2)
            for name, tensor in maker.named_parameters()
        }
    kept = (units[:, None] * group.size + np.arange(group.size)).ravel()
    told = coefficients(measured.centered, kept)
    weight, bias = group.reader.weight.detach(), group.reader.bias.detach()
    wide = weight.cpu().double().numpy()
    constant = bias.cpu().double().numpy() + wide @ (measured.mean - measured.mean[kept] @ told)
    new = {"weight": wide @ told.T, "bias": constant}
    found[group.reader] = {k: torch.from_numpy(each).to(weight) for k, each in new.items()}
    return found


def widths(flow: TarFlow, kept: Mapping[Place, np.ndarray]) -> dict[str, Any]:
    """The fields of a flow that tell how many units of some kinds are kept."""
    transforms = [each for each in flow.transform if isinstance(each, AutoregressiveTransform)]
    owners = {id(each): index for index, each in reversed([*enumerate(transforms)])}
    fields: dict[str, Any] = {}
    for units in dict.fromkeys(place.units for place in kept):
        fields[units.field] = [
            [
                len(kept[Place(owners[id(each)], layer, units)])
                for layer in range(len(each.network.blocks))
            ]
            for each in transforms
        ]
    return fields
