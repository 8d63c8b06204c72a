"""What a density is conditioned on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from tarflow.arguments import shown
from tarflow.errors import ContextError

NULL_CLASS = -1
"""The label that stands for "no class": what a dropped label becomes."""

Rows = Shaped[Tensor, "batch ..."]


@dataclass(frozen=True, init=False, eq=False)
class Context:
    """Conditions of a batch of examples: named parts, each with one row for each example.

    What a part means is up to the conditioner that reads it; see `tarflow.flows.conditioning`.

    Example:
        >>> context = Context(label=torch.tensor([3, 1]), temperature=torch.ones(2))
        >>> context["label"], list(context.map(lambda part: part[:1]))
        (tensor([3, 1]), ['label', 'temperature'])

    Args:
        label: Class indices; `NULL_CLASS` where there is none.
        temperature: Divisors of attention logits.
        parts: Other parts by name; None leaves one out.
    """

    parts: Mapping[str, Rows]

    def __init__(
        self, label: Rows | None = None, temperature: Rows | None = None, **parts: Rows | None
    ):
        given = {"label": label, "temperature": temperature, **parts}
        held = {name: part for name, part in given.items() if part is not None}
        object.__setattr__(self, "parts", held)

    @classmethod
    def of(cls, value: "ContextLike", batch: int, device: torch.device | str) -> "Context":
        """Read what a caller passed where the context of a batch on a device is expected.

        Raises:
            ContextError: The value is not `ContextLike`, or has another number of rows.
        """
        given = value.parts if isinstance(value, Context) else value
        if not isinstance(given, Mapping):
            given = {"label": given}
        read = {name: _read(name, part, batch) for name, part in given.items()}
        return cls(**read).to(device)

    def __getitem__(self, name: str) -> Rows:
        return self.parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def get(self, name: str) -> Rows | None:
        """A part, or None where it is not there."""
        return self.parts.get(name)

    @property
    def label(self) -> Rows | None:
        """The class indices, if there are any."""
        return self.get("label")

    @property
    def temperature(self) -> Rows | None:
        """The divisors of attention logits, if there are any."""
        return self.get("temperature")

    def updated(self, **parts: Rows | None) -> "Context":
        """The same with other parts in place of its own, or beside them."""
        return Context(**{**self.parts, **parts})

    def map(self, function: Callable[[Tensor], Tensor]) -> "Context":
        """Apply a function to every part."""
        return Context(**{name: function(part) for name, part in self.parts.items()})

    def to(self, device: torch.device | str) -> "Context":
        """Move every part to a device; the host does not wait for a GPU."""
        wait = torch.device(device).type in ("cpu", "mps")
        return self.map(lambda part: part.to(device, non_blocking=not wait))

    def pin_memory(self) -> "Context":
        """Copy every part to memory from which GPUs read fast; data loaders look for this."""
        return self.map(torch.Tensor.pin_memory)

    def cat(self, other: "Context") -> "Context":
        """Put the rows of another context with the same parts under these."""
        joined = {name: torch.cat([part, other[name]]) for name, part in self.parts.items()}
        return Context(**joined)


ContextLike = Context | Mapping[str, Any] | Tensor | int | None
"""A context, its parts by name, labels (a tensor, or one integer for all examples), or nothing."""


def read_part(name: str, value: Any) -> Tensor:
    """Turn what was passed as a part into a tensor.

    Raises:
        ContextError: It is something else.
    """
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = "labels are integers, not" if name == "label" else f"{name} is not a tensor but"
        raise ContextError(f"{kind} {shown(value)}") from error


def _read(name: str, value: Any, batch: int) -> Rows | None:
    """Turn what was passed as a part into a tensor with a row for each example."""
    if value is None:
        return None
    part = read_part(name, value)
    if part.ndim == 0:
        return part.expand(batch)
    if part.shape[0] != batch:
        raise ContextError(
            f"{name} has shape {tuple(part.shape)}, but there are {batch} examples:"
            f" pass one {name} per example"
        )
    return part
