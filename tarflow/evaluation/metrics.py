"""Metrics: what `tarflow evaluate` measures, one class for each kind."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from tarflow.arguments import shown
from tarflow.data import DividedData, ImageData, TableData
from tarflow.errors import ConfigurationError, DataError
from tarflow.evaluation.provenance import software
from tarflow.evaluation.reporting import Report
from tarflow.evaluation.work import InMemory, Work
from tarflow.flows.flow import Flow
from tarflow.flows.noise import Noise
from tarflow.flows.table_columns import TableColumns
from tarflow.registry import Part

PartName = Literal["test", "validation", "train"]
"""The parts of a data set."""

WorkOf = Callable[[str], Work]
"""Where the values of a part of an evaluation are computed and kept, by the part's name."""


@dataclass(frozen=True)
class Metrics(Part, ABC):
    """Maps a flow and data to a report.

    A subclass may lie in any package: `metrics._target_=mypackage.MyMetrics`. What it has `Work`
    compute is kept, shared between processes, and gone on with after a kill.

    Attributes:
        name: The folder of the report.
    """

    name: ClassVar[str]

    def __call__(self, flow: Any, data: DividedData) -> Report:
        """Evaluate a flow in this process alone; raises as `check` and `evaluate` do."""
        self.check(flow)
        report = self.evaluate(flow, data, lambda name: InMemory())
        assert report is not None
        return report

    def check(self, model: Any) -> None:
        """Refuse a model that these metrics cannot measure: by default, one without a density.

        Raises:
            ConfigurationError: It is such a model.
        """
        if not isinstance(model, Flow):
            raise ConfigurationError(
                f"{self.name} needs a density, and a {type(model).__name__} has none: give the"
                " flow that it learned from, or metrics=samples"
            )

    @abstractmethod
    def settings(self, flow: Flow, data: DividedData) -> dict[str, Any]:
        """All that values depend on besides the weights, for JSON: values of others are redone."""

    @abstractmethod
    def evaluate(self, flow: Flow, data: DividedData, work_of: WorkOf) -> Report | None:
        """Evaluate a flow, with other processes perhaps.

        Args:
            flow: What is measured.
            data: What it is measured on.
            work_of: Where values are kept, and who else computes them.

        Returns:
            What was found; None where another process knows.

        Raises:
            DataError: The flow was made for other data.
        """

    def compare(self, report: Report, baseline: Report) -> Report:
        """Compare the report of a flow with that of another; not every kind of metrics can."""
        raise ConfigurationError(f"{type(self).__name__} does not compare two reports")

    @property
    def compares(self) -> bool:
        """Whether `compare` was defined: asked early, since evaluations take hours."""
        return type(self).compare is not Metrics.compare


def check_choice(name: str, value: Any, kind: Any) -> None:
    """Refuse what is not one of the words of a `Literal`."""
    if not isinstance(value, str) or value not in get_args(kind):
        raise ConfigurationError(
            f"{name} {shown(value)} is unknown: choose {', '.join(get_args(kind))}"
        )


def part_of(data: DividedData, split: PartName) -> Any:
    """A part of a data set that holds something.

    Raises:
        DataError: The data has no such part, or nothing in it.
    """
    part: Any = getattr(data, split)
    if part is None:
        raise DataError(f"{data.name} has no {split} part: set data.validation_fraction")
    if not len(part):
        raise DataError(f"the {split} part of {data.name} is empty")
    return part


def settings_of(
    flow: Flow, data: DividedData, split: PartName, noise: Noise | None
) -> dict[str, Any]:
    """What the values of examples with some noise depend on, whatever the metrics are."""
    return {
        "data": data.name,
        "split": split,
        "count": len(part_of(data, split)),
        "codec": flow.codec and flow.codec.words,
        "noise": repr(noise),
        "dtype": str(flow.base.anchor.dtype).removeprefix("torch."),
        "software": software(),
    }


def check_fit(flow: Any, data: DividedData) -> None:
    """Refuse data that a flow, or a student, was not made for.

    Raises:
        DataError: Image shape, codec or number of classes differ, or the flow does not know what
            was done to its data.
    """
    if flow.codec is None or (isinstance(flow, Flow) and flow.noise is None):
        raise DataError(
            "this checkpoint does not name the noise of its training: convert it again"
            " with noise_std=..."
        )
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(data, ImageData) and flow.image_shape is not None:
        encoded = flow.codec.encoded_shape(data.image_shape)
        pairs.append(("image shape", flow.image_shape, encoded))
    elif isinstance(flow.codec, TableColumns) != isinstance(data, TableData):
        pairs.append(("codec", flow.codec.words, data.codec.words))
    pairs += flow.codec.compared(data.codec)
    if flow.num_classes:
        pairs.append(("number of classes", flow.num_classes, data.num_classes))
    if sorted(flow.class_names) == sorted(data.class_names):
        pairs.append(("the order of classes", flow.class_names, data.class_names))
    for what, expected, found in pairs:
        if expected != found:
            raise DataError(
                f"{data.name} has {what} {shown(found)}, but the flow was made for"
                f" {shown(expected)}"
            )
