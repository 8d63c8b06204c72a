"""Pairs of prior noise and what the teacher decodes from it."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from tarflow.arguments import check_instance, check_integer, check_real
from tarflow.errors import ConfigurationError
from tarflow.flows.context import NULL_CLASS, Context
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.flow import Flow
from tarflow.flows.shapes import Examples
from tarflow.randomness import ExampleSeeds, RandomSource, stream_seed, uniform
from tarflow.registry import Part
from tarflow.sampling.denoising import attempt_denoising, wants_denoising
from tarflow.training.distillation.clean import Clean
from tarflow.training.distillation.step_counter import StepCounter


class PriorPairs(nn.Module, Part):
    r"""A pool of pairs $(z, F^{-1}(z))$ that stand in for some examples of every batch.

    The noise of data is not quite the prior: a student that learns from samples of the teacher as
    well learns where it will be asked. The pool is part of the state, so that a resumed run goes
    on with it; noise and labels follow from the seed.

    Args:
        size: Number of pairs in the pool.
        share: Share of the examples of a batch that are taken from it.
        every: Number of batches after which a part of the pool is drawn anew.
        renewed: Number of pairs in that part, and decoded at a time.
        options: How the teacher decodes, without guidance.
        seed: Of noise and labels.
    """

    noisy: Tensor
    clean: Tensor
    label: Tensor

    def __init__(
        self,
        size: int = 2048,
        share: float = 0.25,
        every: int = 10,
        renewed: int = 128,
        options: DecodeOptions = DecodeOptions(),
        seed: int = 0,
    ):
        super().__init__()
        self.size = check_integer("size", size, least=1)
        self.share = float(check_real("share", share))
        if not 0 < self.share <= 1:
            raise ConfigurationError(f"share {share} of prior pairs must be in (0, 1]")
        self.every = check_integer("every", every, least=1)
        self.renewed = check_integer("renewed", renewed, least=1)
        if self.renewed > self.size:
            raise ConfigurationError(f"renewed {renewed} is more than the pool's size {size}")
        check_instance("options", options, DecodeOptions, "pass DecodeOptions(...)")
        if options.guidance is not None:
            raise ConfigurationError(
                "prior pairs with guidance are not inverse to the flow: leave it out, and let the"
                " student learn weights by weights=UniformWeights(...)"
            )
        self.options = options
        self.seed = check_integer("seed", seed)
        self.batches, self.drawn = StepCounter(), StepCounter()

    def start(self, teacher: Flow, class_dropout: float) -> None:
        """Make room for the pairs of a teacher, and remember how often labels are dropped."""
        assert teacher.image_shape is not None
        self.class_dropout = class_dropout
        images = teacher.base.anchor.new_zeros(self.size, *teacher.image_shape)
        self.register_buffer("noisy", images)
        self.register_buffer("clean", images.clone())
        label = torch.full((self.size,), NULL_CLASS, device=images.device)
        self.register_buffer("label", label)

    def refresh(self, teacher: Flow) -> None:
        """Fill the pool at first, and now and then draw a part of it anew."""
        if not int(self.drawn):
            for first in range(0, self.size, self.renewed):
                self._draw(teacher, min(self.renewed, self.size - first))
        elif int(self.batches) % self.every == 0:
            self._draw(teacher, self.renewed)
        self.batches.advance()

    def mix(self, clean: Clean, noisy: Examples, source: RandomSource) -> tuple[Clean, Examples]:
        """Let pairs stand in for some examples: for clean data, its context and noisy data."""
        draw = uniform((len(noisy), 2), source, torch.float32, noisy.device, "pairs")
        taken, which = draw[:, 0] < self.share, (draw[:, 1] * self.size).long()
        beside = taken.view(-1, *(1,) * (noisy.ndim - 1))
        x = torch.where(beside, self.clean[which].to(clean.x.dtype), clean.x)
        noisy = torch.where(beside, self.noisy[which].to(noisy.dtype), noisy)
        context, label = clean.context, clean.context.label
        if label is not None:
            context = context.updated(label=torch.where(taken, self.label[which], label))
        return replace(clean, x=x, context=context), noisy

    @torch.no_grad()
    def _draw(self, teacher: Flow, count: int) -> None:
        """Decode new noise, and put it in place of the oldest pairs."""
        first = int(self.drawn)
        # Not the seed itself: whoever judges the student may draw by it.
        seed = stream_seed(self.seed, "pairs", 0)
        source = ExampleSeeds(seed, range(first, first + count))
        z = teacher.base.sample(count, source)
        label = self._labels(teacher, count, source)
        context = Context(label=label if teacher.num_classes else None)
        noisy = teacher.attempt(z, context, options=self.options).x
        clean = noisy
        if wants_denoising(teacher):
            clean = attempt_denoising(teacher, noisy, context, source=source)
        rows = torch.arange(first, first + count, device=z.device) % self.size
        for pool, new in ((self.noisy, noisy), (self.clean, clean), (self.label, label)):
            pool[rows] = new
        self.drawn.advance(count)

    def _labels(self, teacher: Flow, count: int, source: RandomSource) -> Tensor:
        """Classes, all as likely, dropped as often as in training."""
        draw = uniform((count, 2), source, torch.float32, self.label.device, "pairs/label")
        label = (draw[:, 0] * teacher.num_classes).long()
        dropped = draw[:, 1] < self.class_dropout
        return label.masked_fill(dropped | (teacher.num_classes == 0), NULL_CLASS)
