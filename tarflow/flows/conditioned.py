"""Models that are conditioned: what they read of a context."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tarflow.errors import ContextError
from tarflow.flows.conditioning import Conditioner, LabelConditioner
from tarflow.flows.context import Context, ContextLike, read_part


class Conditioned:
    """What reads the contexts of a model.

    Attributes:
        conditioners: Each reads one part of a context.
    """

    conditioners: tuple[Conditioner, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes that a label may name; 0 for a flow without labels."""
        counts = [c.num_classes for c in self.conditioners if isinstance(c, LabelConditioner)]
        return max(counts, default=0)

    def read_context(self, context: ContextLike, examples: Tensor) -> Context:
        """Read the caller's context as networks take it, without a look at values on a device.

        Raises:
            ContextError: A part is unknown, or of another kind or shape.
        """
        # Not len(): torch.export makes that a constant.
        given = Context.of(context, examples.shape[0], examples.device)
        known = {each.part: each for each in self.conditioners}
        for name in given:
            if name == "label" and name not in known:
                raise ContextError("this model has no classes: leave the label out")
            if name not in known:
                raise ContextError(f"{name} is unknown: this model knows {', '.join(known)}")
        read = Context(**{name: known[name].read(rows) for name, rows in given.parts.items()})
        if isinstance(context, int) and not -1 <= context < self.num_classes:
            self.check_context(read)  # which the host knows to be wrong
        return read

    def batched(self, context: ContextLike) -> tuple[Context, torch.Size]:
        """A context whose rows have any number of batch dimensions, with one, and their shape.

        Raises:
            ContextError: A part is not a tensor, or batch dimensions do not fit together.
        """
        given = context.parts if isinstance(context, Context) else context
        given = given if isinstance(given, Mapping) else {"label": given}
        parts = {name: read_part(name, part) for name, part in given.items() if part is not None}
        ndims = {each.part: each.ndim for each in self.conditioners}
        sizes = {name: part.ndim - ndims.get(name, 0) for name, part in parts.items()}
        if parts.get("label", torch.empty(0, dtype=torch.long)).is_floating_point():
            sizes["label"] -= 1  # weights of classes
        shapes = {name: tuple(parts[name].shape[: max(size, 0)]) for name, size in sizes.items()}
        try:
            shape = torch.broadcast_shapes(*shapes.values()) if shapes else torch.Size()
        except RuntimeError as error:
            raise ContextError(
                f"batch dimensions do not fit together: {shapes}; give all parts the same ones"
            ) from error
        rows = {}
        for name, part in parts.items():
            rest = part.shape[max(sizes[name], 0) :]
            rows[name] = part.expand(shape + rest).reshape(-1, *rest)
        return Context(**rows), shape

    def check_context(self, context: Context) -> None:
        """Look at the values of a context: where it enters, once, since that waits for devices.

        Raises:
            ContextError: A value is out of range.
        """
        for conditioner in self.conditioners:
            rows = context.get(conditioner.part)
            if rows is not None:
                conditioner.check(rows)

    def _read(self, context: ContextLike, examples: Tensor) -> Context:
        """Read the caller's context and check its values."""
        read = self.read_context(context, examples)
        self.check_context(read)
        return read
