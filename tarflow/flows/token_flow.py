"""Flows of sequences of tokens: atoms, columns, latents."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from tarflow.arguments import check_integer, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.affine import ExpScale, Scale
from tarflow.flows.cleared import Cleared
from tarflow.flows.conditioning import Conditioner
from tarflow.flows.first_position import FirstPosition, StartToken
from tarflow.flows.noise import Noise
from tarflow.flows.ordering import Alternating, Ordering
from tarflow.flows.own_order import FormerOrder, OwnOrder
from tarflow.flows.position_conditioning import MaskConditioner, OrderConditioner
from tarflow.flows.stack import Each, EachLayer, Stack, coordinates
from tarflow.flows.standardization import Standardization
from tarflow.flows.supported import Supported, Supports, columns_of, num_inner
from tarflow.flows.supported_flow import SupportedFlow
from tarflow.flows.supports import Circle, Real, Support
from tarflow.flows.transforms import Transform
from tarflow.nn.layers import Layer, PreNorm
from tarflow.nn.norms import Norm
from tarflow.nn.positions import Coordinates, LearnedPositions, Positions


@dataclass(frozen=True, kw_only=True)
class TokenFlowDescription(Stack):
    """What a `TokenFlow` is made from; see there."""

    length: int
    token_dim: int
    supports: Supports

    def __post_init__(self):
        for name in ("length", "token_dim"):
            keep(self, **{name: check_integer(name, getattr(self, name), least=1)})
        if not isinstance(self.supports, Support):
            keep(self, supports=tuple(self.supports))
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
        num_transforms: As in a `TarFlow`, and so what follows.
        num_layers: See there.
        model_dim: See there.
        head_dim: See there.
        expansion: See there.
        dropout: See there.
        num_classes: See there.
        scale: See there.
        ordering: In which order each transform reads the positions.
        layer: See there.
        positions: See there.
        output_norm: See there.
        conditioners: Such as `VectorConditioner(3)`, `TokenConditioner(length, 5)`, or
            `PrefixConditioner(4, 8)`.
        noise: See there.
        class_names: See there.
        conditioned: See there.
        networks: See there.
        first: What the first position depends on: by default a learned start, and the context.
        num_heads: See there.
        hidden_dims: See there.

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
        num_transforms: int = 4,
        num_layers: Each = 2,
        model_dim: Each = 128,
        head_dim: Each = 32,
        expansion: Each = 4,
        dropout: float | Sequence[float] = 0.0,
        num_classes: int = 0,
        scale: Scale = ExpScale(),
        ordering: Ordering = Alternating(),
        layer: Layer = PreNorm(),
        positions: Positions = LearnedPositions(),
        output_norm: Norm | None = None,
        conditioners: Sequence[Conditioner] = (),
        noise: Noise | None = None,
        class_names: Sequence[str] = (),
        conditioned: bool | Sequence[bool] = True,
        networks: Sequence[int] | None = None,
        first: FirstPosition = StartToken(),
        num_heads: EachLayer | None = None,
        hidden_dims: EachLayer | None = None,
    ):
        given = locals()
        names = [field.name for field in fields(TokenFlowDescription)]
        description = TokenFlowDescription(**{name: given[name] for name in names})
        super().__init__(description.transforms(), description.base(), None, noise, description)
        self.shape = (description.length, description.token_dim)

    @property
    def example_shape(self) -> tuple[int, int]:
        return self.shape
