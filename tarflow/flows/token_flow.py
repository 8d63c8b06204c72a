"""Flows of sequences of tokens: atoms, columns, latents."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tarflow.arguments import check_integer, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.cleared import Cleared
from tarflow.flows.conditioning import Conditioner
from tarflow.flows.own_order import FormerOrder, OwnOrder
from tarflow.flows.position_conditioning import MaskConditioner, OrderConditioner
from tarflow.flows.stack import Stack, coordinates
from tarflow.flows.standardization import Standardization
from tarflow.flows.supported import Supported, Supports, check_supports, columns_of, num_inner
from tarflow.flows.supported_flow import SupportedFlow
from tarflow.flows.supports import Circle, Real
from tarflow.flows.transforms import Transform
from tarflow.nn.positions import Coordinates


@dataclass(frozen=True, kw_only=True)
class TokenFlowDescription(Stack):
    """What a `TokenFlow` is made from; see there."""

    length: int
    token_dim: int
    supports: Supports

    def __post_init__(self):
        for name in ("length", "token_dim"):
            keep(self, **{name: check_integer(name, getattr(self, name), least=1)})
        keep(self, supports=check_supports(self.supports))
        columns = columns_of(self.supports, self.token_dim)
        if any(isinstance(each.support, Circle) for each in columns):
            raise ConfigurationError(
                "circles are summed over all turns of all tokens, which are too many: use"
                " TarFlow.for_vectors, or give sine and cosine"
            )
        super().__post_init__()

    @property
    def all_conditioners(self) -> tuple[Conditioner, ...]:
        positions = MaskConditioner(self.length), OrderConditioner(self.length)
        return (*positions, *super().all_conditioners)

    def shape(self, index: int) -> tuple[int, int]:
        return self.length, num_inner(self.supports, self.token_dim)

    def coordinates(self, index: int, sites: Sequence[int]) -> Coordinates:
        return coordinates(sites, self.length)

    def before(self, index: int) -> Iterator[Transform]:
        """Make what leads from tokens to standardized ones, each example in its own order."""
        if index == 0:
            yield Cleared(self.length)
            yield Supported(self.supports, self.token_dim, self.length)
            yield Standardization(self.shape(0)[1], self.length)
            yield OwnOrder(self.length)

    def after(self) -> Iterator[Transform]:
        yield FormerOrder(self.length)


class TokenFlow(SupportedFlow):
    """A Transformer autoregressive flow over sequences of vectors (arXiv 2412.06329).

    A context may have, besides what conditioners read, a `mask`, which tells the positions that
    are there, and an `order`, in which those of each example are read.

    Args:
        length: Number of positions, those of padding included.
        token_dim: Size of the vector at each position.
        supports: Where its numbers may lie: one `Support` for all, or one after the other.
        conditioners: Such as `VectorConditioner(3)`, `TokenConditioner(length, 5)`, or
            `PrefixConditioner(4, 8)`.
        **options: Those of a `TarFlow` from `num_transforms` on, but for the codec, such as
            `model_dim`, `num_classes`, `ordering`, `scale` and `noise`. By default four transforms
            of two layers, 128 wide, and a start token, so that the first position has a context.

    Example:
        >>> import torch
        >>> flow = TokenFlow(length=4, token_dim=3, model_dim=32, head_dim=16, num_layers=1)
        >>> mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
        >>> x = flow.sample(2, {"mask": mask})
        >>> x.shape, x[0, 2:].abs().sum(), flow.log_prob(x, {"mask": mask}).shape
        (torch.Size([2, 4, 3]), tensor(0.), torch.Size([2]))
    """

    def __init__(
        self,
        length: int,
        token_dim: int,
        supports: Supports = Real(),
        conditioners: Sequence[Conditioner] = (),
        **options: Any,
    ):
        given = {"length": length, "token_dim": token_dim, "supports": supports}
        description = TokenFlowDescription(**given, conditioners=conditioners, **options)
        super().__init__(description, (description.length, description.token_dim))
