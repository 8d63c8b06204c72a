"""Pruning by magnitude, which looks at weights alone: a baseline of compression."""

import torch

from tarflow.compression.activations import Measured
from tarflow.compression.skeletons import Skeletons
from tarflow.compression.units import Group, Neurons, groups_of
from tarflow.flows.tar_flow import TarFlow


def magnitudes(flow: TarFlow) -> Skeletons:
    """The neurons of a flow by their weights: the norm of those in, times the norm of those out.

    They are the skeletons of activations of which only the weights that make them are known:
    independent, with mean zero and deviations that are norms, and all the same to the likelihood.
    No neuron tells anything of another then, and nothing makes up for those that are left out.

    Raises:
        ConfigurationError: The flow has parts whose neurons are not known.
    """
    parts = (Neurons(),)
    activations = {place: _unseen(group) for place, group in groups_of(flow, parts).items()}
    return Skeletons.of(flow, activations, parts)


def _unseen(group: Group) -> Measured:
    """The activations of neurons as far as weights tell."""
    [(maker, times)] = group.makers
    weight = maker.weight.detach().double().unflatten(0, (times, -1))
    norms = weight.square().sum(dim=(0, 2)).sqrt()
    factor = torch.diag(torch.cat([norms.new_ones(1), norms]))
    return Measured(factor, torch.eye(group.reader.out_features, dtype=torch.float64), 1)
