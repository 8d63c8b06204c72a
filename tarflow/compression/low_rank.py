"""Truncated singular value decompositions of an MLP's matrices: a baseline of compression."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from tarflow.flows.tar_flow import TarFlow
from tarflow.nn.layers import Block


@torch.no_grad()
def low_rank(flow: TarFlow, threshold: float) -> TarFlow:
    r"""A flow with every matrix of its MLPs as a product of two, $W \approx (U_r S_r) V_r^T$.

    What is kept are the singular values above one threshold for all matrices, and the largest of
    each. Of all matrices of its rank a product is the nearest, whatever the activations are. A
    matrix whose factors would take as many operations stays as it is.

    The modules are not those that a description makes: the flow lives in memory, and is not saved.

    Args:
        flow: The flow, which stays as it is.
        threshold: Singular values up to it are dropped.
    """
    found = copy.deepcopy(flow)
    found.description = None
    for block in (each for each in found.modules() if isinstance(each, Block)):
        for name, layer in block.mlp.named_children():
            if isinstance(layer, nn.Linear):
                setattr(block.mlp, name, _factored(layer, threshold))
    return found


def _factored(layer: nn.Linear, threshold: float) -> nn.Module:
    """A linear layer as two, where these compute less."""
    weight = layer.weight
    u, values, v = torch.linalg.svd(weight.double(), full_matrices=False)
    rank = max(1, int((values > threshold).sum()))
    if rank * sum(weight.shape) >= weight.numel():
        return layer
    told = {"device": weight.device, "dtype": weight.dtype}
    inner: Any = skip_init(nn.Linear, layer.in_features, rank, bias=False, **told)
    outer: Any = skip_init(nn.Linear, rank, layer.out_features, **told)
    inner.weight.copy_(v[:rank])
    outer.weight.copy_(u[:, :rank] * values[:rank])
    outer.bias = layer.bias
    return nn.Sequential(inner, outer)
