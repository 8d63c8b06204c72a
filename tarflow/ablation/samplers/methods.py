"""What is compared: ways to fit a student."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tarflow.ablation.small_flow import SIZES as FLOW
from tarflow.flows.flow import Flow
from tarflow.nn.layers import PreNorm
from tarflow.students.inverse_student import InverseStudent
from tarflow.students.student import Student
from tarflow.students.velocity_student import ShortcutStudent, VelocityStudent
from tarflow.training import (
    DistributionMatching,
    FlowMatching,
    IndependentCoupling,
    InverseRegression,
    Shortcut,
    StudentObjective,
    UniformWeights,
)

SIZES = {
    "patch_size": 2 * FLOW["patch_size"],
    "model_dim": 192,
    "head_dim": 32,
    "layer": PreNorm(),
}
"""Sizes of every student, which attends to all patches at once and need not have the flow's."""
STEPS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Stage:
    """A part of a student's training.

    Attributes:
        objective: The class of the objective.
        options: Its arguments; classes and partial functions are called for the value.
        share: Share of the training time.
        optimizer: Name of the optimizer.
        lr: Its learning rate, at the peak.
    """

    objective: type[StudentObjective]
    options: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0
    optimizer: str = "muon"
    lr: float = 1e-2

    def make(self, student: Student, flow: Flow) -> StudentObjective:
        """The objective of a student and its flow."""
        options: dict[str, Any] = {
            name: value() if isinstance(value, type | partial) else value
            for name, value in self.options.items()
        }
        return self.objective(student, flow, **options)

    @property
    def settings(self) -> dict[str, Any]:
        """All of it, as JSON gives it back."""
        options = {name: _words(value) for name, value in self.options.items()}
        own = {"objective": self.objective.__name__, "options": options, "share": self.share}
        return {**own, "optimizer": self.optimizer, "lr": self.lr}


@dataclass(frozen=True)
class Method:
    """A way to fit a student.

    Attributes:
        name: What it is called in files.
        words: What it is called in tables.
        kind: The class of the student.
        sizes: Its sizes.
        stages: What it is trained by, one after the other.
        steps: Numbers of steps in which its samples are drawn.
        guided: Whether samples are drawn with guidance too, which a stage has to teach.
        needs_flow: Whether it needs a flow at all.
        with_flow: Whether it gets the time that the flow was trained for as well.
        batch_size: Number of images in a batch.
    """

    name: str
    words: str
    kind: type[Student]
    sizes: Mapping[str, Any]
    stages: tuple[Stage, ...]
    steps: tuple[int, ...] = STEPS
    guided: bool = False
    needs_flow: bool = True
    with_flow: bool = False
    batch_size: int = 128

    def make(self, flow: Flow) -> Student:
        """A new student of a flow."""
        return self.kind.of(flow, **{**SIZES, **self.sizes})

    @property
    def settings(self) -> dict[str, Any]:
        """All that its student depends on, as JSON gives it back."""
        return {
            "kind": self.kind.__name__,
            "sizes": {name: _words(size) for name, size in {**SIZES, **self.sizes}.items()},
            "stages": [stage.settings for stage in self.stages],
            "steps": list(self.steps),
            "guided": self.guided,
            "with_flow": self.with_flow,
            "batch_size": self.batch_size,
        }


def _words(value: Any) -> str:
    """An argument in words that stay the same from run to run."""
    if isinstance(value, partial):
        given = ", ".join(f"{name}={each!r}" for name, each in value.keywords.items())
        return f"{value.func.__name__}({given})"
    return value.__name__ if isinstance(value, type) else repr(value)


_INVERSE = Stage(InverseRegression)
_PLAIN = Stage(FlowMatching, {"coupling": IndependentCoupling})
_ONE = {"kind": InverseStudent, "sizes": {"num_layers": 1}, "steps": (1,)}
_MANY = {"kind": VelocityStudent, "sizes": {"num_layers": 6}}

METHODS = {
    method.name: method
    for method in (
        Method("inverse", "learned inverse", stages=(_INVERSE,), **_ONE),
        Method(
            "inverse_guided",
            "learned inverse of many guidance weights",
            stages=(replace(_INVERSE, options={"weights": UniformWeights}),),
            guided=True,
            **_ONE,
        ),
        Method(
            "inverse_score",
            "learned inverse, then the flow's score",
            stages=(
                replace(_INVERSE, share=0.6),
                Stage(DistributionMatching, {"warm_up": 30}, 0.4, "adamw", 3e-4),
            ),
            **_ONE,
        ),
        Method(
            "flow_matching",
            "flow matching, the flow's pairs",
            stages=(Stage(FlowMatching),),
            **_MANY,
        ),
        Method(
            "shortcut",
            "shortcuts, the flow's pairs",
            kind=ShortcutStudent,
            sizes={"num_layers": 6},
            stages=(Stage(Shortcut),),
        ),
        Method(
            "plain",
            "flow matching without a flow",
            stages=(_PLAIN,),
            needs_flow=False,
            **_MANY,
        ),
        Method(
            "plain_longer",
            "the same, with the flow's time as well",
            stages=(_PLAIN,),
            needs_flow=False,
            with_flow=True,
            **_MANY,
        ),
    )
}
"""By name."""
