"""What the units of a flow do on data, and what the likelihood makes of what they do."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from tarflow.compression.units import ALL, Group, Place, Units, groups_of
from tarflow.errors import DataError
from tarflow.flows.conditioning import null_context
from tarflow.flows.context import Context
from tarflow.flows.flow import Flow


@dataclass(frozen=True, eq=False)
class Measured:
    r"""What the units of one group did, over all tokens.

    Attributes:
        factor: Upper triangular R with $R^T R = A^T A$, where the rows of A are the tokens, and
            its columns a constant 1 and then the numbers of all units.
        fisher: The mean over tokens of $g g^T$, where g is the gradient of an example's negative
            log-likelihood, in nats, in what the units' reader puts out for a token.
        num_tokens: Number of tokens.
    """

    factor: Float64[Tensor, "rows rows"]
    fisher: Float64[Tensor, "outputs outputs"]
    num_tokens: int

    @property
    def mean(self) -> Float64[np.ndarray, " units"]:
        """The mean of every number."""
        return self._rows[0, 1:] / self._rows[0, 0]

    @property
    def centered(self) -> Float64[np.ndarray, "units units"]:
        """The factor of what is left when every number's mean is taken off, as of one token."""
        return self._rows[1:, 1:] / self.num_tokens**0.5

    @property
    def _rows(self) -> np.ndarray:
        return self.factor.numpy()


Activations = Mapping[Place, Measured]
"""What all groups of units of a flow did."""


def measure(
    flow: Flow,
    batches: Iterable[tuple[Tensor, Context]],
    parts: Sequence[Units] = ALL,
) -> dict[Place, Measured]:
    """See what the units of a flow do on data, in one pass; memory does not grow with the data.

    Every batch is seen twice where the flow drops conditions: with its own, and with none, which
    count alike.

    Args:
        flow: The flow.
        batches: Data as the flow takes it, and what it is conditioned on.
        parts: Kinds of units.

    Raises:
        ConfigurationError: The flow has parts whose units are not known.
        DataError: There are fewer tokens than numbers in a layer, of which nothing follows.
    """
    flow.eval()
    groups = groups_of(flow, parts)
    sums = {place: Sums(group) for place, group in groups.items()}
    for x, context in batches:
        null = null_context(flow.conditioners, x, context).parts
        for each in [context, context.updated(**null)] if null else [context]:
            with torch.enable_grad(), watched(groups) as outputs:
                loss = -flow.log_prob(x, each).sum()
                gradients = torch.autograd.grad(loss, [y for _, y, _ in outputs])
            for (place, _, inputs), gradient in zip(outputs, gradients, strict=True):
                sums[place].add(inputs, gradient)
    return {place: each.measured() for place, each in sums.items()}


@contextmanager
def watched(groups: Mapping[Place, Group]) -> Iterator[list[tuple[Place, Tensor, Tensor]]]:
    """As long as it lasts, list what readers put out, and what they read, in passes of a flow."""
    seen: list[tuple[Place, Tensor, Tensor]] = []

    def look(place: Place) -> Callable[..., Tensor]:
        def hook(module: object, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            output = output if output.requires_grad else output.requires_grad_()
            seen.append((place, output, inputs[0].detach()))
            return output

        return hook

    hooks = [group.reader.register_forward_hook(look(p)) for p, group in groups.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class Sums:
    """Adds up what the units of a group do."""

    def __init__(self, group: Group):
        self.num_tokens = 0
        width = group.reader.in_features + 1
        self.factor = torch.zeros(width, width, dtype=torch.float64)
        self.fisher = torch.zeros(2 * [group.reader.out_features], dtype=torch.float64)

    def add(self, inputs: Tensor, gradient: Tensor) -> None:
        """Add what happened in a pass."""
        rows, slopes = (each.flatten(0, -2).cpu().double() for each in (inputs, gradient))
        self.num_tokens += len(rows)
        rows = torch.cat([rows.new_ones(len(rows), 1), rows], dim=1)
        self.factor = torch.linalg.qr(torch.cat([self.factor, rows]), mode="r").R
        self.fisher += slopes.T @ slopes

    def measured(self) -> Measured:
        """The result."""
        if self.num_tokens < len(self.factor):
            raise DataError(
                f"{self.num_tokens} tokens tell nothing of a layer of {len(self.factor) - 1}"
                " numbers: calibrate on more images"
            )
        return Measured(self.factor, self.fisher / self.num_tokens, self.num_tokens)
