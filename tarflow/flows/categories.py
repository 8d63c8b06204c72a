"""The support of categories: integers that stand for names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch.distributions import constraints

from tarflow.arguments import keep, shown
from tarflow.errors import ConfigurationError
from tarflow.flows.supports import Integers, Support, Values


@dataclass(frozen=True)
class Categories(Support):
    """Categories, each by its place in a list of names; see `Integers` for its probability.

    Attributes:
        names: The names, which are different.

    Raises:
        ConfigurationError: They are not, or are less than two.
    """

    names: Sequence[str]

    cell: ClassVar[float] = 1.0

    def __post_init__(self):
        keep(self, names=check_names("names", self.names))
        if len(self.names) < 2:
            raise ConfigurationError(f"names {shown(self.names)}: give two or more")

    @property
    def integers(self) -> Integers:
        """The places in the list."""
        return Integers(0, len(self.names) - 1)

    @property
    def constraint(self) -> constraints.Constraint:
        return self.integers.constraint

    @property
    def support(self) -> constraints.Constraint:
        return self.integers.support

    def fold(self, points: Values) -> Values:
        return self.integers.fold(points)


def check_names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """Refuse what is not a list of different names.

    Raises:
        ConfigurationError: It is something else, or one comes twice; tells which.
    """
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    if not listed or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"{what} {shown(names)}: give a list of names")
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"{what} has {shown(twice)} twice: let all be different")
    return tuple(names)
