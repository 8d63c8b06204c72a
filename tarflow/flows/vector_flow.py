"""Flows of vectors: parameters, features, columns of a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_instance, check_integer, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.checkpoint import UNWRITTEN
from tarflow.flows.conditioning import Conditioner
from tarflow.flows.noise import Noise
from tarflow.flows.shapes import Sequences
from tarflow.flows.stack import Stack, coordinates
from tarflow.flows.standardization import ColumnNormalization, Normalization
from tarflow.flows.supported import Supported, Supports, check_supports, num_inner
from tarflow.flows.supported_flow import SupportedFlow
from tarflow.flows.supports import Real
from tarflow.flows.table_columns import TableColumns
from tarflow.flows.transforms import Rearrangement, Transform
from tarflow.nn.positions import Coordinates


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
    normalization: Normalization = ColumnNormalization()
    names: Sequence[str] | None = field(default=None, metadata=UNWRITTEN)

    def __post_init__(self):
        check_instance("normalization", self.normalization, Normalization, "pass Whitening(), say")
        for name in ("dim", "token_dim"):
            keep(self, **{name: check_integer(name, getattr(self, name), least=1)})
        keep(self, supports=check_supports(self.supports))
        if self.num_inner % self.token_dim:
            raise ConfigurationError(
                f"token_dim {self.token_dim} does not divide {self.num_inner}, the number of real"
                " numbers of a vector"
            )
        if self.columns is not None:
            keep(self, names=self.columns.names)
        super().__post_init__()

    @property
    def columns(self) -> TableColumns | None:
        """The columns, where they have names."""
        return None if self.names is None else TableColumns(self.names, self.supports)

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
            yield from self.normalization.transforms(self.num_inner)
            yield Cut(self.token_dim)


class VectorFlow(SupportedFlow):
    """A Transformer autoregressive flow over vectors (arXiv 2412.06329), number by number.

    Args:
        dim: Size of the vectors.
        supports: Where their numbers may lie: one `Support` for all, or one after the other.
        token_dim: How many numbers are one position of the transformers.
        conditioners: Such as `VectorConditioner(3)`.
        normalization: How numbers are normalized first: column by column, or by `Whitening()`.
        names: The name of each number, as of the columns of a table, or None. With names the codec
            is a `TableColumns`, whose `table` makes columns of samples.
        noise: The noise that was added to the data, kept with the model.
        **options: Those of a `TarFlow` from `num_transforms` on, but for the codec, such as
            `model_dim`, `num_classes`, `ordering` and `scale`. By default four transforms
            of two layers, 128 wide, and a start token, so that the first position has a context.

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
        conditioners: Sequence[Conditioner] = (),
        normalization: Normalization = ColumnNormalization(),
        names: Sequence[str] | None = None,
        noise: Noise | None = None,
        **options: Any,
    ):
        given = {"dim": dim, "supports": supports, "token_dim": token_dim, "names": names}
        given |= {"conditioners": conditioners, "normalization": normalization, "noise": noise}
        description = VectorFlowDescription(**given, **options)
        super().__init__(description, (description.dim,), description.columns)
