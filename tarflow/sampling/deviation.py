"""How far samples of several ways to decode are from exact ones."""

from collections.abc import Sequence

import torch

from tarflow.flows.context import Context
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.flow import Flow
from tarflow.randomness import ExampleSeeds

EXAMPLES = 16
"""Samples to compare at least: of one alone the deviation varies."""


def deviations(
    flow: Flow, ways: Sequence[DecodeOptions], context: Context, batch_size: int, seed: int
) -> list[float]:
    """The root mean square deviation of each way's samples from those of the first.

    It is over all numbers of the samples that are finite there, and infinite where one of these is
    not finite.

    Args:
        flow: What is sampled.
        ways: How to decode.
        context: What a batch is conditioned on; all are conditioned on the same.
        batch_size: Number of samples of a batch.
        seed: Seed of the noise.
    """
    squares = torch.zeros(len(ways), dtype=torch.float64)
    count = 0
    for start in range(0, EXAMPLES, batch_size):
        z = flow.base.sample(batch_size, ExampleSeeds(seed, range(start, start + batch_size)))
        samples = [flow.attempt(z, context, options=way).x.cpu().double() for way in ways]
        finite = samples[0].isfinite().flatten(1).all(dim=1)
        gaps = [(x - samples[0])[finite].square().sum() for x in samples]
        squares += torch.stack(gaps)
        count += samples[0][finite].numel()
    return (squares / max(count, 1)).sqrt().nan_to_num(torch.inf).tolist()
