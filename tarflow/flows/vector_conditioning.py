"""Conditioners of numbers: a vector, one for each position, or some before a sequence."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tarflow.arguments import check_integer, keep
from tarflow.errors import ContextError
from tarflow.flows.conditioning import Conditioner
from tarflow.flows.context import Rows
from tarflow.nn.embedding import NeighbourEmbedding, VectorEmbedding


@dataclass(frozen=True)
class NumbersConditioner(Conditioner, ABC):
    """Vectors of real numbers; one that is NaN throughout is null, and embedded as learned."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """That of the rows of an example."""

    def null(self, examples: Tensor) -> Rows:
        dtype = torch.promote_types(examples.dtype, torch.float32)
        shape = examples.shape[0], *self.shape
        return torch.full(shape, torch.nan, dtype=dtype, device=examples.device)

    def null_like(self, rows: Rows, examples: Tensor) -> Rows:
        return torch.full_like(rows, torch.nan)

    def read(self, rows: Rows) -> Rows:
        if rows.dtype == torch.bool or rows.is_complex():
            raise ContextError(f"{self.part} are real numbers, not {rows.dtype}")
        if rows.shape[1:] != self.shape:
            if self.shape != (1,) or rows.ndim != 1:
                raise ContextError(
                    f"{self.part} has shape {tuple(rows.shape)}: pass one of"
                    f" {('examples', *self.shape)}"
                )
            rows = rows[:, None]
        return rows if rows.is_floating_point() else rows.to(torch.get_default_dtype())

    def check(self, rows: Rows) -> None:
        missing = rows.isnan().all(dim=-1, keepdim=True)
        if not (rows.isfinite() | missing).all():
            raise ContextError(
                f"{self.part} is not finite: pass finite numbers, or vectors of NaN alone for none"
            )


@dataclass(frozen=True)
class VectorConditioner(NumbersConditioner):
    """A vector for each example, which all positions read.

    Attributes:
        size: Number of its numbers.
    """

    size: int
    part: ClassVar[str] = "vector"
    ndim: ClassVar[int] = 1

    def __post_init__(self):
        keep(self, size=check_integer("size", self.size, least=1))

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    def module(self, model_dim: int) -> nn.Module:
        return VectorEmbedding(self.size, model_dim)


@dataclass(frozen=True)
class SeveralConditioner(NumbersConditioner):
    """Several vectors for each example.

    Attributes:
        length: Number of the vectors.
        size: Number of numbers in each.
    """

    length: int
    size: int
    ndim: ClassVar[int] = 2

    def __post_init__(self):
        for name in ("length", "size"):
            keep(self, **{name: check_integer(name, getattr(self, name), least=1)})

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length, self.size)


@dataclass(frozen=True)
class TokenConditioner(SeveralConditioner):
    """A vector for each position, such as the kind of an atom, which moves with the position.

    A value is predicted from those of its own position and of all that are read before it.
    """

    part: ClassVar[str] = "tokens"
    by_position: ClassVar[bool] = True

    def module(self, model_dim: int) -> nn.Module:
        return NeighbourEmbedding(self.size, model_dim)


@dataclass(frozen=True)
class PrefixConditioner(SeveralConditioner):
    """Vectors that stand before a sequence: every position attends to all of them."""

    part: ClassVar[str] = "prefix"

    @property
    def num_prefix(self) -> int:
        return self.length

    def module(self, model_dim: int) -> nn.Module:
        return VectorEmbedding(self.size, model_dim)
