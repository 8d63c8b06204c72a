"""What a density is conditioned on."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tarflow.arguments import shown
from tarflow.errors import ContextError
from tarflow.randomness import RandomSource, uniform

NULL_CLASS = -1
"""The label that stands for "no class": what a dropped label becomes."""


@dataclass(frozen=True)
class Context:
    """Conditions of a batch of examples, one row each.

    Attributes:
        label: Class indices; `NULL_CLASS` where there is none.
        temperature: Divisor of the attention logits, one per example; sets apart the null
            prediction of a flow that has no classes.
    """

    label: Int[Tensor, " batch"] | None = None
    temperature: Float[Tensor, " batch"] | None = None

    @classmethod
    def of(
        cls, value: "Context | Tensor | int | None", batch: int, device: torch.device | str
    ) -> "Context":
        """Read what a caller passed where a context is expected.

        Args:
            value: A context, a tensor of labels, one label for the whole batch, or None.
            batch: Number of examples.
            device: Where the examples are.

        Raises:
            ContextError: The value is none of these, or has another number of rows.
        """
        if isinstance(value, Context):
            context = value
            _check_parts(context)
        else:
            context = cls(label=None if value is None else _read_label(value, batch))
        for field in fields(cls):
            part = getattr(context, field.name)
            if part is not None and part.shape != (batch,):
                raise ContextError(
                    f"{field.name} has shape {tuple(part.shape)}, but there are {batch} examples:"
                    f" pass one {field.name} per example"
                )
        return context.to(device)

    def to(self, device: torch.device | str) -> "Context":
        """Move every part to a device."""
        return self.map(lambda part: part.to(device))

    def with_null(self, examples: Tensor, temperature: float = 1.0) -> "Context":
        """Stack the context of the null prediction under this one: twice the rows, for guidance.

        Args:
            examples: The examples of this context; tells their number, device and dtype.
            temperature: Divisor of the attention logits of the null prediction, and of it alone.
        """
        batch, device = len(examples), examples.device
        null_label = torch.full((batch,), NULL_CLASS, device=device)
        label = null_label if self.label is None else self.label
        divisor = None
        if temperature != 1 or self.temperature is not None:
            own = examples.new_ones(batch) if self.temperature is None else self.temperature
            divisor = torch.cat([own.to(examples.dtype), temperature * examples.new_ones(batch)])
        return Context(torch.cat([label, null_label]), divisor)

    def drop_label(self, probability: float, source: RandomSource = None) -> "Context":
        """Replace each label by `NULL_CLASS` with the given probability, as training does."""
        if self.label is None or probability == 0:
            return self
        draw = uniform(self.label.shape, source, torch.float32, self.label.device, "label")
        return replace(self, label=self.label.masked_fill(draw < probability, NULL_CLASS))

    def map(self, function: Callable[[Tensor], Tensor]) -> "Context":
        """Apply a function to every part that is there."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return Context(**{k: None if v is None else function(v) for k, v in parts.items()})


def _read_label(value: Tensor | int, batch: int) -> Tensor:
    """Turn a label or labels into an integer tensor with a row per example."""
    try:
        label = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ContextError(f"labels are integers, not {value!r}") from error
    _check_integers(label)
    return label.expand(batch) if label.ndim == 0 else label


def _check_parts(context: Context) -> None:
    """Refuse parts of another kind, and a temperature that divides by nothing."""
    for name in ("label", "temperature"):
        part = getattr(context, name)
        if not isinstance(part, Tensor | None):
            raise ContextError(f"{name} is a {type(part).__name__}: pass a tensor, or None")
    if context.label is not None:
        _check_integers(context.label)
    temperature = context.temperature
    if temperature is None:
        return
    if not temperature.is_floating_point() or not (temperature > 0).all():
        raise ContextError(
            "a temperature divides attention logits: pass floating-point numbers above 0, not"
            f" {shown(temperature.tolist())}"
        )


def _check_integers(label: Tensor) -> None:
    """Refuse labels of another kind."""
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise ContextError(f"labels are integers, not {label.dtype}: convert them with .long()")
