"""Flows of vectors: parameters, features, columns of a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_integer, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.affine import ExpScale, Scale
from tarflow.flows.conditioning import Conditioner
from tarflow.flows.first_position import FirstPosition, StartToken
from tarflow.flows.noise import Noise
from tarflow.flows.ordering import Alternating, Ordering
from tarflow.flows.shapes import Sequences
from tarflow.flows.stack import Each, EachLayer, Stack, coordinates
from tarflow.flows.standardization import Standardization
from tarflow.flows.supported import Supported, Supports, num_inner
from tarflow.flows.supported_flow import SupportedFlow
from tarflow.flows.supports import Real, Support
from tarflow.flows.transforms import Rearrangement, Transform
from tarflow.nn.layers import Layer, PreNorm
from tarflow.nn.norms import Norm
from tarflow.nn.positions import Coordinates, LearnedPositions, Positions


class Cut(Rearrangement):
    """Cuts vectors into tokens of a size.

    Args:
        token_dim: Their size.
    """

    def __init__(self, token_dim: int):
        super().__init__()
        self.token_dim = token_dim

    def arrange(self, x: Float[Tensor, "batch dim"]) -> Sequences:
        return x.unflatten(1, (-1, self.token_dim))

    def restore(self, z: Sequences) -> Float[Tensor, "batch dim"]:
        return z.flatten(1)


@dataclass(frozen=True, kw_only=True)
class VectorFlowDescription(Stack):
    """What a `VectorFlow` is made from; see there."""

    dim: int
    token_dim: int
    supports: Supports

    def __post_init__(self):
        for name in ("dim", "token_dim"):
            keep(self, **{name: check_integer(name, getattr(self, name), least=1)})
        if not isinstance(self.supports, Support):
            keep(self, supports=tuple(self.supports))
        if self.num_inner % self.token_dim:
            raise ConfigurationError(
                f"token_dim {self.token_dim} does not divide {self.num_inner}, the number of real"
                " numbers of a vector"
            )
        super().__post_init__()

    @property
    def num_inner(self) -> int:
        """Number of real numbers that a vector becomes."""
        return num_inner(self.supports, self.dim)

    def shape(self, index: int) -> tuple[int, int]:
        return self.num_inner // self.token_dim, self.token_dim

    def coordinates(self, index: int, sites: Sequence[int]) -> Coordinates:
        return coordinates(sites, self.shape(index)[0])

    def before(self, index: int) -> Iterator[Transform]:
        """Make what leads from vectors to tokens of standardized numbers."""
        if index == 0:
            yield Supported(self.supports, self.dim)
            yield Standardization(self.num_inner)
            yield Cut(self.token_dim)


class VectorFlow(SupportedFlow):
    """A Transformer autoregressive flow over vectors (arXiv 2412.06329), number by number.

    Args:
        dim: Size of the vectors.
        supports: Where their numbers may lie: one `Support` for all, or one after the other.
        token_dim: How many numbers are one position of the transformers.
        num_transforms: As in a `TarFlow`, and so what follows.
        num_layers: See there.
        model_dim: See there.
        head_dim: See there.
        expansion: See there.
        dropout: See there.
        num_classes: See there.
        scale: See there.
        ordering: In which order each transform reads the numbers.
        layer: See there.
        positions: See there.
        output_norm: See there.
        conditioners: Such as `VectorConditioner(3)`.
        noise: See there.
        class_names: See there.
        conditioned: See there.
        networks: See there.
        first: What the first number depends on: by default a learned start, and the context.
        num_heads: See there.
        hidden_dims: See there.

    Example:
        >>> import torch
        >>> from tarflow import HalfLine, Interval, VectorConditioner
        >>> supports = [Interval(0, 1), HalfLine()]
        >>> told = {"model_dim": 32, "head_dim": 16, "num_layers": 1}
        >>> flow = VectorFlow(2, supports, conditioners=[VectorConditioner(3)], **told)
        >>> x = flow.sample(5, {"vector": torch.randn(5, 3)})
        >>> x.shape, bool((x > 0).all()), flow.log_prob(-x).tolist()
        (torch.Size([5, 2]), True, [-inf, -inf, -inf, -inf, -inf])
    """

    def __init__(
        self,
        dim: int,
        supports: Supports = Real(),
        token_dim: int = 1,
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
        names = [field.name for field in fields(VectorFlowDescription)]
        description = VectorFlowDescription(**{name: given[name] for name in names})
        super().__init__(description.transforms(), description.base(), None, noise, description)
        self.shape = (description.dim,)

    @property
    def example_shape(self) -> tuple[int]:
        return self.shape
