"""What every data set provides, whatever it holds: a fixed split, and how examples are stored."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from torch.utils.data import Dataset

from tarflow.arguments import check_instance
from tarflow.data.loading.augmentation import Augmentation
from tarflow.flows.codec import Codec

Kind = TypeVar("Kind", bound="DividedData")


@dataclass(frozen=True)
class DividedData(ABC):
    """A data set, divided into parts.

    Every part yields `(stored, {"label": 3})`: an example as it is stored, and what it is
    conditioned on, `{}` where that is nothing.

    Attributes:
        name: What the data is, its version and how it was divided: what a reported number names.
        train: Examples to fit.
        validation: Examples to choose by; None when no part was set aside.
        test: Examples to report on, never to choose by.
        codec: How stored examples become numbers, such as `Pixels(256)` for bytes.
        num_classes: Number of classes; 0 for data without labels.
        class_names: A name for each class, where classes have names.
        augment: What training makes of its batches of stored examples, such as `mirror`; nothing
            else that reads the training part, as evaluation does, sees it.

    Raises:
        ConfigurationError: The codec is not a `Codec`.
    """

    noun: ClassVar[str] = "examples"
    """What its examples are called."""

    name: str
    train: Dataset
    validation: Dataset | None
    test: Dataset
    codec: Codec
    num_classes: int
    class_names: tuple[str, ...] = field(default=(), kw_only=True)
    augment: Augmentation | None = field(default=None, kw_only=True)

    def __post_init__(self):
        check_instance("codec", self.codec, Codec, "pass Pixels(256) for images of bytes")

    @classmethod
    def of(cls: type[Kind], name: str, parts: Mapping[str, Any], **others: Any) -> Kind:
        """A data set of the parts `train`, `test` and perhaps `val`; the others as above."""
        train, validation, test = parts["train"], parts.get("val"), parts["test"]
        return cls(name, train=train, validation=validation, test=test, **others)

    @property
    def parts(self) -> dict[str, Any]:
        """The parts that there are, by the names that files give them."""
        parts = {"train": self.train, "val": self.validation, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    @abstractmethod
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of an example as it is stored."""

    @property
    @abstractmethod
    def determined(self) -> dict[str, Any]:
        """The arguments that the data determines for whoever is made for it."""
