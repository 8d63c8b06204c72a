"""What a flow says of the samples of a student, and the likeliest of several."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tarflow.arguments import check_integer, check_tensor
from tarflow.errors import ConfigurationError
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.flow import Flow
from tarflow.flows.noise import Noise, NoNoise
from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import ExampleStreams, RandomSource
from tarflow.students.placement import placed
from tarflow.students.student import Number, Student


@dataclass(frozen=True)
class Judgement:
    """What a flow says of samples, one number for each.

    Attributes:
        log_prob: The log-density of the flow at the sample, in nats, summed over all dimensions.
        residual: By how much the flow's noise of the sample misses that which it was made from:
            the largest difference of any dimension, in units of the noise's standard deviation.
    """

    log_prob: PerExample
    residual: PerExample


@torch.no_grad()
def judge(
    flow: Flow,
    z: Examples,
    x: Examples,
    context: ContextLike = None,
    *,
    noise: Noise = NoNoise(),
    source: RandomSource = None,
) -> Judgement:
    """Judge samples x that a student made from noise z, by one pass of a flow.

    The density is that of data with the flow's noise in it. Clean samples as they are lie nearer
    its peaks than data do, alike for all; `noise=flow.noise` adds that noise, and then the
    density compares with that of data. A flow of many noise levels judges at the level that the
    context or the noise tells, else at the one that its samples are drawn at.

    Args:
        flow: The flow.
        z: What the samples were made from, in the shape of images, as `placed` gives it.
        x: The samples.
        context: What they were conditioned on.
        noise: What is added to the samples.
        source: Where the noise is drawn from.

    Raises:
        ConfigurationError: The shapes do not fit.
        ContextError: The context is not one of the flow.
    """
    flow.check_data(x)
    check_tensor("z", z, None, x.device)
    given = Context.of(context, len(x), x.device)
    noisy, told = noise.drawn(x, source)
    known = flow.sampling_context(given.updated(**told.parts), noisy)
    found, log_det = flow(noisy, known)
    again = placed(flow, found)
    if z.shape != again.shape:
        raise ConfigurationError(
            f"z has shape {tuple(z.shape)}, but the noise of these samples is of"
            f" {tuple(again.shape)}: pass what a student made them from, or placed(flow, z)"
        )
    miss = (again - z).abs().flatten(1).amax(dim=1)
    return Judgement(flow.base.log_prob(found) + log_det, miss)


@dataclass(frozen=True)
class Chosen:
    """Samples that were chosen among several each.

    Attributes:
        x: The samples.
        z: What they were made from, in the shape of images.
        judgement: What the flow says of them.
        index: Which of its draws each is, from 0.
    """

    x: Examples
    z: Examples
    judgement: Judgement
    index: Tensor


@torch.no_grad()
def best_of(
    student: Student,
    flow: Flow,
    count: int,
    num_samples: int,
    context: ContextLike = None,
    *,
    weight: Number = 0.0,
    steps: int | None = None,
    source: RandomSource = None,
) -> Chosen:
    """Draw several samples of a student for each that is wanted, and keep the likeliest.

    The first draw is that of `student.sample`. Each draw costs the student's passes and one of
    the flow.

    Args:
        student: Draws the samples.
        flow: Judges them, as they are.
        count: Number of draws for each sample.
        num_samples: Number of samples.
        context: What to condition on: one row per sample, or one label for all.
        weight: Weight of the guidance.
        steps: Number of steps.
        source: A generator, or `ExampleSeeds` for samples that do not depend on their batch.

    Raises:
        ConfigurationError: Student and flow are of other images, or a number is out of range.
        ContextError: The context is not one of the student or of the flow.
    """
    if flow.image_shape != student.image_shape:
        raise ConfigurationError(
            f"the student makes images of {student.image_shape}, but the flow is one of"
            f" {flow.image_shape}: let the flow be the one it learned from"
        )
    count = check_integer("count", count, least=1)
    streams, best = ExampleStreams.of(source), None
    for index in range(count):
        z = student.draw_noise(num_samples, streams)
        x = student.generate(z, context, weight=weight, steps=steps)
        order = torch.full((num_samples,), index, device=x.device)
        drawn = Chosen(x, z, judge(flow, z, x, context), order)
        best = drawn if best is None else _likelier(best, drawn)
    assert best is not None
    return best


def _likelier(held: Chosen, other: Chosen) -> Chosen:
    """The likelier of two for each sample; one without a density is the last choice."""
    ours, theirs = held.judgement, other.judgement
    better = (theirs.log_prob > ours.log_prob) | ours.log_prob.isnan()

    def pick(mine: Tensor, its: Tensor) -> Tensor:
        return torch.where(better.view(-1, *(1,) * (mine.ndim - 1)), its, mine)

    judgement = Judgement(
        pick(ours.log_prob, theirs.log_prob), pick(ours.residual, theirs.residual)
    )
    return Chosen(
        pick(held.x, other.x),
        pick(held.z, other.z),
        judgement,
        pick(held.index, other.index),
    )
