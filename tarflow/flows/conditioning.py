"""Conditioners: each reads one part of a context for the networks of a flow."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tarflow.arguments import check_integer, keep, shown
from tarflow.errors import ContextError
from tarflow.flows.context import NULL_CLASS, Context, Rows
from tarflow.nn.embedding import LabelEmbedding, NoiseLevelEmbedding
from tarflow.randomness import RandomSource, uniform
from tarflow.registry import Part


@dataclass(frozen=True)
class Conditioner(Part, ABC):
    """Tells what a part of a context may hold, what its null is, and what networks make of it."""

    part: ClassVar[str]
    """Name of the part."""

    dropped: ClassVar[bool] = True
    """Whether it becomes null where conditions are dropped, in training and for guidance."""

    ndim: ClassVar[int] = 0
    """Number of dimensions of what is told of one example."""

    by_position: ClassVar[bool] = False
    """Whether its rows have a value for each position of a sequence, and move with these."""

    @property
    def num_prefix(self) -> int:
        """Number of vectors that it puts before a sequence; 0 if it adds to all positions."""
        return 0

    @abstractmethod
    def null(self, examples: Tensor) -> Rows:
        """The rows that stand for no condition, for some examples, on their device.

        Raises:
            ContextError: The part must not be missing.
        """

    def null_like(self, rows: Rows, examples: Tensor) -> Rows:
        """The same in the kind of other rows, where a part may be told in several."""
        return self.null(examples)

    def read(self, rows: Rows) -> Rows:
        """The rows as `module` takes them, or a `ContextError`, without a look at their values."""
        return rows

    def check(self, rows: Rows) -> None:
        """Look at the values, which waits for their device: where conditions enter, once.

        Raises:
            ContextError: A value is out of range.
        """

    def module(self, model_dim: int) -> nn.Module | None:
        """What each transform learns: rows to vectors, which its network adds at all positions."""
        return None


@dataclass(frozen=True)
class LabelConditioner(Conditioner):
    """Class indices; the null is `NULL_CLASS`, embedded as the mean of all classes.

    Or a row of weights of all classes for each example, floating-point numbers that sum to 1: a
    mixture of classes, embedded as the mean by these weights. Equal ones are the null.
    """

    num_classes: int
    part: ClassVar[str] = "label"

    def __post_init__(self):
        keep(self, num_classes=check_integer("num_classes", self.num_classes, least=1))

    def null(self, examples: Tensor) -> Rows:
        return torch.full((examples.shape[0],), NULL_CLASS, device=examples.device)

    def null_like(self, rows: Rows, examples: Tensor) -> Rows:
        if rows.is_floating_point():
            return torch.full_like(rows, 1 / self.num_classes)
        return self.null(examples)

    def read(self, rows: Rows) -> Rows:
        if rows.is_floating_point() and rows.shape[1:] == (self.num_classes,):
            return rows
        if rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool:
            raise ContextError(
                f"labels are integers, not {rows.dtype}: convert them with .long(), or pass rows"
                f" of {self.num_classes} weights of classes"
            )
        _check_shape(self.part, rows)
        return rows.long()

    def check(self, rows: Rows) -> None:
        if rows.is_floating_point():
            if not ((rows >= 0).all() and ((rows.sum(dim=1) - 1).abs() < 0.01).all()):
                raise ContextError("weights of classes must not be negative, and sum to 1")
        elif rows.numel() and not -1 <= rows.min() <= rows.max() < self.num_classes:
            raise ContextError(
                f"labels go from {rows.min()} to {rows.max()}, but this model knows 0 ..."
                f" {self.num_classes - 1}, and -1 for no class"
            )

    def module(self, model_dim: int) -> nn.Module:
        return LabelEmbedding(self.num_classes, model_dim)


@dataclass(frozen=True)
class NumberConditioner(Conditioner):
    """Positive numbers, which stay as they are where conditions are dropped."""

    dropped: ClassVar[bool] = False
    meaning: ClassVar[str]
    """What such a number is, for messages."""

    def read(self, rows: Rows) -> Rows:
        if not rows.is_floating_point():
            self._refuse(rows)
        _check_shape(self.part, rows)
        return rows

    def check(self, rows: Rows) -> None:
        if not (rows > 0).all():
            self._refuse(rows)

    def _refuse(self, rows: Rows) -> None:
        """Tell what is allowed."""
        raise ContextError(
            f"{self.meaning}: pass floating-point numbers above 0, not {shown(rows.tolist())}"
        )


@dataclass(frozen=True)
class TemperatureConditioner(NumberConditioner):
    """Divisors of the attention logits: every flow knows them, and learns nothing for them.

    They set apart the null prediction of a flow without classes; the neutral one is 1.
    """

    part: ClassVar[str] = "temperature"
    meaning: ClassVar[str] = "a temperature divides attention logits"

    def null(self, examples: Tensor) -> Rows:
        return examples.new_ones(len(examples))


@dataclass(frozen=True)
class NoiseLevelConditioner(NumberConditioner):
    """Standard deviations of the noise in each example, of which one flow learns many.

    There is no density at no level: the part must be there.
    """

    part: ClassVar[str] = "noise_level"
    meaning: ClassVar[str] = "a noise level is a finite standard deviation of noise"

    def null(self, examples: Tensor) -> Rows:
        raise ContextError(
            "this flow is one of data at many noise levels, and none is given: pass the standard"
            " deviation of the noise in x, such as context={'noise_level': 0.1}"
        )

    def check(self, rows: Rows) -> None:
        super().check(rows)
        if not rows.isfinite().all():
            self._refuse(rows)

    def module(self, model_dim: int) -> nn.Module:
        return NoiseLevelEmbedding(model_dim)


Conditioners = Sequence[Conditioner]


def null_context(
    conditioners: Conditioners, examples: Tensor, beside: Context = Context()
) -> Context:
    """No condition in any part that may be dropped, of the kinds that another context has."""
    parts = {}
    for each in conditioners:
        if each.dropped:
            rows = beside.get(each.part)
            null = each.null(examples) if rows is None else each.null_like(rows, examples)
            parts[each.part] = null
    return Context(**parts)


def with_null(
    context: Context, conditioners: Conditioners, examples: Tensor, temperature: float = 1.0
) -> Context:
    """Stack the context of the null prediction under another: twice the rows, for guidance.

    Attention logits of the null prediction, and of it alone, are divided by the temperature.
    Other parts that are never dropped, such as noise levels, are the same in both.
    """
    null = null_context(conditioners, examples, context)
    own = null.updated(**context.parts)
    null = own.updated(**null.parts)
    if temperature == 1 and context.temperature is None:  # dividing by one would cost time
        return own.cat(null)
    neutral = TemperatureConditioner().null(examples)
    given = neutral if context.temperature is None else context.temperature.to(examples.dtype)
    return own.updated(temperature=given).cat(null.updated(temperature=temperature * neutral))


def with_dropout(
    context: Context, conditioners: Conditioners, probability: float, source: RandomSource = None
) -> Context:
    """Replace conditions of an example by their nulls with a probability, as training does."""
    learned = [c for c in conditioners if c.part in context and c.dropped]
    if not learned or probability == 0:
        return context
    rows = context[learned[0].part]
    # One draw for all conditions: guidance needs examples of no condition at all.
    draw = uniform(rows.shape[:1], source, torch.float32, rows.device, "label")
    dropped, null = draw < probability, null_context(learned, draw, context)
    kept = {}
    for name, part in null.parts.items():
        beside = dropped.view(-1, *(1,) * (part.ndim - 1))
        kept[name] = torch.where(beside, part, context[name])
    return context.updated(**kept)


def _check_shape(name: str, rows: Rows) -> None:
    """Refuse more than a number for each example."""
    if rows.ndim != 1:
        raise ContextError(f"{name} has shape {tuple(rows.shape)}: pass one {name} per example")
