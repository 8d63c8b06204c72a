r"""How much a training step computes, and how fast the device could at best.

The transformer of one transform has P weights (the entries of its matrices) and L layers, whose
heads are together C wide, and reads T - 1 positions of an example, each of which predicts the
next. Its products take

    operations = 2 P (T - 1) + 4 L C sum_{i=1..T-1} i       matrices; logits and weighted sums

forward - position i attends to i positions: causal attention counts as half of the square - and
twice that backward, for the gradients of inputs and of weights. What layers read of the condition
is computed once for an example, not at every position. All else counts as nothing, and so does
what is computed a second time to save memory.

A bidirectional transformer reads all T positions, each of which attends to all of them:

    operations = 2 P T + 4 L C T^2

Every transformer of a model counts for one pass, those that transforms share for one each.
"""

import functools

import torch
from torch import nn

from tarflow.machine.device import matrix_rate
from tarflow.nn.attention import CausalSelfAttention
from tarflow.nn.transformer import CausalTransformer, Transformer
from tarflow.training.acceleration import networks


def training_operations(model: nn.Module) -> int:
    """Operations of one training step for each example of its batch, as defined above."""
    return 3 * sum(forward_operations(network) for network in networks(model))


def forward_operations(network: Transformer) -> int:
    """Operations of one pass of a transformer over one example, as defined above."""
    total, positions, attended = 0, network.length, network.length**2
    if isinstance(network, CausalTransformer):  # the last position predicts nothing
        positions = network.length - 1
        attended = positions * (positions + 1) // 2
    for name, weight in network.named_parameters():
        if weight.ndim == 2 and name != "position_embedding":
            total += 2 * weight.numel() * (1 if "modulation." in name else positions)
    parts = [part for part in network.modules() if isinstance(part, CausalSelfAttention)]
    widths = [part.num_heads * part.head_dim for part in parts]
    return total + 4 * attended * sum(widths or len(network.blocks) * [network.model_dim])


@functools.cache
def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the device's matrix products at best; measured once in a process.

    Where the device multiplies a lower precision more slowly than float32, that of float32, since
    widening numbers costs little beside that. torch's random states stay as they are.
    """
    # On a CPU larger matrices gain nothing, and some multiply bfloat16 a hundred times slower.
    limits = {"largest": 1024, "enough": 0.01} if device.type == "cpu" else {}
    precisions = {dtype, torch.promote_types(dtype, torch.float32)}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        rates = [matrix_rate(device, each, **limits) for each in precisions]
    if device.type == "cuda":
        torch.cuda.empty_cache()  # or the matrices would be missing where memory is tight
    return max(rates)
